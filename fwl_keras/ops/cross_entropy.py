"""Softmax cross-entropy from the features before the unembedding, in blocks of tokens.

A language model's logits [tokens, V] are by far its largest tensor. Here they exist for one block
of tokens at a time, in the forward pass and again in the backward pass; labels stay integers.

With z = features @ kernel + bias, p = softmax(z) and l = -log p[label]:

    nll       = l
    gradient  = dl/dfeatures, weighted: weights * (p @ kernel^T - kernel[:, label])

Both are differentiable once (the second is itself a gradient: DESIGN "second order").
"""

from keras import ops

from fwl_keras.ops._blocks import map_blocks
from fwl_keras.ops._types import Tensor


def cross_entropy(
    features: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    block_length: int | None = None,
) -> Tensor:
    """Negative log-likelihood of integer labels, in nats.

    Args:
        features: tensor [..., S]; logits are computed in this dtype, all else in float32.
        kernel: plain tensor [S, V] (not a variable).
        bias: plain tensor [V], or None.
        labels: int tensor [...], ids in [0, V).
        block_length: tokens whose logits exist at once; None: about 4 million logits.

    Returns:
        float32 tensor [...].
    """
    shape, (features, labels) = _flatten(features, labels)

    @ops.custom_gradient
    def apply(features, kernel, bias):
        def block(features, labels):
            logits, shift, _, total = _softmax(features, kernel, bias)
            norm = ops.log(total) + shift
            return (norm - _pick(logits, labels), norm), ()

        (nll, norm), _ = map_blocks(block, (features, labels), kernel, block_length)

        def grad(upstream):
            def backward(features, upstream, norm):
                logits = _logits(features, kernel, bias)
                slope = ops.exp(logits - norm[:, None]) * upstream[:, None]
                return (_back(slope, kernel),), _kernel_gradient(features, slope)

            arrays = (features, upstream, norm)
            (d_features,), sums = map_blocks(backward, arrays, kernel, block_length)
            d_features = d_features - upstream[:, None] * _columns(kernel, labels)
            pairs = [(upstream[:, None], features)]
            return _gradients(features, kernel, bias, labels, d_features, sums, pairs, upstream)

        return nll, grad

    return ops.reshape(apply(features, kernel, _bias_or_zeros(bias, kernel)), shape)


def cross_entropy_gradient(
    features: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    weights: Tensor,
    block_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of the weighted cross-entropy with respect to the features, and the loss itself.

    Args:
        features: tensor [..., S]; logits are computed in this dtype, all else in float32.
        kernel: plain tensor [S, V] (not a variable).
        bias: plain tensor [V], or None.
        labels: int tensor [...], ids in [0, V).
        weights: float32 tensor [...]; where it is 0 the gradient is 0, whatever the features
            hold, and nothing flows back to features or weights.
        block_length: tokens whose logits exist at once; None: about 4 million logits.

    Returns:
        float32 tensors: the gradient [..., S], and the unweighted negative log-likelihood [...].
    """
    shape, (features, labels, weights) = _flatten(features, labels, weights)

    @ops.custom_gradient
    def apply(features, kernel, bias, weights):
        active = ops.not_equal(weights, 0)[:, None]
        columns = _columns(kernel, labels)

        def block(features, labels):
            logits, shift, exponentials, total = _softmax(features, kernel, bias)
            norm = ops.log(total) + shift
            expected = _back(exponentials, kernel) / total[:, None]
            return (expected, norm - _pick(logits, labels), norm), ()

        (expected, nll, norm), _ = map_blocks(block, (features, labels), kernel, block_length)
        gradient = weights[:, None] * (expected - columns)
        gradient = ops.where(active, gradient, ops.zeros_like(gradient))

        def grad(*upstream):
            # TensorFlow passes one argument per output, JAX one tuple of them.
            d_gradient, d_nll = upstream if len(upstream) == 2 else upstream[0]
            d_gradient = ops.where(active, d_gradient, ops.zeros_like(d_gradient))

            def backward(features, d_gradient, weights, d_nll, norm):
                logits = _logits(features, kernel, bias)
                p = ops.exp(logits - norm[:, None])
                along = ops.matmul(d_gradient, ops.cast(kernel, "float32"))
                mean = ops.sum(p * along, axis=-1)
                slope = p * (weights[:, None] * (along - mean[:, None]) + d_nll[:, None])
                # Both contributions to the kernel in one matrix product.
                left = ops.concatenate([ops.cast(features, "float32"), d_gradient], axis=0)
                right = ops.concatenate([slope, weights[:, None] * p], axis=0)
                sums = (ops.einsum("ns,nv->sv", left, right), ops.sum(slope, axis=0))
                return (_back(slope, kernel), mean), sums

            arrays = (features, d_gradient, weights, d_nll, norm)
            (d_features, mean), sums = map_blocks(backward, arrays, kernel, block_length)
            d_features = d_features - d_nll[:, None] * columns
            d_weights = mean - ops.sum(d_gradient * columns, axis=-1)
            pairs = [(d_nll[:, None], features), (weights[:, None], d_gradient)]
            grads = _gradients(features, kernel, bias, labels, d_features, sums, pairs, d_nll)
            return (*grads, ops.where(active[:, 0], d_weights, ops.zeros_like(d_weights)))

        return (gradient, nll), grad

    gradient, nll = apply(features, kernel, _bias_or_zeros(bias, kernel), weights)
    return ops.reshape(gradient, (*shape, ops.shape(gradient)[-1])), ops.reshape(nll, shape)


def _flatten(features, *arrays):
    """Leading shape, and the arguments with one leading dimension of tokens."""
    shape = ops.shape(features)[:-1]
    flat = [ops.reshape(features, (-1, features.shape[-1]))]
    return shape, flat + [ops.reshape(x, (-1,)) for x in arrays]


def _bias_or_zeros(bias, kernel):
    return ops.zeros((kernel.shape[1],), "float32") if bias is None else bias


def _logits(features, kernel, bias):
    logits = ops.matmul(features, ops.cast(kernel, features.dtype))
    return ops.cast(logits, "float32") + ops.cast(bias, "float32")


def _softmax(features, kernel, bias):
    """Logits [n, V], their maximum [n], the shifted exponentials [n, V] and their sum [n]."""
    logits = _logits(features, kernel, bias)
    shift = ops.max(logits, axis=-1)
    exponentials = ops.exp(logits - shift[:, None])
    return logits, shift, exponentials, ops.sum(exponentials, axis=-1)


def _pick(logits, labels):
    return ops.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def _columns(kernel, labels):
    """The kernel's column of each label, [n, S] float32."""
    return ops.cast(ops.transpose(ops.take(kernel, labels, axis=1)), "float32")


def _back(slope, kernel):
    return ops.einsum("nv,sv->ns", slope, ops.cast(kernel, "float32"))


def _kernel_gradient(features, slope):
    left = ops.cast(features, "float32")
    return ops.einsum("ns,nv->sv", left, slope), ops.sum(slope, axis=0)


def _gradients(features, kernel, bias, labels, d_features, sums, pairs, d_nll):
    """Gradients for features, kernel and bias in their dtypes, the labels' share taken off."""
    size = kernel.shape[1]
    at_labels = sum(scale * ops.cast(x, "float32") for scale, x in pairs)
    d_kernel = sums[0] - ops.transpose(ops.segment_sum(at_labels, labels, num_segments=size))
    d_bias = sums[1] - ops.segment_sum(d_nll, labels, num_segments=size)
    results = zip((d_features, d_kernel, d_bias), (features, kernel, bias), strict=True)
    return tuple(ops.cast(gradient, x.dtype) for gradient, x in results)
