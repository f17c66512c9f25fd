"""What arrives at the block's door: checked where values are known, made safe where not."""

import keras
import numpy as np
from keras import ops

from fwl_keras.ops.targets import IGNORE

BACKENDS = ("tensorflow", "jax")


def require_backend() -> None:
    """Raise a ValueError on a backend that fast weights do not run on."""
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(
            f"fwl_keras runs on the backends {' and '.join(BACKENDS)}; Keras uses {backend!r}. Set "
            'the environment variable KERAS_BACKEND, or "backend" in ~/.keras/keras.json, to one '
            "of them before Keras is imported."
        )


def concrete(x):
    """Return `x` as a NumPy array where its values are known now, None inside a traced function."""
    if x is None or isinstance(x, keras.KerasTensor):
        return None
    if keras.backend.backend() == "tensorflow" and not hasattr(x, "numpy"):
        return None
    try:
        return ops.convert_to_numpy(x)
    except Exception as error:
        # JAX's tracers refuse with an error of JAX's own class, which may not be installed here.
        if type(error).__module__.startswith("jax"):
            return None
        raise


def check_features(x) -> None:
    """Raise a ValueError unless `x` is [B, T, D] with T > 0."""
    if len(x.shape) != 3:
        raise ValueError(
            f"`x` must have shape [batch, length, width]; received shape {tuple(x.shape)}."
        )
    if x.shape[1] == 0:
        raise ValueError(
            f"`x` is an empty sequence, shape {tuple(x.shape)}; a call needs at least one token."
        )


def check_matches(name: str, value, x, rank: int = 2) -> None:
    """Raise a ValueError unless `value` has the leading `rank` dimensions of `x`."""
    shape, expected = tuple(value.shape), tuple(x.shape)[:rank]
    fits = len(shape) == rank and all(
        a is None or b is None or a == b for a, b in zip(shape, expected, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`{name}` must have shape {list(expected)} to match `x`; received shape {list(shape)}."
        )


def integer_labels(labels, x, vocab_size: int):
    """Return labels as integer ids [B, T]: ids as they are, one-hot rows by their position.

    Rows that are not one-hot become -1, to be dropped or refused like any id outside [0, V).
    """
    if len(labels.shape) == 3:
        check_matches("labels", labels[..., 0], x)
        if labels.shape[-1] not in (None, vocab_size):
            raise ValueError(
                f"One-hot `labels` must have vocab_size={vocab_size} entries a token; received "
                f"shape {tuple(labels.shape)}."
            )
        ones, zeros = ops.equal(labels, 1), ops.equal(labels, 0)
        one_hot = ops.logical_and(
            ops.all(ops.logical_or(ones, zeros), axis=-1),
            ops.equal(ops.sum(ops.cast(ones, "int32"), axis=-1), 1),
        )
        return ops.where(one_hot, ops.cast(ops.argmax(ones, axis=-1), "int32"), -1)
    check_matches("labels", labels, x)
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if "int" not in dtype:
        raise ValueError(
            f"`labels` must be integer ids (or one-hot of rank 3); received dtype {dtype}. "
            "Cast them to int32."
        )
    # Narrow types could not be compared with V; wide ones must be, before they are narrowed.
    if dtype in ("int32", "int64"):
        return ops.convert_to_tensor(labels)
    return ops.cast(labels, "int64" if dtype in ("uint32", "uint64") else "int32")


def clean_targets(labels, weights, exists, vocab_size: int):
    """Decide, once, what the block does with labels and weights.

    A label is an id in [0, V), or `IGNORE` (-100) for a position that is to predict nothing: it
    takes no step, and has no loss. Any other number is a mistake. It is refused where values are
    known; in a graph, where nothing can be raised, it stays outside [0, V), and whatever is
    computed from it is NaN.

    Args:
        labels: int tensor [B, T] from `integer_labels`; neither checked nor used where the
            position does not exist, not checked where its weight is 0.
        weights: float tensor [B, T] or None for ones.
        exists: bool tensor [B, T] or None.
        vocab_size: number of ids V.

    Returns:
        Labels [B, T] int32, in [0, V) or -1 where they are a mistake; weights [B, T] float32, 0
        where no step is taken; and the bool tensor [B, T] of positions that have a loss.

    Raises:
        ValueError: if a label is a mistake or a weight is not finite; eagerly only.
    """
    weights = ops.ones_like(labels, "float32") if weights is None else ops.cast(weights, "float32")
    ignored = ops.equal(labels, IGNORE)
    if exists is not None:
        ignored = ops.logical_or(ignored, ops.logical_not(exists))
    weights = ops.where(ignored, ops.zeros_like(weights), weights)
    values = concrete(weights)
    if values is not None and not np.isfinite(values).all():
        raise ValueError(
            "`weights` must be finite; received NaN or infinity. Use 0 where no step is taken."
        )
    ids = concrete(labels)
    if ids is not None and values is not None:
        used = ids[values != 0]
        if used.size and (used.min() < 0 or used.max() >= vocab_size):
            bad = used[(used < 0) | (used >= vocab_size)][0]
            raise ValueError(
                f"`labels` must lie in [0, {vocab_size}), or be {IGNORE} where there is nothing to "
                f"predict; received {bad}. Give such tokens weight 0, or use a block with a larger "
                "`vocab_size`."
            )
    known = ops.logical_and(labels >= 0, labels < vocab_size)
    weighted = ops.not_equal(weights, 0)
    labels = ops.where(known, labels, ops.where(weighted, -1, 0))
    has_loss = ops.logical_or(weighted, ops.logical_and(known, ops.logical_not(ignored)))
    return ops.cast(labels, "int32"), weights, has_loss


def check_state(state, spec: dict, segment_length) -> None:
    """Raise a ValueError unless `state` has the names and shapes of `spec`, and a sane position.

    Args:
        state: what was given.
        spec: dict of tensors as `FastState.spec` returns it.
        segment_length: tokens a segment, or None.
    """
    if not isinstance(state, dict) or set(state) != set(spec):
        received = sorted(state) if isinstance(state, dict) else type(state).__name__
        raise ValueError(
            f"`state` must be a dict with the keys {sorted(spec)} (see initial_state); received "
            f"{received}."
        )
    for name, expected in spec.items():
        shape, received = tuple(expected.shape), tuple(state[name].shape)
        fits = len(received) == len(shape) and all(
            a is None or b is None or a == b for a, b in zip(received, shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"`state[{name!r}]` must have shape {list(shape)}; received {list(received)}. "
                "Use initial_state(batch_size) with this call's batch size."
            )
    dtype = keras.backend.standardize_dtype(state["position"].dtype)
    if "int" not in dtype:
        raise ValueError(f"`state['position']` must be of an integer dtype; received {dtype}.")
    position = concrete(state["position"])
    if position is not None:
        limit = 1 if segment_length is None else segment_length
        if position.size and (position.min() < 0 or position.max() >= limit):
            raise ValueError(
                f"`state['position']` must lie in [0, {limit}); received {position.tolist()}."
            )
