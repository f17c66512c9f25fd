"""Strictly causal, unnormalised linear attention: the sum of a layer's past gradient updates.

    output_t = query_t @ state_t,    state_t = initial_state + sum_{s<t} outer(key_s, value_s)

The recurrent form is the definition, the chunked form is the parallel one, the step serves one
token at a time: docs/mathematics.md, (11) to (13). All three compute in the dtype of their
arguments; fast weights pass float32.
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


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    initial_state: Tensor | None = None,
    chunk_length: int = 128,
) -> tuple[Tensor, Tensor]:
    """Attend, strictly causally and linearly, in the form that fits the length: step or chunks.

    Args:
        query: tensor [B, T, K].
        key: tensor [B, T, K].
        value: tensor [B, T, V].
        initial_state: tensor [B, K, V], the sum carried in, or None for zeros.
        chunk_length: tokens a chunk, used where T is not 1.

    Returns:
        Outputs [B, T, V] and the final state [B, K, V], which includes the last token.

    Raises:
        ValueError: if a shape does not fit, or `chunk_length` is not positive.

    Example:
        >>> query = key = np.ones((2, 10, 4), "float32")
        >>> output, state = linear_attention(query, key, np.ones((2, 10, 3), "float32"))
    """
    _check(query, key, value, initial_state)
    require_length("chunk_length", chunk_length)
    if query.shape[1] == 1:
        output, state = linear_attention_step(query[:, 0], key[:, 0], value[:, 0], initial_state)
        return output[:, None], state
    return linear_attention_chunked(query, key, value, initial_state, chunk_length)


def linear_attention_step(
    query: Tensor, key: Tensor, value: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Read the state with one token's query, then add the token's own update.

    Args:
        query: tensor [B, K].
        key: tensor [B, K].
        value: tensor [B, V].
        state: tensor [B, K, V] or None for zeros.

    Returns:
        Output [B, V], which does not see this token's update, and the new state [B, K, V].

    Raises:
        ValueError: if a shape does not fit.

    Example:
        >>> output, state = linear_attention_step(query[:, 0], key[:, 0], value[:, 0], state)
    """
    require_shapes(query=(query, "BK"), key=(key, "BK"), value=(value, "BV"), state=(state, "BKV"))
    update = ops.einsum("bk,bv->bkv", key, value)
    if state is None:
        return ops.zeros_like(value), update
    return ops.einsum("bk,bkv->bv", query, state), state + update


def linear_attention_recurrent(
    query: Tensor, key: Tensor, value: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attend token by token, the definition; T must be known. Arguments and results as above.

    Example:
        >>> output, state = linear_attention_recurrent(query, key, value)
    """
    _check(query, key, value, initial_state)
    state = initial_state
    outputs = []
    for t in range(query.shape[1]):
        output, state = linear_attention_step(query[:, t], key[:, t], value[:, t], state)
        outputs.append(output)
    return ops.stack(outputs, axis=1), state


def linear_attention_chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    initial_state: Tensor | None = None,
    chunk_length: int = 128,
) -> tuple[Tensor, Tensor]:
    """Attend in parallel: quadratic inside a chunk, one sum of outer products across chunks, (13).

    Args:
        query: tensor [B, T, K]; B and T may be unknown.
        key: tensor [B, T, K].
        value: tensor [B, T, V].
        initial_state: tensor [B, K, V], the sum carried in, or None for zeros.
        chunk_length: positive int or integer tensor; need not divide T.

    Returns:
        Outputs [B, T, V] and the final state [B, K, V], which includes the last token.

    Raises:
        ValueError: if a shape does not fit, or `chunk_length` is not positive.

    Example:
        >>> output, state = linear_attention_chunked(query, key, value, chunk_length=5)
    """
    _check(query, key, value, initial_state)
    require_length("chunk_length", chunk_length)
    total = ops.shape(query)[1]
    length = minimum(chunk_length, total)
    count = ceil_div(total, length)
    if isinstance(count, int) and count == 1:
        output, update = _inside_chunk(query, key, value)
        if initial_state is None:
            return output, update
        return output + ops.matmul(query, initial_state), initial_state + update
    query, key, value = (split_chunks(x, count, length) for x in (query, key, value))
    output, updates = _inside_chunk(query, key, value)
    states, final_state = exclusive_prefix(updates, initial_state)
    return join_chunks(output + ops.matmul(query, states), total), final_state


def _inside_chunk(query, key, value):
    """Attend from zero inside chunks [..., C, K]; return the outputs and the sums [..., K, V]."""
    turned = ops.swapaxes(key, -2, -1)
    steps = ops.arange(ops.shape(query)[-2])
    scores = ops.matmul(query, turned)
    # `where`, not a product with the mask: a query that is not finite stays in its own row.
    scores = ops.where(steps[:, None] > steps, scores, 0)
    return ops.matmul(scores, value), ops.matmul(turned, value)


def _check(query, key, value, initial_state):
    require_shapes(
        query=(query, "BTK"),
        key=(key, "BTK"),
        value=(value, "BTV"),
        initial_state=(initial_state, "BKV"),
    )
