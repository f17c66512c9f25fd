"""A function applied to blocks of tokens in turn, so that its temporaries stay small."""

from keras import ops

from fwl_keras.ops._shapes import ceil_div, maximum

LOGITS_AT_ONCE = 2**22


def map_blocks(function, arrays, kernel, block_length=None):
    """Apply `function` to blocks of `arrays` along axis 0; stack its outputs, add up its sums.

    Not differentiable by itself: it belongs inside a custom gradient.

    Args:
        function: maps blocks of `arrays` to a tuple of outputs, one row a token, and a tuple of
            sums over the block's tokens.
        arrays: tuple of tensors [n, ...]. Rows of zeros are added to fill the last block; they
            must add zero to the sums, which they do where a factor of every term is an input.
        kernel: tensor [S, V]; V sets the default block length.
        block_length: tokens a block, or None for `LOGITS_AT_ONCE` logits.

    Returns:
        The tuple of outputs [n, ...] and the tuple of sums.
    """
    n = ops.shape(arrays[0])[0]
    length = block_length or max(1, LOGITS_AT_ONCE // kernel.shape[1])
    if not isinstance(n, int):
        # Where shapes are unknown, as in a served model, few tokens do not cost a whole block.
        length = ops.clip(n, 1, length)
    elif n <= length:
        return function(*arrays)

    # A replica of a last batch may have no token at all: its one block is padding.
    count = maximum(1, ceil_div(n, length))
    padded = [_pad(x, count * length - n) for x in arrays]

    def block(i):
        start = i * length
        return function(
            *(
                ops.slice(x, (start,) + (0,) * (len(x.shape) - 1), (length, *x.shape[1:]))
                for x in padded
            )
        )

    outputs, sums = block(0)
    buffers = tuple(_pad(o, (count - 1) * length) for o in outputs)

    def body(i, buffers, sums):
        new, more = block(i)
        start = i * length
        buffers = tuple(
            ops.slice_update(b, (start,) + (0,) * (len(b.shape) - 1), o)
            for b, o in zip(buffers, new, strict=True)
        )
        return i + 1, buffers, tuple(s + m for s, m in zip(sums, more, strict=True))

    _, buffers, sums = ops.while_loop(
        lambda i, *_: i < count, body, (1, buffers, sums), maximum_iterations=count
    )
    return tuple(b[:n] for b in buffers), sums


def _pad(x, missing):
    """Append `missing` rows of zeros to axis 0."""
    return ops.concatenate([x, ops.zeros((missing, *x.shape[1:]), x.dtype)], axis=0)
