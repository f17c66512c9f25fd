"""Labels and loss weights from token ids."""

from keras import ops

from fwl_keras.ops._checks import require_integers
from fwl_keras.ops._types import Tensor

# The label of a position that is to predict nothing: neither in a sum nor in a count.
IGNORE = -100


def next_token_targets(
    token_ids: Tensor, padding_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return labels shifted by one, and the weights of the positions that have one.

    For calls whose state is thrown away. In a stream, the last token of a piece must not be passed
    with a label before its label is known: it would be counted twice.

    Args:
        token_ids: int tensor [B, T].
        padding_mask: bool or numeric tensor [B, T], nonzero where a token exists; None: all do.

    Returns:
        Labels, int32 [B, T], labels[:, t] = token_ids[:, t + 1], the last one 0; and weights,
        float32 [B, T], padding_mask[:, t] * padding_mask[:, t + 1], the last one 0.

    Example:
        >>> labels, weights = next_token_targets(np.array([[5, 7, 9]]))
        >>> labels, weights
        ([[7, 9, 0]], [[1.0, 1.0, 0.0]])
    """
    token_ids = ops.convert_to_tensor(token_ids)
    if len(token_ids.shape) != 2:
        raise ValueError(
            f"`token_ids` must have shape [batch, length]; received shape {tuple(token_ids.shape)}."
        )
    require_integers(token_ids=token_ids)
    labels = _shift(ops.cast(token_ids, "int32"))
    exists = ops.ones_like(labels) if padding_mask is None else ops.not_equal(padding_mask, 0)
    exists = ops.cast(exists, "float32")
    if tuple(exists.shape) != tuple(token_ids.shape):
        raise ValueError(
            f"`padding_mask` must have the shape of `token_ids`, {tuple(token_ids.shape)}; "
            f"received shape {tuple(exists.shape)}."
        )
    return labels, exists * _shift(exists)


def _shift(x):
    return ops.concatenate([x[:, 1:], ops.zeros_like(x[:, :1])], axis=1)
