"""Weights of tokens in a loss: where there is a label, and what a user gives besides."""

from keras import ops

from fwl_keras.ops._types import Tensor


def label_weights(labels: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Return weights [B, T] of given labels: 0 where the token or the next one does not exist."""
    if padding_mask is None:
        return ops.ones(ops.shape(labels)[:2], "float32")
    mask = ops.cast(padding_mask, "float32")
    return mask * ops.concatenate([mask[:, 1:], ops.ones_like(mask[:, :1])], axis=1)


def drop_label(weights: Tensor, labels: Tensor, label: int) -> Tensor:
    """Return weights [B, T], 0 where integer labels are `label`."""
    if len(labels.shape) != 2:
        return weights
    weights = ops.cast(weights, "float32")
    return ops.where(ops.equal(labels, label), ops.zeros_like(weights), weights)


def times_sample_weight(weights: Tensor, sample_weight: Tensor) -> Tensor:
    """Return weights [B, T] of the loss: the sample weights, 0 where there is no label.

    Args:
        weights: float32 tensor [B, T], 0 where there is no label.
        sample_weight: tensor [B, T], or [B] for one weight a row.

    Raises:
        ValueError: if `sample_weight` has another shape.
    """
    sample_weight = ops.cast(sample_weight, "float32")
    shape, expected = tuple(sample_weight.shape), tuple(weights.shape)
    fits = len(shape) in (1, 2) and all(
        None in (a, b) or a == b for a, b in zip(shape, expected, strict=False)
    )
    if not fits:
        raise ValueError(
            f"`sample_weight` must have shape {list(expected)}, or {list(expected[:1])} for one "
            f"weight a row; received shape {list(shape)}."
        )
    if len(shape) == 1:
        sample_weight = sample_weight[:, None] * weights
    return ops.where(ops.equal(weights, 0), 0.0, sample_weight)
