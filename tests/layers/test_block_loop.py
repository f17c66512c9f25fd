"""Many segments run in a loop, few are unrolled: the same results, gradients included."""

import numpy as np
import pytest
import tensorflow as tf
from block_helpers import MODES

import fwl_keras
from fwl_keras.ops import segments


@pytest.mark.parametrize("mode", MODES)
def test_loop_equals_unrolled(mode, monkeypatch):
    rng = np.random.default_rng(0)
    block = fwl_keras.FWLBlock(5, 7, segment_length=2, initial_step_size=0.05)
    x = tf.constant(rng.normal(size=(2, 7, 4)).astype("float32"))
    labels = tf.constant(rng.integers(7, size=(2, 7)).astype("int32"))
    block(x, labels)

    def run():
        variables = [v.value for v in block.trainable_variables]
        with tf.GradientTape() as tape:
            losses, state = block(x, labels, output="loss", return_state=True)
            total = tf.reduce_sum(losses["loss"])
        return [losses["loss"], state["anchor_expand_kernel"], *tape.gradient(total, variables)]

    unrolled = run()
    monkeypatch.setattr(segments, "MAX_UNROLLED", 1)
    assert not segments.can_unroll(4)
    for looped, expected in zip(MODES[mode](run)(), unrolled, strict=True):
        expected = np.asarray(expected)
        scale = np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(np.asarray(looped) / scale, expected / scale, atol=2e-5)
