"""Rows whose own weights are larger than what their tokens leave: computed again, not kept."""

import numpy as np
import pytest
from block_helpers import (
    assert_all_close,
    gradients_of,
    oracle_gradients_of,
    random_batch,
    random_block,
    random_cotangents,
)

from fwl_keras.layers import fwl_block


@pytest.fixture
def counted(monkeypatch):
    """The arguments of every recomputation."""
    calls, recomputed = [], fwl_block.recomputed

    def count(function, *arguments):
        calls.append(arguments)
        return recomputed(function, *arguments)

    monkeypatch.setattr(fwl_block, "recomputed", count)
    monkeypatch.setattr(fwl_block, "WORTH_RECOMPUTING", 100)
    return calls


@pytest.mark.parametrize(
    ("with_state", "mode"),
    [
        (True, "graph"),
        (False, "eager"),
        (False, "graph"),
        pytest.param(False, "xla", marks=pytest.mark.slow),
        pytest.param(True, "xla", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_the_oracles(counted, with_state, mode):
    rng = np.random.default_rng(5)
    block = random_block(rng, segment_length=2, chunk_length=2)
    arguments = random_batch(rng, block, 2, 5, with_state=with_state)
    cotangents = random_cotangents(rng, block, arguments)
    found = gradients_of(block, arguments, *cotangents, mode=mode)
    assert counted
    expected = oracle_gradients_of(block, arguments, *cotangents)
    assert_all_close(found, expected, tolerance=1e-3)


@pytest.mark.parametrize(
    ("segment_length", "worth", "expected"),
    [(2, 100, True), (3, 100, False), (None, 100, False), (2, 1000, False)],
)
def test_only_wide_blocks_with_short_segments_recompute(
    counted, monkeypatch, segment_length, worth, expected
):
    monkeypatch.setattr(fwl_block, "WORTH_RECOMPUTING", worth)
    rng = np.random.default_rng(6)
    block = random_block(rng, segment_length=segment_length)
    arguments = random_batch(rng, block, 2, 5)
    counted.clear()
    block(**arguments)
    assert bool(counted) is expected
