"""However a call's segments are run: the same results, gradients included."""

import numpy as np
import pytest
import tensorflow as tf
from block_helpers import MODES

import fwl_keras
from fwl_keras.layers import fwl_block
from fwl_keras.ops import segments


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_loop_equals_unrolled(mode, monkeypatch):
    rng = np.random.default_rng(0)
    block = fwl_keras.FWLBlock(5, 7, segment_length=2, initial_step_size=0.05)
    x = tf.constant(rng.normal(size=(2, 5, 4)).astype("float32"))
    labels = tf.constant(rng.integers(7, size=(2, 5)).astype("int32"))
    block(x, labels)

    def run():
        variables = [v.value for v in block.trainable_variables]
        with tf.GradientTape() as tape:
            losses, state = block(x, labels, output="loss", return_state=True)
            total = tf.reduce_sum(losses["loss"])
        return [losses["loss"], state["anchor_expand_kernel"], *tape.gradient(total, variables)]

    unrolled = run()
    monkeypatch.setattr(segments, "MAX_UNROLLED", 1)
    assert not segments.can_unroll(3)
    for looped, expected in zip(MODES[mode](run)(), unrolled, strict=True):
        expected = np.asarray(expected)
        scale = np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(np.asarray(looped) / scale, expected / scale, atol=2e-5)


def all_pieces(body, carry, count, needed):
    """As `segments.repeat`, leaving nothing out."""
    return segments.repeat(body, carry, count, count)


@pytest.mark.parametrize(
    ("mode", "positions", "unrolled"),
    [
        ("eager", (0, 0), True),
        ("eager", (0, 1), True),
        ("graph", (0, 0), True),
        pytest.param("xla", (0, 0), True, marks=pytest.mark.slow),
        pytest.param("xla", (0, 0), False, marks=pytest.mark.slow),
    ],
)
def test_a_piece_that_no_row_comes_to_is_left_out(mode, positions, unrolled, monkeypatch):
    rng = np.random.default_rng(0)
    block = fwl_keras.FWLBlock(5, 7, segment_length=4, initial_step_size=0.05)
    x = tf.constant(rng.normal(size=(2, 4, 4)).astype("float32"))
    labels = tf.constant(rng.integers(7, size=(2, 4)).astype("int32"))
    block(x, labels)
    state = {
        name: tf.constant(
            positions if name == "position" else rng.normal(size=value.shape), value.dtype
        )
        for name, value in block.initial_state(2).items()
    }
    pieces = []
    if not unrolled:
        monkeypatch.setattr(segments, "MAX_UNROLLED", 1)

    def run():
        variables = [v.value for v in block.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(x)
            losses, new = block(x, labels, state=state, output="loss", return_state=True)
            total = tf.reduce_sum(losses["loss"]) + tf.reduce_sum(new["anchor_gamma"])
        gradients = tape.gradient(total, [x, *variables], unconnected_gradients="zero")
        return [losses["loss"], *new.values(), *gradients]

    segment = fwl_keras.FWLBlock._segment
    monkeypatch.setattr(
        fwl_keras.FWLBlock,
        "_segment",
        lambda self, *arguments: pieces.append(1) or segment(self, *arguments),
    )
    with monkeypatch.context() as patch:
        patch.setattr(fwl_block, "repeat", all_pieces)
        expected = MODES[mode](run)()
    pieces.clear()
    found = MODES[mode](run)()
    if mode == "eager":
        assert len(pieces) == (2 if any(positions) else 1)
    values = 1 + len(state)
    for value, other in zip(found[:values], expected[:values], strict=True):
        np.testing.assert_array_equal(value, other)
    # Gradients are added up in another order.
    for value, other in zip(found[values:], expected[values:], strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-5)
