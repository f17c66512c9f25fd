"""Softmax cross-entropy from the features before the unembedding, in blocks of tokens.

A language model's logits [tokens, V] are by far its largest tensor. Here they exist for one block
of tokens at a time, in the forward pass and again in the backward pass; labels stay integers.

Equations (5) to (7) of docs/mathematics.md. Loss and gradient are differentiable once, the gradient
by (24): training goes through the steps that follow it.
"""

import numpy as np
from keras import ops

from fwl_keras._arguments import require_count, require_positive
from fwl_keras.ops._blocks import map_blocks
from fwl_keras.ops._checks import require_integers, require_same_leading, require_shapes
from fwl_keras.ops._types import Tensor


def cross_entropy(
    features: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    block_length: int | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """Return the negative log-likelihood of integer labels, in nats, (6).

    Args:
        features: tensor [..., S]; logits are computed in this dtype, all else in float32.
        kernel: plain tensor [S, V] (not a variable).
        bias: plain tensor [V], or None.
        labels: int tensor [...], ids in [0, V); any other makes its loss NaN.
        block_length: tokens whose logits exist at once; None: about 4 million logits.
        soft_cap: the logits' limit, approached by a hyperbolic tangent; None: no limit.

    Returns:
        A float32 tensor [...].

    Raises:
        ValueError: if a number is not positive, or a shape or dtype does not fit.

    Example:
        >>> features, kernel = np.ones((2, 10, 4), "float32"), np.ones((4, 50), "float32")
        >>> cross_entropy(features, kernel, None, np.zeros((2, 10), "int32")).shape
        (2, 10)
    """
    _check(features, kernel, bias, block_length, soft_cap, labels=labels)
    shape, (features, labels) = _flatten(features, labels)
    labels, known = _known(labels, kernel)

    @ops.custom_gradient
    def apply(features, kernel, bias):
        def block(features, labels):
            logits, shift, _, total = _softmax(features, kernel, bias, soft_cap)
            norm = ops.log(total) + shift
            return (norm - _pick(logits, labels), norm), ()

        (nll, norm), _ = map_blocks(block, (features, labels), kernel, block_length)

        def grad(upstream):
            def backward(features, upstream, norm):
                logits = _logits(features, kernel, bias, soft_cap)
                slope = ops.exp(logits - norm[:, None]) * upstream[:, None]
                slope = _times(slope, _slope(logits, soft_cap))
                return (_back(slope, kernel),), _kernel_gradient(features, slope)

            arrays = (features, upstream, norm)
            (d_features,), sums = map_blocks(backward, arrays, kernel, block_length)
            at_label = _times(upstream, _slope(norm - nll, soft_cap))
            d_features = d_features - at_label[:, None] * _columns(kernel, labels)
            pairs = [(at_label[:, None], features)]
            return _gradients(features, kernel, bias, labels, d_features, sums, pairs, at_label)

        return nll, grad

    nll = apply(features, kernel, _bias_or_zeros(bias, kernel))
    return ops.reshape(ops.where(known, nll, np.nan), shape)


def cross_entropy_gradient(
    features: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    weights: Tensor,
    block_length: int | None = None,
    soft_cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weighted cross-entropy's gradient with respect to the features, (7), and the loss.

    Args:
        features: tensor [..., S]; logits are computed in this dtype, all else in float32.
        kernel: plain tensor [S, V] (not a variable).
        bias: plain tensor [V], or None.
        labels: int tensor [...], ids in [0, V); any other makes its loss NaN, and its gradient too
            where the weight is not 0.
        weights: float32 tensor [...]; where it is 0 the gradient is 0, whatever the features
            hold, and nothing flows back to features or weights.
        block_length: tokens whose logits exist at once; None: about 4 million logits.
        soft_cap: the logits' limit, approached by a hyperbolic tangent; None: no limit.

    Returns:
        Float32 tensors: the gradient [..., S], and the unweighted negative log-likelihood [...].

    Raises:
        ValueError: if a number is not positive, or a shape or dtype does not fit.

    Example:
        >>> labels, weights = np.zeros((2, 10), "int32"), np.ones((2, 10), "float32")
        >>> gradient, loss = cross_entropy_gradient(features, kernel, None, labels, weights)
    """
    _check(features, kernel, bias, block_length, soft_cap, labels=labels, weights=weights)
    shape, (features, labels, weights) = _flatten(features, labels, weights)
    labels, known = _known(labels, kernel)

    @ops.custom_gradient
    def apply(features, kernel, bias, weights):
        active = ops.not_equal(weights, 0)[:, None]
        columns = _columns(kernel, labels)

        def block(features, labels):
            logits, shift, exponentials, total = _softmax(features, kernel, bias, soft_cap)
            norm = ops.log(total) + shift
            sloped = _times(exponentials, _slope(logits, soft_cap))
            expected = _back(sloped, kernel) / total[:, None]
            return (expected, norm - _pick(logits, labels), norm), ()

        (expected, nll, norm), _ = map_blocks(block, (features, labels), kernel, block_length)
        # Logits at the labels, and their slopes.
        label_logits = norm - nll
        label_slope = ops.ones_like(nll) if soft_cap is None else _slope(label_logits, soft_cap)
        gradient = weights[:, None] * (expected - label_slope[:, None] * columns)
        gradient = ops.where(active, gradient, ops.zeros_like(gradient))

        def grad(*upstream):
            # TensorFlow passes one argument per output, JAX one tuple of them.
            d_gradient, d_nll = upstream if len(upstream) == 2 else upstream[0]
            d_gradient = ops.where(active, d_gradient, ops.zeros_like(d_gradient))

            def backward(features, d_gradient, weights, d_nll, norm):
                logits = _logits(features, kernel, bias, soft_cap)
                p = ops.exp(logits - norm[:, None])
                along = ops.matmul(d_gradient, ops.cast(kernel, "float32"))
                slope_of_cap = _slope(logits, soft_cap)
                sloped = _times(p, slope_of_cap)
                mean = ops.sum(sloped * along, axis=-1)
                towards = _times(along, slope_of_cap) - mean[:, None]
                if soft_cap is not None:
                    towards = towards + along * _bend(logits, soft_cap)
                slope = p * (weights[:, None] * towards + d_nll[:, None])
                slope = _times(slope, slope_of_cap)
                # Both contributions to the kernel in one matrix product.
                left = ops.concatenate([ops.cast(features, "float32"), d_gradient], axis=0)
                right = ops.concatenate([slope, weights[:, None] * sloped], axis=0)
                sums = (ops.einsum("ns,nv->sv", left, right), ops.sum(slope, axis=0))
                return (_back(slope, kernel), mean), sums

            arrays = (features, d_gradient, weights, d_nll, norm)
            (d_features, mean), sums = map_blocks(backward, arrays, kernel, block_length)
            label_along = ops.sum(d_gradient * columns, axis=-1)
            at_label = d_nll
            if soft_cap is not None:
                bent = weights * label_along * _bend(label_logits, soft_cap)
                at_label = label_slope * (d_nll + bent)
            d_features = d_features - at_label[:, None] * columns
            d_weights = mean - label_slope * label_along
            pairs = [
                (at_label[:, None], features),
                ((weights * label_slope)[:, None], d_gradient),
            ]
            grads = _gradients(features, kernel, bias, labels, d_features, sums, pairs, at_label)
            return (*grads, ops.where(active[:, 0], d_weights, ops.zeros_like(d_weights)))

        return (gradient, nll), grad

    gradient, nll = apply(features, kernel, _bias_or_zeros(bias, kernel), weights)
    nll = ops.where(known, nll, np.nan)
    harmless = ops.logical_or(known, ops.equal(weights, 0))
    gradient = ops.where(harmless[:, None], gradient, np.nan)
    return ops.reshape(gradient, (*shape, ops.shape(gradient)[-1])), ops.reshape(nll, shape)


def _check(features, kernel, bias, block_length, soft_cap, **tokens):
    if block_length is not None:
        require_count("block_length", block_length)
    if soft_cap is not None:
        require_positive("soft_cap", soft_cap)
    require_shapes(features=(features, "...S"), kernel=(kernel, "SV"), bias=(bias, "V"))
    require_same_leading(features, **tokens)
    require_integers(labels=tokens["labels"])


def _flatten(features, *arrays):
    """Return the leading shape, and the arguments with one leading dimension of tokens."""
    shape = ops.shape(features)[:-1]
    flat = [ops.reshape(features, (-1, features.shape[-1]))]
    return shape, flat + [ops.reshape(x, (-1,)) for x in arrays]


def _known(labels, kernel):
    """Return labels that can be looked up, and where they are what was given: ids in [0, V)."""
    known = ops.logical_and(labels >= 0, labels < kernel.shape[1])
    return ops.where(known, labels, 0), known


def _bias_or_zeros(bias, kernel):
    return ops.zeros((kernel.shape[1],), "float32") if bias is None else bias


def _logits(features, kernel, bias, soft_cap):
    logits = ops.matmul(features, ops.cast(kernel, features.dtype))
    logits = ops.cast(logits, "float32") + ops.cast(bias, "float32")
    return logits if soft_cap is None else soft_cap * ops.tanh(logits / soft_cap)


def _slope(logits, soft_cap) -> Tensor:
    """Return the slope of the cap where it has brought about these logits, or None for 1."""
    return None if soft_cap is None else 1.0 - ops.square(logits / soft_cap)


def _bend(logits, soft_cap):
    """Return the derivative of that slope with respect to the capped logits."""
    return -2.0 * logits / soft_cap**2


def _times(x, slope):
    return x if slope is None else x * slope


def _softmax(features, kernel, bias, soft_cap):
    """Return logits [n, V], their maximum [n], the shifted exponentials and their sum [n]."""
    logits = _logits(features, kernel, bias, soft_cap)
    shift = ops.max(logits, axis=-1)
    exponentials = ops.exp(logits - shift[:, None])
    return logits, shift, exponentials, ops.sum(exponentials, axis=-1)


def _pick(logits, labels):
    """Return each token's logit [n] at its label; the fewest operations that find it."""
    tokens, size = ops.shape(logits)
    return ops.take(ops.reshape(logits, (-1,)), ops.arange(tokens, dtype="int32") * size + labels)


def _columns(kernel, labels):
    """Return the kernel's column of each label, [n, S] float32."""
    return ops.cast(ops.transpose(ops.take(kernel, labels, axis=1)), "float32")


def _back(slope, kernel):
    return ops.einsum("nv,sv->ns", slope, ops.cast(kernel, "float32"))


def _kernel_gradient(features, slope):
    left = ops.cast(features, "float32")
    return ops.einsum("ns,nv->sv", left, slope), ops.sum(slope, axis=0)


def _gradients(features, kernel, bias, labels, d_features, sums, pairs, d_nll):
    """Return gradients for features, kernel and bias in their dtypes, less the labels' share."""
    size = kernel.shape[1]
    at_labels = sum(scale * ops.cast(x, "float32") for scale, x in pairs)
    d_kernel = sums[0] - ops.transpose(ops.segment_sum(at_labels, labels, num_segments=size))
    d_bias = sums[1] - ops.segment_sum(d_nll, labels, num_segments=size)
    results = zip((d_features, d_kernel, d_bias), (features, kernel, bias), strict=True)
    return tuple(ops.cast(gradient, x.dtype) for gradient, x in results)
