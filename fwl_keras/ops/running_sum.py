"""The exclusive running sum: linear attention's little sister, for biases and layer norms.

output_t = initial_state + sum_{s<t} value_s: docs/mathematics.md, (14).
"""

from keras import ops

from fwl_keras.ops._checks import require_length, require_shapes
from fwl_keras.ops._shapes import (
    ceil_div,
    exclusive_prefix,
    join_chunks,
    minimum,
    split_chunks,
)
from fwl_keras.ops._types import Tensor


def running_sum(
    value: Tensor, initial_state: Tensor | None = None, chunk_length: int = 128
) -> tuple[Tensor, Tensor]:
    """Sum up what came before in the form that fits the length: step or chunks.

    Args:
        value: tensor [B, T, V].
        initial_state: tensor [B, V], the sum carried in, or None for zeros.
        chunk_length: tokens a chunk, used where T is not 1.

    Returns:
        Outputs [B, T, V] and the final sum [B, V], which includes the last token.

    Raises:
        ValueError: if a shape does not fit, or `chunk_length` is not positive.

    Example:
        >>> before, total = running_sum(np.ones((2, 10, 3), "float32"))
    """
    require_shapes(value=(value, "BTV"), initial_state=(initial_state, "BV"))
    require_length("chunk_length", chunk_length)
    if value.shape[1] == 1:
        output, state = running_sum_step(value[:, 0], initial_state)
        return output[:, None], state
    return running_sum_chunked(value, initial_state, chunk_length)


def running_sum_step(value: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the sum [B, V] before this token's value [B, V], and the sum with it.

    Example:
        >>> before, total = running_sum_step(value[:, 0], total)
    """
    require_shapes(value=(value, "BV"), state=(state, "BV"))
    if state is None:
        return ops.zeros_like(value), value
    return state, state + value


def running_sum_recurrent(
    value: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum up token by token, the definition; T must be known. Arguments and results as above.

    Example:
        >>> before, total = running_sum_recurrent(value)
    """
    require_shapes(value=(value, "BTV"), initial_state=(initial_state, "BV"))
    state = initial_state
    outputs = []
    for t in range(value.shape[1]):
        output, state = running_sum_step(value[:, t], state)
        outputs.append(output)
    return ops.stack(outputs, axis=1), state


def running_sum_chunked(
    value: Tensor, initial_state: Tensor | None = None, chunk_length: int = 128
) -> tuple[Tensor, Tensor]:
    """Sum up in parallel: a running sum inside each chunk and one across the chunks' totals.

    Two levels keep rounding errors those of a chunk's length, not of the text's.

    Args:
        value: tensor [B, T, V]; B and T may be unknown.
        initial_state: tensor [B, V], the sum carried in, or None for zeros.
        chunk_length: positive int or integer tensor; need not divide T.

    Returns:
        Outputs [B, T, V] and the final sum [B, V], which includes the last token.

    Raises:
        ValueError: if a shape does not fit, or `chunk_length` is not positive.

    Example:
        >>> before, total = running_sum_chunked(value, chunk_length=5)
    """
    require_shapes(value=(value, "BTV"), initial_state=(initial_state, "BV"))
    require_length("chunk_length", chunk_length)
    total = ops.shape(value)[1]
    length = minimum(chunk_length, total)
    count = ceil_div(total, length)
    if isinstance(count, int) and count == 1:
        inside, final_state = exclusive_prefix(value, None)
        if initial_state is None:
            return inside, final_state
        return inside + initial_state[:, None], final_state + initial_state
    chunks = split_chunks(value, count, length)
    sums = ops.cumsum(chunks, axis=2)
    states, final_state = exclusive_prefix(sums[:, :, -1], initial_state)
    inside = ops.concatenate([ops.zeros_like(sums[:, :, :1]), sums[:, :, :-1]], axis=2)
    return join_chunks(inside + states[:, :, None], total), final_state
