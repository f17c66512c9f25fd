"""A softmax over a few classes and the label itself: no product with the vocabulary.

The exact inner gradient needs the probabilities of all ids. Here the other ids are represented by
a codebook of some hundred vectors, which training learns through the steps.
"""

from keras import ops

from fwl_keras.ops._checks import require_same_leading, require_shapes
from fwl_keras.ops._types import Tensor


def coarse_cross_entropy_gradient(
    features: Tensor,
    target: Tensor,
    target_bias: Tensor,
    codebook: Tensor,
    bias: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the weighted gradient of a coarse cross-entropy with respect to features, and it.

    The classes of a token are the codebook's and its label; their logits are products of the
    features with the codebook and with the target.

    Args:
        features: tensor [..., S].
        target: tensor [..., S], the vector that stands for a token's label.
        target_bias: tensor [...], the label's bias.
        codebook: tensor [K, S].
        bias: tensor [K]: how many ids a class stands for, as a logarithm.
        weights: float32 tensor [...]; where it is 0 the gradient is 0.

    Returns:
        Float32 tensors: the gradient [..., S], and the unweighted loss [...] in nats.

    Raises:
        ValueError: if a shape does not fit.

    Example:
        >>> gradient, loss = coarse_cross_entropy_gradient(
        ...     features, target, np.zeros((2, 10)), codebook, np.zeros(256), np.ones((2, 10)))
    """
    vectors = {"features": (features, "...S"), "target": (target, "...S")}
    require_shapes(**vectors, codebook=(codebook, "KS"), bias=(bias, "K"))
    each = {"target": target[..., 0], "target_bias": target_bias, "weights": weights}
    require_same_leading(features, **each)
    dtype = features.dtype
    codebook, target = ops.cast(codebook, dtype), ops.cast(target, "float32")
    logits = ops.cast(ops.matmul(features, ops.transpose(codebook)), "float32") + bias
    at_label = ops.sum(ops.cast(features, "float32") * target, axis=-1) + target_bias
    shift = ops.stop_gradient(ops.maximum(ops.max(logits, axis=-1), at_label))
    exponentials = ops.exp(logits - shift[..., None])
    label = ops.exp(at_label - shift)
    total = ops.sum(exponentials, axis=-1) + label
    expected = ops.matmul(ops.cast(exponentials / total[..., None], dtype), codebook)
    missing = 1.0 - label / total
    gradient = ops.cast(expected, "float32") - missing[..., None] * target
    active = ops.not_equal(weights, 0)[..., None]
    gradient = ops.where(active, weights[..., None] * gradient, 0.0)
    return gradient, ops.log(total) + shift - at_label
