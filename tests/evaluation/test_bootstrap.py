"""The bootstrap against what is known of a mean's error."""

import itertools

import numpy as np

from fwl_keras.evaluation.bootstrap import bootstrap_interval, bootstrap_means


def test_the_means_scatter_as_the_error_of_a_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 2)) * [1.0, 3.0]
    means = bootstrap_means(values, np.ones((400, 2)), resamples=2000)
    assert means.shape == (2000, 2)
    np.testing.assert_allclose(means.mean(axis=0), values.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(means.std(axis=0), values.std(axis=0) / 20, rtol=0.1)
    low, high = bootstrap_interval(values, np.ones((400, 2)), resamples=2000)
    np.testing.assert_allclose(high - low, 2 * 1.96 * values.std(axis=0) / 20, rtol=0.1)


def test_groups_are_drawn_whole():
    """The mean of every sample is that of three groups' values; some groups are larger."""
    sums, counts = np.array([10.0, 0.0, 30.0]), np.array([10, 5, 10])
    samples = itertools.combinations_with_replacement(range(3), 3)
    possible = {round(sums[list(one)].sum() / counts[list(one)].sum(), 9) for one in samples}
    means = bootstrap_means(sums, counts, resamples=1000)
    assert set(means.round(9)) == possible


def test_the_same_seed_draws_the_same():
    sums, counts = np.arange(9.0), np.ones(9)
    np.testing.assert_array_equal(bootstrap_means(sums, counts), bootstrap_means(sums, counts))
    assert (bootstrap_means(sums, counts) != bootstrap_means(sums, counts, seed=1)).any()


def test_a_sample_without_values_has_no_mean():
    means = bootstrap_means(np.array([0.0, 2.0]), np.array([0, 1]), resamples=100)
    assert set(means[np.isfinite(means)]) == {2.0} and np.isnan(means).any()
    assert bootstrap_interval(np.array([0.0, 2.0]), np.array([0, 1]), resamples=100) == (2.0, 2.0)
