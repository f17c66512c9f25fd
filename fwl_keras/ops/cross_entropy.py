"""Softmax cross-entropy from the features before the unembedding, in blocks of tokens.

A language model's logits [tokens, V] are by far its largest tensor. Here they exist for one block
of tokens at a time, in the forward pass and again in the backward pass; labels stay integers.

Equations (5) to (7) of docs/mathematics.md. Loss and gradient are differentiable once, the gradient
by (24): training goes through the steps that follow it. Products with the kernel have the dtype of
the features, but for gradients in float16, where they would vanish; all else is float32.
"""

from typing import Any

import numpy as np
from keras import ops

from fwl_keras._arguments import require_count, require_positive
from fwl_keras.ops._barrier import together
from fwl_keras.ops._blocks import map_blocks
from fwl_keras.ops._checks import require_integers, require_same_leading, require_shapes
from fwl_keras.ops._head import Head, cut_head, default_block_length, pieces_of, times_slope
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
    head = cut_head(kernel, bias, features)
    settings = block_length, soft_cap, train_kernel
    return cross_entropy_of_head(features, head, labels, *settings)[0]


def cross_entropy_of_head(
    features,
    head: Head,
    labels,
    block_length=None,
    soft_cap=None,
    train_kernel=True,
    passing=False,
    exact_every=None,
) -> tuple[Tensor, Tensor | None, Head]:
    """Do as `cross_entropy`, with a kernel that has been cut.

    Returns:
        The loss; with `exact_every`, which divides the number of tokens, the gradient (7) of every
        so manieth, [tokens / exact_every, S], for weights of 1 and as a constant; and the head, as
        from `cross_entropy_gradient_of_head`.
    """
    shape, (features, labels) = _flatten(features, labels)
    labels, known = _known(labels, head.kernel)
    count, width = len(head.kernels), features.shape[-1]
    block_length = block_length or default_block_length(head)

    @ops.custom_gradient
    def apply(features, kernel, *tensors):
        pieces = pieces_of(features, tensors[:count], tensors[count:], soft_cap)
        arguments = features, labels, kernel, pieces, block_length, soft_cap
        *gradient, nll, norm = _value(*arguments, exact_every) if exact_every else _loss(*arguments)

        def grad(*upstream):
            # TensorFlow passes one argument per output, JAX one tuple of them if there are several.
            several = isinstance(upstream[0], list | tuple)
            upstream, *sums = upstream[0] if several else upstream
            # TensorFlow would make one sum of all calls', and keep every term for it.
            sums = sums[1:] if exact_every else sums
            sums = together(*(ops.cast(s, "float32") for s in sums)) if sums else _zeros(tensors)

            def backward(features, labels, upstream, norm):
                features, upstream = together(features, upstream)
                scaled = upstream[:, None] * ops.cast(features, "float32")
                minus = -ops.ones_like(norm)
                d_features, d_kernels, d_biases = 0.0, [], []
                for piece in pieces:
                    logits = piece.logits(features)
                    slope = piece.add_at(labels, ops.exp(logits - norm[:, None]), minus)
                    slope = piece.times_slope(slope, logits)
                    d_features = d_features + piece.back(slope)
                    if train_kernel:
                        d_kernels.append(piece.outer(scaled, slope))
                        d_biases.append(ops.sum(upstream[:, None] * slope, axis=0))
                return (upstream[:, None] * d_features,), _sums(d_kernels, d_biases, head)

            arrays = features, labels, upstream, norm
            outputs, begin = ((width,),), sums if train_kernel else ()
            (d_features,), more = map_blocks(backward, arrays, outputs, begin, block_length)
            d_tensors = _in_dtypes(more or sums, tensors)
            return ops.cast(d_features, features.dtype), ops.zeros_like(kernel), *d_tensors

        results = nll, *gradient[:1], *(tensors if passing else ())
        return (results if len(results) > 1 else nll), grad

    tensors = *head.kernels, *head.biases
    found = apply(features, ops.stop_gradient(head.kernel), *tensors)
    nll, *found = found if passing or exact_every else (found,)
    gradient = ops.stop_gradient(found.pop(0)) if exact_every else None
    if passing:
        head = Head(head.kernel, tuple(found[:count]), tuple(found[count:]))
    return ops.reshape(ops.where(known, nll, np.nan), shape), gradient, head


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
    _check(features, kernel, bias, block_length, soft_cap, labels=labels, weights=weights)
    head = cut_head(kernel, bias, features)
    settings = block_length, soft_cap, train_kernel
    return cross_entropy_gradient_of_head(features, head, labels, weights, *settings, False)[:2]


def cross_entropy_gradient_of_head(
    features,
    head: Head,
    labels,
    weights,
    block_length=None,
    soft_cap=None,
    train_kernel=True,
    passing=True,
) -> tuple[Tensor, Tensor, Head]:
    """Do as `cross_entropy_gradient`, with a kernel that has been cut.

    Returns:
        The gradient, the loss, and the head, which a call that follows is to take: so the
        gradients of the kernel are one sum that goes from call to call, not one kept for each.
        Unless it is `passing`, which costs a call alone one addition, it is the head as given.
    """
    shape, (features, labels, weights) = _flatten(features, labels, weights)
    labels, known = _known(labels, head.kernel)
    count, width = len(head.kernels), features.shape[-1]
    block_length = block_length or default_block_length(head)

    @ops.custom_gradient
    def apply(features, weights, kernel, *tensors):
        pieces = pieces_of(features, tensors[:count], tensors[count:], soft_cap)
        active = ops.not_equal(weights, 0)[:, None]

        unweighted, expected, nll, norm = _value(
            features, labels, kernel, pieces, block_length, soft_cap
        )
        gradient = ops.where(active, weights[:, None] * unweighted, 0.0)

        def grad(*upstream):
            # TensorFlow passes one argument per output, JAX one tuple of them.
            d_gradient, d_nll, *sums = upstream[0] if len(upstream) == 1 else upstream
            # TensorFlow would make one sum of all calls', and keep every term for it.
            sums = together(*(ops.cast(s, "float32") for s in sums)) if sums else _zeros(tensors)
            d_gradient = ops.where(active, d_gradient, 0.0)
            d_weights = ops.sum(ops.where(active, d_gradient * unweighted, 0.0), axis=-1)
            scaled = weights[:, None] * d_gradient
            mean = ops.sum(ops.where(active, scaled * expected, 0.0), axis=-1)

            def backward(features, labels, scaled, mean, d_nll, norm):
                minus = -ops.ones_like(norm)
                features, scaled, d_nll = together(features, scaled, d_nll)
                d_features, d_kernels, d_biases = 0.0, [], []
                for piece in pieces:
                    logits = piece.logits(features)
                    along = piece.product(scaled)
                    p = ops.exp(logits - norm[:, None])
                    wrong = piece.add_at(labels, p, minus)
                    if soft_cap is None:
                        slope = p * (along + (d_nll - mean)[:, None])
                        slope = piece.add_at(labels, slope, -d_nll)
                    else:
                        slope = p * (piece.times_slope(along, logits) - mean[:, None])
                        slope = slope + wrong * (along * piece.bend(logits) + d_nll[:, None])
                        slope = piece.times_slope(slope, logits)
                    d_features = d_features + piece.back(slope)
                    if train_kernel:
                        d_kernel = piece.outer(features, slope)
                        wrong = piece.times_slope(wrong, logits)
                        d_kernels.append(d_kernel + piece.outer(scaled, wrong))
                        d_biases.append(ops.sum(slope, axis=0))
                return (d_features,), _sums(d_kernels, d_biases, head)

            arrays = features, labels, scaled, mean, d_nll, norm
            outputs, begin = ((width,),), sums if train_kernel else ()
            (d_features,), more = map_blocks(backward, arrays, outputs, begin, block_length)
            d_tensors = _in_dtypes(more or sums, tensors)
            d_features = ops.cast(d_features, features.dtype)
            return d_features, d_weights, ops.zeros_like(kernel), *d_tensors

        return (gradient, nll, *(tensors if passing else ())), grad

    tensors = *head.kernels, *head.biases
    gradient, nll, *passed = apply(features, weights, ops.stop_gradient(head.kernel), *tensors)
    nll = ops.where(known, nll, np.nan)
    harmless = ops.logical_or(known, ops.equal(weights, 0))
    gradient = ops.where(harmless[:, None], gradient, np.nan)
    gradient = ops.reshape(gradient, (*shape, ops.shape(gradient)[-1]))
    if passed:
        head = Head(head.kernel, tuple(passed[:count]), tuple(passed[count:]))
    return gradient, ops.reshape(nll, shape), head


def fixed_gradient_of_head(
    features, head: Head, labels, soft_cap=None, block_length=None
) -> Tensor:
    """Return the gradient (7) for weights of 1, with a kernel that has been cut.

    Nothing flows back to anything. Labels other than ids count as 0.
    """
    shape, (features, labels) = _flatten(ops.stop_gradient(features), labels)
    labels, _ = _known(labels, head.kernel)
    kernel, kernels, biases = (
        ops.stop_gradient(head.kernel),
        *([ops.stop_gradient(t) for t in tensors] for tensors in (head.kernels, head.biases)),
    )
    pieces = pieces_of(features, kernels, biases, soft_cap)
    block_length = block_length or default_block_length(head)
    gradient, *_ = _value(features, labels, kernel, pieces, block_length, soft_cap)
    return ops.reshape(gradient, (*shape, ops.shape(gradient)[-1]))


def _loss(features, labels, kernel, pieces, block_length, soft_cap):
    """Return (6) of n tokens, and the norm."""

    def forward(features, labels):
        softmax, at_label = _Softmax(), ops.zeros_like(features[:, 0], "float32")
        for piece in pieces:
            logits = piece.logits(features)
            softmax.add(logits)
            at_label = piece.pick(logits, labels, at_label)
        norm = softmax.norm()
        return (norm - at_label, norm), ()

    return map_blocks(forward, (features, labels), ((), ()), (), block_length)[0]


def _value(features, labels, kernel, pieces, block_length, soft_cap, every=1):
    """Return (7) for weights of 1 of every so manieth token, [n / every, S], and its first part.

    And of all of them (6) and the norm, [n].
    """
    width = features.shape[-1]

    def forward(features, labels):
        features, labels = ops.reshape(features, (-1, width)), ops.reshape(labels, (-1,))
        softmax, at_label = _Softmax(every), ops.zeros_like(features[:, 0], "float32")
        for piece in pieces:
            logits = piece.logits(features)
            exponentials = softmax.add(logits)
            chosen = _last_of(exponentials, every), _last_of(logits, every)
            softmax.collect(piece.back(piece.times_slope(*chosen)))
            at_label = piece.pick(logits, labels, at_label)
        norm = softmax.norm()
        each = (ops.reshape(a, (-1, every)) for a in (norm - at_label, norm))
        return (softmax.mean(), *each), ()

    # Blocks of so many tokens, that every one of them has its last.
    groups = ops.reshape(features, (-1, every, width)), ops.reshape(labels, (-1, every))
    outputs, length = ((width,), (every,), (every,)), max(1, block_length // every)
    (expected, nll, norm), _ = map_blocks(forward, groups, outputs, (), length)
    columns = ops.take(kernel, groups[1][:, -1], axis=1)
    columns = ops.cast(ops.transpose(columns), "float32")
    gradient = expected - times_slope(columns, (norm - nll)[:, -1:], soft_cap)
    return gradient, expected, ops.reshape(nll, (-1,)), ops.reshape(norm, (-1,))


def _last_of(x, every):
    """Return every so manieth row of x [n, ...]."""
    return x if every == 1 else ops.reshape(x, (-1, every, *x.shape[1:]))[:, -1]


class _Softmax:
    """The sums of a softmax over pieces of a vocabulary, shifted by the greatest logit so far.

    Args:
        every: of every so manieth row values are collected.
    """

    def __init__(self, every=1):
        self._every = every
        self._shift: Any = None
        self._total: Any = None
        self._collected: Any = None
        self._rescale: Any = None

    def add(self, logits):
        """Return the shifted exponentials of a piece's logits [n, v], and take them in."""
        shift = ops.max(logits, axis=-1)
        if self._shift is not None:
            shift = ops.maximum(shift, self._shift)
            self._rescale = ops.exp(self._shift - shift)
        exponentials = ops.exp(logits - shift[:, None])
        total = ops.sum(exponentials, axis=-1)
        self._total = total if self._total is None else self._total * self._rescale + total
        self._shift = shift
        return exponentials

    def collect(self, values):
        """Add up values [n, S] that are weighted with the exponentials of the last piece."""
        if self._collected is not None:
            values = values + _last_of(self._rescale, self._every)[:, None] * self._collected
        self._collected = values

    def norm(self):
        """Return the logarithm of the sum, [n]."""
        return ops.log(self._total) + self._shift

    def mean(self):
        """Return what has been collected, weighted with probabilities, [n, S]."""
        return self._collected / _last_of(self._total, self._every)[:, None]


def _sums(d_kernels, d_biases, head):
    return *d_kernels, *(d_biases if head.biases else ())


def _zeros(tensors):
    return tuple(ops.zeros(t.shape, "float32") for t in tensors)


def _in_dtypes(gradients, tensors):
    return tuple(ops.cast(g, t.dtype) for g, t in zip(gradients, tensors, strict=True))


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
