"""A function applied to blocks of tokens in turn, so that its temporaries stay small."""

import keras
from keras import ops

from fwl_keras.ops._shapes import ceil_div, maximum


def map_blocks(function, arrays, outputs, sums, block_length):
    """Apply `function` to blocks of `arrays` along axis 0; stack its outputs, add to sums.

    Not differentiable by itself: it belongs inside a custom gradient.

    Args:
        function: maps blocks of `arrays` to a tuple of outputs, one row a token, and a tuple of
            sums over the block's tokens, all float32.
        arrays: tuple of tensors [n, ...]. Rows of zeros are added to fill the last block; they
            must add zero to the sums, which they do where a factor of every term is an input.
        outputs: the outputs' shapes, without n.
        sums: what is added to, one tensor each.
        block_length: tokens a block at most.

    Returns:
        The tuple of outputs [n, ...] and the tuple of sums.
    """
    n = ops.shape(arrays[0])[0]
    if isinstance(n, int) and n <= block_length:
        results, more = function(*arrays)
        return results, tuple(s + m for s, m in zip(sums, more, strict=True))

    # As few blocks as there can be, of one length; none of them, a replica's batch may be empty.
    count = maximum(1, ceil_div(n, block_length))
    length = ceil_div(n, count)
    padded = [_pad(x, count * length - n) for x in arrays]
    buffers = tuple(ops.zeros((count * length, *shape), "float32") for shape in outputs)

    def body(i, buffers, sums):
        start = i * length
        results, more = function(
            *(ops.slice(x, _at(start, x), (length, *x.shape[1:])) for x in padded)
        )
        buffers = tuple(
            ops.slice_update(b, _at(start, b), r) for b, r in zip(buffers, results, strict=True)
        )
        return i + 1, buffers, tuple(s + m for s, m in zip(sums, more, strict=True))

    _, buffers, sums = _one_by_one(body, (0, buffers, tuple(sums)), count)
    return tuple(b[:n] for b in buffers), sums


def _one_by_one(body, state, count):
    """Apply `body` to the state, whose first part counts, as often as that."""
    options = {"maximum_iterations": count}
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Ten at once by default, as far as they need nothing of each other: ten blocks' memory.
        return tf.while_loop(lambda i, *_: i < count, body, state, parallel_iterations=1, **options)
    return ops.while_loop(lambda i, *_: i < count, body, state, **options)


def _at(start, x):
    return (start,) + (0,) * (len(x.shape) - 1)


def _pad(x, missing):
    """Append `missing` rows of zeros to axis 0."""
    return ops.concatenate([x, ops.zeros((missing, *x.shape[1:]), x.dtype)], axis=0)
