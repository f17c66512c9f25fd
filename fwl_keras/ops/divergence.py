"""Fast weights that blow up are noticed: they predict worse than the weights they began from."""

import numpy as np
from keras import ops

from fwl_keras.ops._shapes import ceil_div
from fwl_keras.ops._types import Tensor

# Nats per token that fast weights may be worse by over a segment. Texts on which adaptation does
# not help cost a tenth of that.
LIMIT = 1.0
# The trained weights' losses are one more product with the vocabulary: of every fourth token.
_STRIDE = 4
# Nats on the tokens that were looked at, below which a few improbable tokens decide nothing.
_EVIDENCE = 16.0
_FEWEST_TOKENS = 64


def looked_at(x: Tensor) -> Tensor:
    """Return the tokens [B, T, ...] of which the trained weights' losses are computed."""
    return x[:, ::_STRIDE]


def diverged_rows(losses: Tensor, trained: Tensor, counted: Tensor, segment_length: int) -> Tensor:
    """Return rows in which a segment was predicted worse by more than `LIMIT` nats per token.

    Segments are counted from the first of these tokens: docs/mathematics.md, (25).

    Args:
        losses: float32 tensor [B, N] in nats, of the adapted weights for the tokens of
            `looked_at`. One that is not finite counts as infinite.
        trained: float32 tensor [B, N], of the trained weights.
        counted: bool tensor [B, N], where there is a loss.
        segment_length: tokens a segment.

    Returns:
        A bool tensor [B].
    """
    length = max(segment_length, _FEWEST_TOKENS) // _STRIDE
    excess = ops.where(ops.isfinite(losses), losses, np.inf) - trained
    excess = ops.where(counted, excess, 0.0)
    batch, total = ops.shape(losses)[0], ops.shape(losses)[1]
    count = ceil_div(total, length)

    def by_segment(x):
        missing = ops.zeros((batch, count * length - total), "float32")
        x = ops.concatenate([ops.cast(x, "float32"), missing], axis=1)
        return ops.sum(ops.reshape(x, (batch, count, length)), axis=2)

    limit = ops.maximum(LIMIT * by_segment(counted), _EVIDENCE)
    return ops.any(by_segment(excess) > limit, axis=1)
