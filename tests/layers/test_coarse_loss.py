"""The coarse inner loss: equal to its token-by-token definition, in every form."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from block_helpers import (
    MODES,
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

COARSE = {"inner_loss": "coarse", "codebook_size": 3}


def made(seed, batch=2, length=7, arguments=None, **block):
    rng = np.random.default_rng(seed)
    block = random_block(rng, **COARSE, **block)
    return rng, block, random_batch(rng, block, batch, length, **(arguments or {}))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.sampled_from([1, 3, 4, 5, 128, None]),
    st.sampled_from([1, 2, 3, 4, None]),
    st.booleans(),
    st.fixed_dictionaries({n: st.booleans() for n in ("masked", "weighted", "with_state")}),
)
def test_logits_losses_and_state(seed, length, segment_length, exact_every, residual, arguments):
    sizes = {"width": 5, "size": 5} if residual else {}
    sizes |= {"segment_length": segment_length, "exact_every": exact_every, "residual": residual}
    _, block, arguments = made(seed, length=length, arguments=arguments, **sizes)
    expected = oracle_reading(block, arguments)
    logits, state = read(block, arguments)
    assert_close(logits, expected.logits)
    assert_states_close(state, expected.state)
    losses, state = read(block, arguments, output="loss")
    assert_close(losses["loss"], expected.loss)
    assert_close(losses["slow_loss"], expected.slow_loss)
    assert_states_close(state, expected.state)


@settings(max_examples=6)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 5]),
    st.sampled_from([3, None]),
    st.sampled_from([2, None]),
)
def test_gradients(seed, length, segment_length, exact_every):
    sizes = {"segment_length": segment_length, "exact_every": exact_every}
    rng, block, arguments = made(seed, length=length, **sizes)
    cotangents = random_cotangents(rng, block, arguments)
    found = gradients_of(block, arguments, *cotangents)
    assert_all_close(found, oracle_gradients_of(block, arguments, *cotangents), tolerance=1e-3)
    if length > 1:
        assert np.abs(found["codebook/vectors"]).max() > 0


@pytest.mark.parametrize("mode", [m for m in MODES if m != "eager"])
def test_graphs(mode):
    _, block, arguments = made(0, segment_length=4, exact_every=2)
    for length in (7, 1):
        part = {n: a if n == "state" else a[:, :length] for n, a in arguments.items()}
        expected = oracle_reading(block, part)
        logits, state = read(block, part, mode)
        assert_close(logits, expected.logits)
        assert_states_close(state, expected.state)


@pytest.mark.parametrize("segment_length", [5, None])
def test_a_text_in_parts(segment_length):
    """A state says which tokens are corrected next."""
    _, block, arguments = made(1, length=13, segment_length=segment_length)
    whole, state = read(block, arguments)
    found, last = [], arguments["state"]
    for start, stop in ((0, 3), (3, 4), (4, 11), (11, 12), (12, 13)):
        part = {n: a[:, start:stop] for n, a in arguments.items() if n != "state"}
        logits, last = read(block, {**part, "state": last})
        found.append(logits)
    assert_close(np.concatenate(found, axis=1), whole)
    assert_states_close(last, state)


@pytest.mark.parametrize(
    ("length", "exact_every", "arguments"),
    [
        (8, 1, {}),
        (8, 2, {"masked": False, "with_state": False}),
        (7, 2, {"masked": False, "with_state": False}),
        (8, 2, {}),
        (1, 2, {}),
    ],
)
def test_gradients_of_the_losses(length, exact_every, arguments):
    """The loss of a segment is computed with its exact gradients, and differentiates by itself."""
    rng, block, arguments = made(
        3, length=length, segment_length=4, exact_every=exact_every, arguments=arguments
    )
    weight = rng.normal(size=arguments["labels"].shape).astype(np.float32)
    if arguments["x_mask"] is not None:
        weight = np.where(arguments["x_mask"], weight, 0).astype(np.float32)
    x = tf.constant(arguments.pop("x"))
    sources = [x, *(v.value for v in block.trainable_variables)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        logits = block(x, **arguments)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(arguments["labels"], logits)
        expected = tf.reduce_sum(weight * loss)
        actual = tf.reduce_sum(weight * block(x, **arguments, output="loss")["loss"])
    assert_close(actual, expected)
    gradients = (
        tape.gradient(total, sources, unconnected_gradients="zero") for total in (actual, expected)
    )
    for gradient, right in zip(*gradients, strict=True):
        assert_close(gradient, right, tolerance=1e-3)
