"""FWLBlock equals its token-by-token definition: outputs, states, gradients."""

import hypothesis.strategies as st
import numpy as np
import pytest
from block_helpers import (
    assert_all_close,
    assert_close,
    assert_states_close,
    gradients_of,
    oracle_gradients_of,
    oracle_reading,
    random_batch,
    random_block,
    random_cotangents,
    read,
)
from hypothesis import given, settings

SHAPES = [
    {"width": 4, "size": 5, "vocab_size": 7},
    {"width": 5, "size": 3, "vocab_size": 4},
    {"width": 3, "size": 6, "vocab_size": 9},
]


@st.composite
def blocks(draw):
    """A random block and the generator that made it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    chunks = draw(
        st.one_of(
            st.just({}),
            st.builds(lambda n: {"attn_chunks": n}, st.integers(1, 9)),
            st.builds(lambda n: {"chunk_length": n}, st.integers(1, 6)),
        ),
        label="chunks",
    )
    block = random_block(
        rng,
        **draw(st.sampled_from(SHAPES), label="shape"),
        **chunks,
        segment_length=draw(st.sampled_from([1, 2, 3, 4, 5, 7, 128, None]), label="L"),
        step_size_per_unit=draw(st.booleans(), label="per unit"),
        use_bias=draw(st.booleans(), label="bias"),
    )
    return rng, block


def batches(draw, rng, block, lengths):
    return random_batch(
        rng,
        block,
        batch=draw(st.integers(1, 3), label="B"),
        length=draw(lengths, label="T"),
        masked=draw(st.booleans(), label="masked"),
        weighted=draw(st.booleans(), label="weighted"),
        with_state=draw(st.booleans(), label="state"),
    )


@settings(max_examples=40)
@given(st.data())
def test_logits_losses_and_state(data):
    rng, block = data.draw(blocks())
    arguments = batches(data.draw, rng, block, st.integers(1, 13))
    expected = oracle_reading(block, arguments)
    logits, state = read(block, arguments)
    assert_close(logits, expected.logits)
    assert_states_close(state, expected.state)
    features, state = read(block, arguments, output="features")
    exists = np.ones(logits.shape[:2], bool)
    if arguments["x_mask"] is not None:
        exists = arguments["x_mask"]
    assert_close(features[exists], expected.features[exists])
    assert_states_close(state, expected.state)
    losses, state = read(block, arguments, output="loss")
    assert set(losses) == {"loss", "slow_loss"}
    assert_close(losses["loss"], expected.loss)
    assert_close(losses["slow_loss"], expected.slow_loss)
    assert_states_close(state, expected.state)
    for absent in (logits[~exists], losses["loss"][~exists], losses["slow_loss"][~exists]):
        assert not np.any(absent)


@settings(max_examples=15)
@given(st.data())
def test_gradients(data):
    rng, block = data.draw(blocks())
    # Few shapes: the oracle compiles for each.
    arguments = batches(data.draw, rng, block, st.sampled_from([1, 6, 11]))
    cotangents = random_cotangents(rng, block, arguments)
    assert_all_close(
        gradients_of(block, arguments, *cotangents),
        oracle_gradients_of(block, arguments, *cotangents),
        tolerance=1e-3,
    )


@settings(max_examples=10)
@given(st.data())
def test_gradients_of_the_losses(data):
    """output="loss" differentiates like the logits it comes from."""
    import tensorflow as tf

    rng, block = data.draw(blocks())
    arguments = batches(data.draw, rng, block, st.integers(1, 9))
    exists = arguments["x_mask"]
    weight = rng.normal(size=arguments["labels"].shape).astype(np.float32)
    if exists is not None:
        weight = np.where(exists, weight, 0)
    weight = tf.constant(weight, tf.float32)
    x = tf.constant(arguments.pop("x"))
    variables = [v.value for v in block.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        logits = block(x, **arguments)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(arguments["labels"], logits)
        expected = tf.reduce_sum(weight * loss)
        actual = tf.reduce_sum(weight * block(x, **arguments, output="loss")["loss"])
    for source in [x, *variables]:
        assert_close(
            tape.gradient(actual, source, unconnected_gradients="zero"),
            tape.gradient(expected, source, unconnected_gradients="zero"),
            tolerance=1e-3,
        )


@given(st.data())
def test_reading_without_labels(data):
    rng, block = data.draw(blocks())
    arguments = batches(data.draw, rng, block, st.integers(1, 13))
    arguments["labels"] = arguments["weights"] = None
    expected = oracle_reading(block, arguments)
    logits, state = read(block, arguments)
    assert_close(logits, expected.logits)
    given_state = arguments["state"]
    if given_state is None:
        given_state = {n: np.asarray(s) for n, s in block.initial_state(len(logits)).items()}
    assert set(state) == set(given_state)
    for name, value in given_state.items():
        np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("length", [1, 7])
def test_gradients_of_a_reading_without_labels(length):
    rng = np.random.default_rng(0)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 2, length, masked=False)
    cotangent, _ = random_cotangents(rng, block, arguments)
    arguments["labels"] = arguments["weights"] = None
    assert_all_close(
        gradients_of(block, arguments, cotangent),
        oracle_gradients_of(block, arguments, cotangent),
        tolerance=1e-3,
    )


@pytest.mark.parametrize("chunks", [{"attn_chunks": 4}, {"chunk_length": 3}, {}])
def test_parity_mode_divides_by_the_weights_of_the_batch(chunks):
    rng = np.random.default_rng(1)
    block = random_block(
        rng,
        step_size=1.0,
        loss_reduction="mean_with_sample_weight",
        epsilon=0.0,
        segment_length=None,
        **chunks,
    )
    arguments = random_batch(rng, block, 3, 11, masked=False, with_state=False)
    expected = oracle_reading(block, arguments)
    logits = read(block, arguments, return_state=False)
    assert_close(logits, expected.logits)
    assert np.max(np.abs(logits - expected.slow_logits)) > 0.1
    cotangent, _ = random_cotangents(rng, block, arguments)
    assert_all_close(
        gradients_of(block, arguments, cotangent),
        oracle_gradients_of(block, arguments, cotangent),
        tolerance=1e-3,
    )


def test_the_examples_here_adapt_and_consolidate():
    """The comparisons above would notice a block that skipped either."""
    rng = np.random.default_rng(2)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 2, 11, with_state=False)
    reading = oracle_reading(block, arguments)
    assert np.max(np.abs(reading.logits - reading.slow_logits)) > 0.1
    unsegmented = read(block, arguments | {"labels": None})[0]
    assert np.max(np.abs(reading.slow_logits - unsegmented)) > 0.1
