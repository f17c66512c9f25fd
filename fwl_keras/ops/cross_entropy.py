"""Softmax cross-entropy from the features before the unembedding, in blocks of tokens.

A language model's logits [tokens, V] are by far its largest tensor. Here they exist for one block
of tokens at a time, in the forward pass and again in the backward pass; labels stay integers.

Equations (5) to (7) of docs/mathematics.md. Loss and gradient are differentiable once, the gradient
by (24): training goes through the steps that follow it. Products with the kernel have the dtype of
the features, but for gradients in float16, where they would vanish; all else is float32.
"""

import keras
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
    train_kernel: bool = True,
) -> Tensor:
    """Return the negative log-likelihood of integer labels, in nats, (6).

    Args:
        features: tensor [..., S]; logits are computed in this dtype.
        kernel: plain tensor [S, V] (not a variable).
        bias: plain tensor [V], or None.
        labels: int tensor [...], ids in [0, V); any other makes its loss NaN.
        block_length: tokens whose logits exist at once; None: as the device takes well.
        soft_cap: the logits' limit, approached by a hyperbolic tangent; None: no limit.
        train_kernel: whether the gradients of kernel and bias are wanted; they are zero if not.

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
    def apply(features, kernel, *bias):
        head = _Head(features, kernel, bias, soft_cap)

        def forward(features, labels):
            logits = head.logits(features)
            norm = ops.logsumexp(logits, axis=-1)
            return (norm - _pick(logits, labels), norm), ()

        arrays = features, labels
        (nll, norm), _ = map_blocks(forward, arrays, ((), ()), (), head.size, block_length)

        def grad(upstream):
            def backward(features, labels, upstream, norm):
                logits = head.logits(features)
                slope = _add_at(labels, ops.exp(logits - norm[:, None]), -1.0)
                slope = head.times_slope(slope, logits)
                d_features = upstream[:, None] * head.back(slope)
                if not train_kernel:
                    return (d_features,), ()
                d_kernel = head.forth(upstream[:, None] * ops.cast(features, "float32"), slope)
                return (d_features,), (d_kernel, *head.bias_gradient(upstream, slope))

            arrays = features, labels, upstream, norm
            sums = head.zeros() if train_kernel else ()
            (d_features,), sums = map_blocks(
                backward, arrays, ((head.width,),), sums, head.size, block_length
            )
            sums = sums or head.zeros()
            return ops.cast(d_features, features.dtype), *head.in_dtypes(sums)

        return nll, grad

    nll = apply(features, kernel, *_given(bias))
    return ops.reshape(ops.where(known, nll, np.nan), shape)


def cross_entropy_gradient(
    features: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    weights: Tensor,
    block_length: int | None = None,
    soft_cap: float | None = None,
    train_kernel: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the weighted cross-entropy's gradient with respect to the features, (7), and the loss.

    Args:
        features: tensor [..., S]; logits are computed in this dtype.
        kernel: plain tensor [S, V] (not a variable).
        bias: plain tensor [V], or None.
        labels: int tensor [...], ids in [0, V); any other makes its loss NaN, and its gradient too
            where the weight is not 0.
        weights: float32 tensor [...]; where it is 0 the gradient is 0, whatever the features
            hold, and nothing flows back to features or weights.
        block_length: tokens whose logits exist at once; None: as the device takes well.
        soft_cap: the logits' limit, approached by a hyperbolic tangent; None: no limit.
        train_kernel: whether the gradients of kernel and bias are wanted; they are zero if not.

    Returns:
        Float32 tensors: the gradient [..., S], and the unweighted negative log-likelihood [...].

    Raises:
        ValueError: if a number is not positive, or a shape or dtype does not fit.

    Example:
        >>> labels, weights = np.zeros((2, 10), "int32"), np.ones((2, 10), "float32")
        >>> gradient, loss = cross_entropy_gradient(features, kernel, None, labels, weights)
    """
    arguments = features, kernel, bias, labels, weights, block_length, soft_cap, train_kernel
    return cross_entropy_gradient_passing(*arguments)[:2]


def cross_entropy_gradient_passing(
    features, kernel, bias, labels, weights, block_length=None, soft_cap=None, train_kernel=True
):
    """Return what `cross_entropy_gradient` does, and kernel and bias for the next call.

    Where one kernel is used by calls that follow each other, each with those of the call before,
    its gradient is one sum that goes from call to call, not one for each of them that is kept.
    """
    _check(features, kernel, bias, block_length, soft_cap, labels=labels, weights=weights)
    shape, (features, labels, weights) = _flatten(features, labels, weights)
    labels, known = _known(labels, kernel)

    @ops.custom_gradient
    def apply(features, weights, kernel, *bias):
        head = _Head(features, kernel, bias, soft_cap)
        active = ops.not_equal(weights, 0)[:, None]

        def forward(features, labels):
            logits = head.logits(features)
            shift = ops.max(logits, axis=-1)
            exponentials = ops.exp(logits - shift[:, None])
            total = ops.sum(exponentials, axis=-1)
            expected = head.back(head.times_slope(exponentials, logits)) / total[:, None]
            norm = ops.log(total) + shift
            return (expected, norm - _pick(logits, labels), norm), ()

        outputs = (head.width,), (), ()
        (expected, nll, norm), _ = map_blocks(
            forward, (features, labels), outputs, (), head.size, block_length
        )
        unweighted = expected - head.times_slope(head.columns(labels), (norm - nll)[:, None])
        gradient = ops.where(active, weights[:, None] * unweighted, 0.0)

        def grad(*upstream):
            # TensorFlow passes one argument per output, JAX one tuple of them.
            upstream = upstream if len(upstream) > 1 else upstream[0]
            d_gradient, d_nll, *sums = upstream
            d_gradient = ops.where(active, d_gradient, 0.0)
            d_weights = ops.sum(ops.where(active, d_gradient * unweighted, 0.0), axis=-1)
            scaled = weights[:, None] * d_gradient
            mean = ops.sum(ops.where(active, scaled * expected, 0.0), axis=-1)

            def backward(features, labels, scaled, mean, d_nll, norm):
                logits = head.logits(features)
                p = ops.exp(logits - norm[:, None])
                along = head.product(scaled)
                wrong = _add_at(labels, p, -1.0)
                if soft_cap is None:
                    slope = _add_at(labels, p * (along + (d_nll - mean)[:, None]), -d_nll)
                else:
                    slope = p * (head.times_slope(along, logits) - mean[:, None])
                    slope = slope + wrong * (along * head.bend(logits) + d_nll[:, None])
                    slope = head.times_slope(slope, logits)
                d_features = head.back(slope)
                if not train_kernel:
                    return (d_features,), ()
                d_kernel = head.forth(features, slope)
                d_kernel = d_kernel + head.forth(scaled, head.times_slope(wrong, logits))
                return (d_features,), (d_kernel, *head.bias_gradient(None, slope))

            arrays = features, labels, scaled, mean, d_nll, norm
            (d_features,), more = map_blocks(
                backward,
                arrays,
                ((head.width,),),
                tuple(ops.cast(s, "float32") for s in sums) if train_kernel else (),
                head.size,
                block_length,
            )
            d_features = ops.cast(d_features, features.dtype)
            return d_features, d_weights, *head.in_dtypes(more or sums)

        return (gradient, nll, kernel, *bias), grad

    gradient, nll, kernel, *passed = apply(features, weights, kernel, *_given(bias))
    nll = ops.where(known, nll, np.nan)
    harmless = ops.logical_or(known, ops.equal(weights, 0))
    gradient = ops.where(harmless[:, None], gradient, np.nan)
    gradient = ops.reshape(gradient, (*shape, ops.shape(gradient)[-1]))
    return gradient, ops.reshape(nll, shape), kernel, (passed[0] if passed else None)


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


def _given(bias):
    return () if bias is None else (bias,)


class _Head:
    """The products with the kernel, in the dtype that suits the features, cast once.

    Args:
        features: tensor [n, S].
        kernel: tensor [S, V].
        bias: tuple of a tensor [V], or of nothing.
        soft_cap: the logits' limit, or None.
    """

    def __init__(self, features, kernel, bias, soft_cap):
        self.width, self.size = kernel.shape
        self.soft_cap = soft_cap
        self._given = kernel, *bias
        self._kernel = ops.cast(kernel, features.dtype)
        self._bias = [ops.cast(b, "float32") for b in bias]
        is_bfloat16 = keras.backend.standardize_dtype(features.dtype) == "bfloat16"
        self._back_dtype = "bfloat16" if is_bfloat16 else "float32"
        self._back_kernel = ops.cast(kernel, self._back_dtype)

    def logits(self, features):
        """Return the logits [n, V], capped."""
        logits = ops.cast(ops.matmul(features, self._kernel), "float32")
        for bias in self._bias:
            logits = logits + bias
        return logits if self.soft_cap is None else self.soft_cap * ops.tanh(logits / self.soft_cap)

    def product(self, x):
        """Return x [n, S] times the kernel, [n, V]."""
        return ops.cast(ops.matmul(self._cast(x), self._back_kernel), "float32")

    def back(self, x):
        """Return x [n, V] times the kernel turned over, [n, S]."""
        product = ops.einsum("nv,sv->ns", self._cast(x), self._back_kernel)
        return ops.cast(product, "float32")

    def forth(self, left, right):
        """Return the sum of outer products of left [n, S] and right [n, V], [S, V]."""
        return ops.cast(ops.einsum("ns,nv->sv", self._cast(left), self._cast(right)), "float32")

    def bias_gradient(self, scale, slope):
        """Return the sum over tokens of slope [n, V], scaled, in a list; none without a bias."""
        ones = ops.ones_like(slope[:, 0]) if scale is None else scale
        return [ops.matmul(ones[None], slope)[0] for _ in self._bias]

    def columns(self, labels):
        """Return the kernel's column of each label, [n, S] float32."""
        return ops.cast(ops.transpose(ops.take(self._given[0], labels, axis=1)), "float32")

    def times_slope(self, x, logits):
        """Return x times the slope of the cap where it has brought about these logits."""
        return x if self.soft_cap is None else x * (1.0 - ops.square(logits / self.soft_cap))

    def bend(self, logits):
        """Return the derivative of that slope with respect to the capped logits."""
        return -2.0 * logits / self.soft_cap**2

    def zeros(self):
        """Return where sums of gradients of kernel and bias begin."""
        return tuple(ops.zeros(t.shape, "float32") for t in self._given)

    def in_dtypes(self, sums):
        """Return gradients of kernel and bias in the dtypes of these."""
        return tuple(ops.cast(g, t.dtype) for g, t in zip(sums, self._given, strict=True))

    def _cast(self, x):
        return ops.cast(x, self._back_dtype)


def _pick(logits, labels):
    """Return each token's logit [n] at its label; the fewest operations that find it."""
    tokens, size = ops.shape(logits)
    return ops.take(ops.reshape(logits, (-1,)), ops.arange(tokens, dtype="int32") * size + labels)


def _add_at(labels, x, values):
    """Return x [n, V] with a value [n] or one for all added where each token's label is."""
    rows = ops.arange(ops.shape(x)[0], dtype="int32")
    values = values * ops.ones_like(x[:, 0])
    places = ops.stack([rows, ops.cast(labels, "int32")], axis=1)
    return ops.scatter_update(x, places, values, reduction="add")
