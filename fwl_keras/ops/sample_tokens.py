"""Choosing the next token from its distribution."""

from keras import ops

from fwl_keras._arguments import require_count, require_not_negative, require_positive
from fwl_keras.ops._checks import require_shapes
from fwl_keras.ops._types import Tensor


def sample_tokens(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    most: int | None = None,
) -> Tensor:
    """Draw one token a row: the inverse of the cumulative distribution, likeliest token first.

    The kept tokens are those of KerasHub's samplers: first the `top_k` likeliest, of these the
    likeliest while those before them have no more than `top_p` of all probability.

    Args:
        logits: float tensor [B, V].
        uniform: float32 tensor [B] in [0, 1).
        temperature: number or tensor [B]; 0 takes the likeliest token.
        top_k: at least 1, number or int tensor [B]; None or more than V for no limit.
        top_p: above 0, number or tensor [B]; None for no limit.
        most: tokens that are kept at most in any row, where that is known; spares a full sort.

    Returns:
        An int32 tensor [B].

    Raises:
        ValueError: if a shape does not fit, or a number is out of its range.

    Example:
        >>> sample_tokens(ops.array([[0.0, 3.0]]), ops.array([0.5]), temperature=0.0)
        [1]
    """
    require_shapes(logits=(logits, "BV"), uniform=(uniform, "B"))
    limits = (
        ("temperature", temperature, require_not_negative),
        ("top_k", top_k, require_count),
        ("top_p", top_p, require_positive),
        ("most", most, require_count),
    )
    for name, value, require in limits:
        # A tensor's numbers need not be known yet.
        if value is not None and not hasattr(value, "shape"):
            require(name, value)
    logits = ops.cast(logits, "float32")
    vocab_size = logits.shape[-1]
    most = vocab_size if most is None else min(most, vocab_size)
    temperature = _column(temperature, "float32")
    greedy = ops.equal(temperature, 0.0)
    # However small the temperature: quotients may overflow at the lower end only.
    logits = logits - ops.max(logits, axis=-1, keepdims=True)
    probabilities = ops.softmax(logits / ops.where(greedy, 1.0, temperature))
    sorted_probabilities, tokens = ops.top_k(probabilities, k=most)
    rank = ops.arange(most, dtype="int32")[None]
    kept = ops.ones_like(rank, "bool")
    if top_k is not None:
        kept = ops.logical_and(kept, rank < _column(top_k, "int32"))
    if top_p is not None:
        before = ops.cumsum(sorted_probabilities, axis=-1) - sorted_probabilities
        kept = ops.logical_and(kept, before <= _column(top_p, "float32"))
    kept = ops.logical_and(kept, ops.logical_not(greedy))
    # The likeliest token always stays, even where a sum was rounded.
    kept = ops.logical_or(kept, ops.equal(rank, 0))
    cumulative = ops.cumsum(
        ops.where(kept, sorted_probabilities, ops.zeros_like(sorted_probabilities)), axis=-1
    )
    threshold = uniform[:, None] * cumulative[:, -1:]
    chosen = ops.sum(ops.cast(cumulative <= threshold, "int32"), axis=-1, keepdims=True)
    # Where rounding carries the threshold to the very end, the last token with any probability.
    last = ops.sum(ops.cast(cumulative < cumulative[:, -1:], "int32"), axis=-1, keepdims=True)
    chosen = ops.minimum(chosen, last)
    return ops.cast(ops.take_along_axis(tokens, chosen, axis=-1)[:, 0], "int32")


def _column(value, dtype):
    """Return a number or a tensor [B] so that it broadcasts to [B, V]."""
    value = ops.cast(value, dtype)
    return value[:, None] if len(value.shape) == 1 else value
