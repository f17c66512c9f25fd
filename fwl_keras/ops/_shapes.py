"""Shape arithmetic that works for known and for unknown lengths."""

from keras import ops


def ceil_div(numerator, denominator):
    """Return the smallest integer not below `numerator / denominator`, an int or a tensor."""
    return (numerator + denominator - 1) // denominator


def minimum(a, b):
    """Return the smaller of two lengths: an int when both are, else an integer tensor."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else ops.minimum(a, b)


def maximum(a, b):
    """Return the larger of two lengths: an int when both are, else an integer tensor."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else ops.maximum(a, b)


def split_chunks(x, count, length):
    """Cut [B, T, E] into [B, count, length, E], zeros appended where T falls short."""
    batch, total, width = ops.shape(x)
    missing = count * length - total
    if not (isinstance(missing, int) and missing == 0):
        x = ops.concatenate([x, ops.zeros((batch, missing, width), x.dtype)], axis=1)
    return ops.reshape(x, (batch, count, length, width))


def join_chunks(x, total):
    """Undo `split_chunks`: [B, count, length, E] back to [B, total, E]."""
    batch, count, length, width = ops.shape(x)
    return ops.reshape(x, (batch, count * length, width))[:, :total]


def exclusive_prefix(totals, initial):
    """Sum up everything before each entry of axis 1, starting from `initial` (or zero).

    Args:
        totals: tensor [B, N, ...].
        initial: tensor [B, ...] or None.

    Returns:
        The prefixes [B, N, ...] and the sum over all N, [B, ...].
    """
    first = ops.zeros_like(totals[:, :1]) if initial is None else initial[:, None]
    sums = ops.cumsum(ops.concatenate([first, totals], axis=1), axis=1)
    return sums[:, :-1], sums[:, -1]
