"""Every so many tokens of a row, wherever it is in its segment."""

from keras import ops

from fwl_keras.ops._shapes import ceil_div
from fwl_keras.ops._types import Tensor


def places_of_every(period: int, position: Tensor, length: int | Tensor) -> tuple[Tensor, Tensor]:
    """Find every `period`-th token of a segment, the first of them at `period - 1`.

    Args:
        period: positive int E.
        position: int32 tensor [B], tokens of the segment before these.
        length: P, tokens that are read.

    Returns:
        An int32 tensor [B, ceil(P / E)] of indices into P, and a bool tensor of the same shape,
        which of them are such tokens.

    Example:
        >>> places_of_every(4, np.array([0, 2]), 8)[0]
        [[3, 7], [1, 5]]
    """
    first = (period - 1 - position) % period
    count = ceil_div(length, period)
    places = first[:, None] + period * ops.arange(count, dtype="int32")
    return ops.minimum(places, length - 1), places < length
