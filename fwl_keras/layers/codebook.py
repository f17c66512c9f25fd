"""A loss of a few classes and the label, whose gradient needs no product with the vocabulary."""

import math

import keras
import numpy as np
from keras import ops

from fwl_keras._arguments import require_count
from fwl_keras.ops._types import Tensor
from fwl_keras.ops.coarse_cross_entropy import coarse_cross_entropy_gradient
from fwl_keras.saving import check_config

MOST_CLASSES = 1024
# Columns that are compared with all means at once.
BLOCK = 4096
# Odds of a class that stands for no id.
_NOTHING = 1e-6


def default_codebook_size(vocab_size: int) -> int:
    """Return the classes for a vocabulary: about four times its square root, a power of two.

    Args:
        vocab_size: V.
    """
    size = 2 ** round(math.log2(4 * math.sqrt(vocab_size)))
    return min(size, MOST_CLASSES, vocab_size)


@keras.saving.register_keras_serializable(package="fwl_keras")
class Codebook(keras.layers.Layer):
    """The inner loss `"coarse"`: that of the label among a few learned classes, (27).

    The classes stand for the rest of the vocabulary. Training learns them through the steps that
    their gradient takes.

    Args:
        size: positive int K, number of classes.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Raises:
        ValueError: if the number is not positive.

    Example:
        >>> block = fwl_keras.FWLBlock(64, 10_000, inner_loss="coarse", codebook_size=128)

    Reference:
        docs/mathematics.md, (27).
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(autocast=False, **kwargs)
        require_count("size", size)
        self.size = size

    def build(self, features_shape, vocab_size: int):
        width = features_shape[-1]
        self.vectors = self.add_weight(
            name="vectors",
            shape=(self.size, width),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        # A class counts as the ids that it stands for.
        share = keras.initializers.Constant(math.log(vocab_size / self.size))
        self.bias = self.add_weight(name="bias", shape=(self.size,), initializer=share)
        self.target_kernel = self.add_weight(
            name="target_kernel", shape=(width, width), initializer=keras.initializers.Identity()
        )

    def gradient(
        self,
        features: Tensor,
        columns: Tensor,
        label_bias: Tensor,
        known: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient that steps follow, and the loss that it estimates.

        Args:
            features: tensor [B, P, S] in the compute dtype.
            columns: float32 tensor [B, P, S], the labels' columns of the unembedding.
            label_bias: float32 tensor [B, P], their biases.
            known: bool tensor [B, P], whether the labels are any; NaN where not.
            weights: float32 tensor [B, P]; where it is 0 the gradient is 0.

        Returns:
            Float32 tensors: the weighted gradient with respect to the features [B, P, S], and the
            loss among the classes [B, P] in nats, unweighted.
        """
        dtype = features.dtype
        target = ops.matmul(ops.cast(columns, dtype), ops.cast(self.target_kernel, dtype))
        gradient, loss = coarse_cross_entropy_gradient(
            features, target, label_bias, self.vectors, self.bias, weights
        )
        harmless = ops.logical_or(known, ops.equal(weights, 0))
        gradient = ops.where(harmless[..., None], gradient, np.nan)
        return gradient, ops.where(known, loss, np.nan)

    def cluster(
        self, kernel: Tensor, bias: Tensor | None = None, *, iterations: int = 10, seed: int = 0
    ) -> None:
        """Let classes be means of an unembedding's columns that are alike, by k-means.

        Args:
            kernel: matrix [S, V].
            bias: [V], or None.
            iterations: rounds of Lloyd's algorithm, positive int.
            seed: of the columns that the first means are.

        Raises:
            ValueError: if a number is not positive, or V is less than `size`.
        """
        require_count("iterations", iterations)
        columns = ops.transpose(ops.cast(kernel, "float32"))
        total = columns.shape[0]
        if total < self.size:
            raise ValueError(
                f"`kernel` has {total} columns, fewer than the codebook has classes, {self.size}; "
                "use a smaller codebook."
            )
        chosen = np.random.default_rng(seed).choice(total, self.size, replace=False)
        means = ops.take(columns, chosen, axis=0)
        for _ in range(iterations):
            nearest = _nearest(columns, means)
            count = ops.segment_sum(ops.ones((total,)), nearest, num_segments=self.size)[:, None]
            sums = ops.segment_sum(columns, nearest, num_segments=self.size)
            # A mean without columns stays where it is.
            means = ops.where(count > 0, sums / ops.maximum(count, 1.0), means)
        nearest = _nearest(columns, means)
        bias = ops.zeros((total,)) if bias is None else ops.cast(bias, "float32")
        top = ops.max(bias)
        odds = ops.segment_sum(ops.exp(bias - top), nearest, num_segments=self.size)
        self.vectors.assign(means)
        self.bias.assign(ops.log(ops.maximum(odds, _NOTHING)) + top)

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("autocast", None)
        return {**config, "size": self.size}

    @classmethod
    def from_config(cls, config):
        check_config(config)
        return cls(**config)


def _nearest(columns, means):
    """Return the index of the nearest mean of each column, int32 [V]."""
    half = 0.5 * ops.sum(ops.square(means), axis=-1)
    blocks = [
        ops.argmax(ops.matmul(columns[i : i + BLOCK], ops.transpose(means)) - half, axis=-1)
        for i in range(0, columns.shape[0], BLOCK)
    ]
    return ops.cast(ops.concatenate(blocks), "int32")
