"""FWLBlock equals its token-by-token definition: outputs, states, gradients."""

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
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

import fwl_keras

SHAPES = [
    {"width": 4, "size": 5, "vocab_size": 7},
    {"width": 5, "size": 3, "vocab_size": 4},
    {"width": 3, "size": 6, "vocab_size": 9},
    {"width": 4, "size": 4, "vocab_size": 6, "residual": True},
]

UP_TO_9, UP_TO_3 = st.integers(1, 9), st.integers(1, 3)


@st.composite
def cases(draw, shapes=SHAPES, lengths=UP_TO_9, batches=UP_TO_3):
    """Seed, settings of `random_block`, settings of `random_batch`."""
    chunks = draw(
        st.one_of(
            st.just({}),
            st.builds(lambda n: {"attn_chunks": n}, st.integers(1, 9)),
            st.builds(lambda n: {"chunk_length": n}, st.integers(1, 6)),
        )
    )
    block = {
        **draw(st.sampled_from(shapes)),
        **chunks,
        "segment_length": draw(st.sampled_from([1, 2, 3, 4, 5, 7, 128, None])),
        "step_size_per_unit": draw(st.booleans()),
        "use_bias": draw(st.booleans()),
    }
    batch = {
        "batch": draw(batches),
        "length": draw(lengths),
        "masked": draw(st.booleans()),
        "weighted": draw(st.booleans()),
        "with_state": draw(st.booleans()),
    }
    return draw(st.integers(0, 2**32 - 1)), block, batch


def made(case):
    """The generator, the block and the arguments of a case."""
    seed, block, batch = case
    rng = np.random.default_rng(seed)
    block = random_block(rng, **block)
    return rng, block, random_batch(rng, block, **batch)


@given(cases())
def test_logits_losses_and_state(case):
    _, block, arguments = made(case)
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


# Few shapes: the oracle compiles for each.
@settings(max_examples=10)
@given(cases(shapes=SHAPES[:1], lengths=st.sampled_from([1, 5]), batches=st.just(2)))
def test_gradients(case):
    rng, block, arguments = made(case)
    cotangents = random_cotangents(rng, block, arguments)
    assert_all_close(
        gradients_of(block, arguments, *cotangents),
        oracle_gradients_of(block, arguments, *cotangents),
        tolerance=1e-3,
    )


@settings(max_examples=10)
@given(cases(lengths=st.integers(1, 5)))
def test_gradients_of_the_losses(case):
    """output="loss" differentiates like the logits it comes from."""
    rng, block, arguments = made(case)
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
    gradients = (
        tape.gradient(total, [x, *variables], unconnected_gradients="zero")
        for total in (actual, expected)
    )
    for gradient, right in zip(*gradients, strict=True):
        assert_close(gradient, right, tolerance=1e-3)


@given(cases())
def test_reading_without_labels(case):
    _, block, arguments = made(case)
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


@pytest.mark.parametrize("length", [1, 5])
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
    arguments = random_batch(rng, block, 2, 7, masked=False, with_state=False)
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


@pytest.mark.parametrize("residual", [pytest.param(False, marks=pytest.mark.slow), True])
def test_capped_logits(residual):
    rng = np.random.default_rng(3)
    embedding = keras.layers.ReversibleEmbedding(7, 5, tie_weights=False, logit_soft_cap=1.2)
    settings = {"unembedding": embedding, "residual": residual, "segment_length": 3}
    block = random_block(rng, width=5, size=5, vocab_size=7, **settings)
    embedding._embeddings.trainable = False  # the half that the block has no use for
    arguments = random_batch(rng, block, 2, 8)
    expected = oracle_reading(block, arguments)
    logits, state = read(block, arguments)
    assert np.abs(logits).max() > 0.9
    assert_close(logits, expected.logits)
    assert_states_close(state, expected.state)
    losses, _ = read(block, arguments, output="loss")
    assert_close(losses["loss"], expected.loss)
    cotangents = random_cotangents(rng, block, arguments)
    assert_all_close(
        gradients_of(block, arguments, *cotangents),
        oracle_gradients_of(block, arguments, *cotangents),
    )


def test_a_residual_block_begins_as_the_unembedding_alone():
    block = fwl_keras.FWLBlock(5, 7, residual=True)
    x = np.random.default_rng(0).normal(size=(2, 6, 5)).astype("float32")
    logits = np.asarray(block(x))
    kernel, bias = (np.asarray(v) for v in (block.unembedding.kernel, block.unembedding.bias))
    np.testing.assert_allclose(logits, x @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_the_examples_here_adapt_and_consolidate():
    """The comparisons above would notice a block that skipped either."""
    rng = np.random.default_rng(2)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 2, 11, with_state=False)
    reading = oracle_reading(block, arguments)
    assert np.max(np.abs(reading.logits - reading.slow_logits)) > 0.1
    unsegmented = read(block, arguments | {"labels": None})[0]
    assert np.max(np.abs(reading.slow_logits - unsegmented)) > 0.1
