"""The unembedding in pieces of the vocabulary: what its products take, and give back.

A block of tokens by a whole vocabulary is larger than what memory allocators keep at hand: getting
it anew costs as much as a third of the product that fills it. Pieces stay small, and so do the
kernel's gradients, which are one tensor for each of them.
"""

import math
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import keras
from keras import ops

from fwl_keras.ops._shapes import ceil_div
from fwl_keras.ops._types import Tensor

# Logits that exist at once, and ids in a piece of the vocabulary, which is more than the former
# leave for a token where there are many ids.
LOGITS_AT_ONCE = {"cpu": 2**22, "accelerator": 2**29}
PIECE = {"cpu": 2**13, "accelerator": 2**20}
MOST_PIECES = 16
LEAST_TOKENS, MOST_TOKENS = 256, 16384


class Head(NamedTuple):
    """The unembedding's matrix and bias.

    Attributes:
        kernel: tensor [S, V], to look columns up; nothing flows back to it.
        kernels: tensors [S, v] that it consists of, which gradients flow to.
        biases: tensors [v], as many; or none.
    """

    kernel: Tensor
    kernels: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]


@cache
def _device():
    return "cpu" if keras.distribution.list_devices()[0].startswith("cpu") else "accelerator"


def cut_head(kernel: Tensor, bias: Tensor | None, features: Tensor) -> Head:
    """Cut the vocabulary where so many tokens would have too many logits at once.

    Args:
        kernel: plain tensor [S, V] (not a variable).
        bias: plain tensor [V], or None.
        features: tensor [..., width], whose leading shape says how many tokens are read.
    """
    size, tokens = kernel.shape[1], _tokens(features)
    count = min(ceil_div(size, PIECE[_device()]), MOST_PIECES)
    biases = () if bias is None else (bias,)
    if count == 1 or (tokens is not None and tokens * size <= LOGITS_AT_ONCE[_device()]):
        return Head(kernel, (kernel,), biases)
    ends = list(range(0, size, ceil_div(size, count)))[1:]
    biases = () if bias is None else tuple(ops.split(bias, ends))
    return Head(ops.stop_gradient(kernel), tuple(ops.split(kernel, ends, axis=1)), biases)


def _tokens(features):
    """Return how many tokens there are, where that is known; one a row is few."""
    shape = features.shape[:-1]
    if None not in shape:
        return math.prod(shape)
    return 1 if shape[-1] == 1 else None


def default_block_length(head: Head) -> int:
    """Return how many tokens the device takes well at once."""
    size = max(kernel.shape[1] for kernel in head.kernels)
    return min(max(LEAST_TOKENS, LOGITS_AT_ONCE[_device()] // size), MOST_TOKENS)


class Piece:
    """A piece's products, in the dtype that suits the features; what is cast is cast once.

    Args:
        features: tensor [n, S].
        kernel: tensor [S, v].
        bias: tensor [v], or None.
        soft_cap: the logits' limit, or None.
        start: id of the first column; None where there are no others.
    """

    def __init__(self, features, kernel, bias, soft_cap, start):
        self.soft_cap = soft_cap
        self.size = kernel.shape[1]
        self._start = start
        self._kernel = ops.cast(kernel, features.dtype)
        self._bias = None if bias is None else ops.cast(bias, "float32")
        is_bfloat16 = keras.backend.standardize_dtype(features.dtype) == "bfloat16"
        self._back_dtype = "bfloat16" if is_bfloat16 else "float32"
        self._back_kernel = ops.cast(kernel, self._back_dtype)

    def logits(self, features):
        """Return the logits [n, v], capped, float32."""
        logits = ops.cast(ops.matmul(features, self._kernel), "float32")
        logits = logits if self._bias is None else logits + self._bias
        return logits if self.soft_cap is None else self.soft_cap * ops.tanh(logits / self.soft_cap)

    def product(self, x):
        """Return x [n, S] times the kernel, [n, v] float32."""
        return ops.cast(ops.matmul(self._cast(x), self._back_kernel), "float32")

    def back(self, x):
        """Return x [n, v] times the kernel turned over, [n, S] float32."""
        # The other way round few tokens take several times as long on a CPU.
        product = ops.matmul(self._back_kernel, ops.transpose(self._cast(x)))
        return ops.cast(ops.transpose(product), "float32")

    def outer(self, left, right):
        """Return the sum of outer products of left [n, S] and right [n, v], [S, v] float32."""
        return ops.cast(ops.einsum("ns,nv->sv", self._cast(left), self._cast(right)), "float32")

    def pick(self, logits, labels, otherwise):
        """Return each token's logit [n] where its label is in this piece, else what is given."""
        places, inside = self._places(labels)
        tokens = ops.shape(logits)[0]
        index = ops.arange(tokens, dtype="int32") * self.size + places
        found = ops.take(ops.reshape(logits, (-1,)), index)
        return found if inside is None else ops.where(inside, found, otherwise)

    def add_at(self, labels, x, values):
        """Return x [n, v] with values [n] added where the labels are."""
        places, inside = self._places(labels)
        values = values if inside is None else ops.where(inside, values, 0.0)
        rows = ops.arange(ops.shape(x)[0], dtype="int32")
        return ops.scatter_update(x, ops.stack([rows, places], axis=1), values, reduction="add")

    def _places(self, labels):
        """Return columns of this piece, and where they are the labels'; None for everywhere."""
        labels = ops.cast(labels, "int32")
        if self._start is None:
            return labels, None
        places = labels - self._start
        inside = ops.logical_and(places >= 0, places < self.size)
        return ops.where(inside, places, 0), inside

    def times_slope(self, x, logits):
        """Return x times the slope of the cap where it has brought about these logits."""
        return times_slope(x, logits, self.soft_cap)

    def bend(self, logits):
        """Return the derivative of that slope with respect to the capped logits."""
        return -2.0 * logits / self.soft_cap**2

    def _cast(self, x):
        return ops.cast(x, self._back_dtype)


def times_slope(x: Tensor, logits: Tensor, soft_cap: float | None) -> Tensor:
    """Return x times the slope of a cap where it has brought about these logits."""
    return x if soft_cap is None else x * (1.0 - ops.square(logits / soft_cap))


def pieces_of(features: Tensor, kernels, biases, soft_cap: float | None) -> list[Piece]:
    """Return the pieces' products with such features."""
    starts = [None]
    if len(kernels) > 1:
        starts = accumulate((kernel.shape[1] for kernel in kernels[:-1]), initial=0)
    biases = biases or [None] * len(kernels)
    whole = zip(kernels, biases, starts, strict=True)
    return [Piece(features, kernel, bias, soft_cap, start) for kernel, bias, start in whole]
