"""Random numbers against JAX's own Threefry."""

import jax.extend
import numpy as np
import pytest
from keras import ops

from fwl_keras.ops.random_uniform import random_uniform, threefry_2x32

pytestmark = pytest.mark.jax


def test_threefry_is_that_of_jax():
    rng = np.random.default_rng(0)
    key = rng.integers(2**32, size=2, dtype="uint32")
    counter = rng.integers(2**32, size=(2, 50), dtype="uint32")
    expected = np.asarray(jax.extend.random.threefry_2x32(tuple(key), counter.ravel()))
    found = threefry_2x32(
        tuple(ops.convert_to_tensor(k) for k in key),
        tuple(ops.convert_to_tensor(c) for c in counter),
    )
    np.testing.assert_array_equal(np.concatenate([np.asarray(f) for f in found]), expected)


def test_published_test_vector():
    """Random123's known answers for zeros and for all bits set."""
    for word, expected in ((0, (0x6B200159, 0x99BA4EFE)), (2**32 - 1, (0x1CB996FC, 0xBB002BE7))):
        pair = (ops.convert_to_tensor(np.array(word, "uint32")),) * 2
        assert tuple(int(a) for a in threefry_2x32(pair, pair)) == expected


def test_numbers_are_uniform_and_do_not_depend_on_the_batch():
    n = 20_000
    steps = np.arange(n, dtype="int32")
    numbers = np.asarray(random_uniform(np.full(n, 7), np.full(n, 3), steps))
    assert numbers.min() >= 0 and numbers.max() < 1
    # Chi-squared with 99 degrees of freedom: 99.9 % of uniform samples stay below 148.
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    assert ((counts - n / 100) ** 2 / (n / 100)).sum() < 148
    alone = random_uniform(np.array([7]), np.array([3]), np.array([11]))
    assert np.asarray(alone)[0] == numbers[11]


@pytest.mark.parametrize("other", [(8, 3, 11), (7, 4, 11), (7, 3, 12)])
def test_every_part_of_the_key_counts(other):
    one, two = (
        float(np.asarray(random_uniform(*(np.array([part]) for part in key)))[0])
        for key in ((7, 3, 11), other)
    )
    assert one != two
