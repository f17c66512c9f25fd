"""How much a mean depends on which documents it was taken of."""

import numpy as np


def bootstrap_means(
    sums: np.ndarray, counts: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Draw groups of values with replacement, and return the mean of each such sample.

    Values of one group, such as the tokens of a document, are no independent samples: a group is
    drawn as a whole.

    Args:
        sums: float [groups, ...], the sum of each group's values.
        counts: [groups, ...], how many values each group has.
        resamples: samples to draw.
        seed: seed of the drawing.

    Returns:
        Float array [resamples, ...]; NaN where no value was drawn.

    Example:
        >>> bootstrap_means(np.array([3.0, 8.0]), np.array([1, 2]), resamples=500).shape
        (500,)
    """
    groups = len(sums)
    # How often each group is drawn, sample by sample: [resamples, groups].
    drawn = np.random.default_rng(seed).multinomial(
        groups, np.full(groups, 1 / groups), size=resamples
    )
    with np.errstate(invalid="ignore"):
        return (drawn @ sums) / (drawn @ counts)


def bootstrap_interval(
    sums: np.ndarray, counts: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of a mean's 95 % interval.

    Args:
        sums: as of `bootstrap_means`.
        counts: as of `bootstrap_means`.
        resamples: samples to draw.
        seed: seed of the drawing.
    """
    means = bootstrap_means(sums, counts, resamples=resamples, seed=seed)
    low, high = np.nanpercentile(means, [2.5, 97.5], axis=0)
    return low, high
