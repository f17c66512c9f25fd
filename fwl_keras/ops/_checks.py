"""What operators ask of their arguments, as far as it is known before anything is computed."""

import keras
import numpy as np
from keras import ops

from fwl_keras._arguments import require_count


def require_shapes(**arguments) -> None:
    """Raise a ValueError unless shapes fit together.

    Args:
        **arguments: name = (tensor or None, letters): a letter for each axis, equal letters for
            equal sizes; letters after `"..."` are the last axes.
    """
    sizes = {}
    for name, (tensor, letters) in arguments.items():
        shape = None if tensor is None else _shape(tensor)
        if shape is None:
            continue
        axes = letters.removeprefix("...")
        fits = len(shape) >= len(axes) if letters.startswith("...") else len(shape) == len(axes)
        known = zip(axes, shape[len(shape) - len(axes) :], strict=True) if fits else ()
        for letter, size in known:
            fits = fits and (size is None or sizes.setdefault(letter, size) == size)
        if not fits:
            expected = ", ".join([*["..."][: letters.startswith("...")], *axes])
            given = ", ".join(f"{a} = {sizes[a]}" for a in axes if a in sizes)
            raise ValueError(
                f"`{name}` must have shape [{expected}]{' with ' if given else ''}{given}; "
                f"received shape {shape}."
            )


def require_same_leading(features, **arguments) -> None:
    """Raise a ValueError unless tensors have the shape of `features` without its last axis."""
    expected = _shape(features)
    for name, tensor in arguments.items():
        shape = _shape(tensor)
        if expected is None or shape is None:
            continue
        fits = len(shape) == len(expected) - 1 and all(
            a is None or b is None or a == b for a, b in zip(shape, expected, strict=False)
        )
        if not fits:
            raise ValueError(
                f"`{name}` must have shape {expected[:-1]}, that of `features` without the last "
                f"axis; received shape {shape}."
            )


def require_integers(**arguments) -> None:
    """Raise a ValueError unless tensors have integer dtypes."""
    for name, tensor in arguments.items():
        dtype = getattr(tensor, "dtype", None)
        dtype = np.asarray(tensor).dtype.name if dtype is None else dtype
        dtype = keras.backend.standardize_dtype(dtype)
        if "int" not in dtype:
            raise ValueError(f"`{name}` must be integers; received dtype {dtype}.")


def require_length(name: str, value) -> None:
    """Raise a ValueError unless `value` is a positive whole number, or a tensor, as in a graph."""
    if not ops.is_tensor(value):
        require_count(name, value)


def _shape(tensor):
    """Return the shape as a tuple, unknown sizes None; None where the rank is not known."""
    shape = getattr(tensor, "shape", None)
    shape = np.shape(tensor) if shape is None else shape
    return None if getattr(shape, "rank", 0) is None else tuple(shape)
