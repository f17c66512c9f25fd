"""A sequence read in pieces, each row cut at its own places, gives what one call gives."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from block_helpers import (
    MODES,
    arrays,
    assert_close,
    assert_states_close,
    random_batch,
    random_block,
    random_cotangents,
    read,
    tensors,
)
from hypothesis import given, settings


def cut(rng, batch, length, pieces):
    """Cuts every row at its own places.

    Returns for every piece (index, exists), both [B, N]: where the tokens of the piece stand in the
    whole sequence, at random places among positions that do not exist. Widths differ, rows may have
    no token at all in a piece.
    """
    cuts = np.sort(rng.integers(0, length + 1, (batch, pieces - 1)), axis=1)
    edges = np.concatenate(
        [np.zeros((batch, 1), int), cuts, np.full((batch, 1), length, int)], axis=1
    )
    found = []
    for k in range(pieces):
        counts = edges[:, k + 1] - edges[:, k]
        width = max(1, int(np.max(counts))) + int(rng.integers(0, 3))
        index = np.zeros((batch, width), int)
        exists = np.zeros((batch, width), bool)
        for b in range(batch):
            places = np.sort(rng.choice(width, counts[b], replace=False))
            index[b, places] = np.arange(edges[b, k], edges[b, k + 1])
            exists[b, places] = True
        found.append((index, exists))
    return found


def in_pieces(block, arguments, plan, cotangent=None):
    """Reads the pieces one after the other.

    Returns the logits of the whole sequence, the last state and sum(logits * cotangent).
    """
    x, state = arguments["x"], arguments["state"]
    if state is None:
        state = block.initial_state(x.shape[0])
    logits = np.full((*x.shape[:2], block.unembedding.kernel.shape[1]), np.nan)
    total = 0.0
    for index, exists in plan:

        def take(a, index=index):
            return tf.gather(a, index, batch_dims=1)

        rows, columns = np.nonzero(exists)
        piece, state = block(
            tf.where(exists[..., None], take(x), 1e3),
            labels=tf.where(exists, take(arguments["labels"]), -7),
            weights=tf.where(exists, take(arguments["weights"]), 1e3),
            x_mask=tf.convert_to_tensor(exists),
            state=state,
            return_state=True,
        )
        if cotangent is not None:
            total += tf.reduce_sum(tf.where(exists[..., None], piece * take(cotangent), 0.0))
        else:
            logits[rows, index[rows, columns]] = piece.numpy()[rows, columns]
    return logits, state, total


@st.composite
def cases(draw):
    """Seed, settings of `random_block`, settings of `random_batch`, number of pieces."""
    block = {
        "segment_length": draw(st.sampled_from([1, 2, 3, 5, None])),
        "chunk_length": draw(st.sampled_from([1, 2, 3, 128])),
    }
    batch = {
        "batch": draw(st.integers(1, 3)),
        "length": draw(st.integers(1, 9)),
        "with_state": draw(st.booleans()),
    }
    return draw(st.integers(0, 2**32 - 1)), block, batch, draw(st.integers(1, 3))


def made(case):
    """The generator, the block, the arguments of one call and where it is cut."""
    seed, block, batch, pieces = case
    rng = np.random.default_rng(seed)
    block = random_block(rng, **block)
    arguments = random_batch(rng, block, masked=False, **batch)
    return rng, block, arguments, cut(rng, batch["batch"], batch["length"], pieces)


@given(cases())
def test_pieces_make_one_call(case):
    _, block, arguments, pieces = made(case)
    whole, state = read(block, arguments)
    logits, last, _ = in_pieces(block, tensors(arguments), pieces)
    assert_close(logits, whole)
    assert_states_close(arrays(last), state)


@settings(max_examples=10)
@given(cases())
@pytest.mark.slow
def test_gradients_through_pieces(case):
    rng, block, arguments, pieces = made(case)
    cotangent, state_cotangent = random_cotangents(rng, block, arguments)
    cotangent = tf.constant(cotangent, tf.float32)
    arguments = tensors(arguments)
    sources = {str(i): v.value for i, v in enumerate(block.trainable_variables)}
    sources["x"] = arguments["x"]
    if arguments["state"] is not None:
        sources |= {n: s for n, s in arguments["state"].items() if n != "position"}

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            total, state = function()
            for name, value in state_cotangent.items():
                total += tf.reduce_sum(state[name] * value.astype(np.float32))
        return arrays(tape.gradient(total, sources, unconnected_gradients="zero"))

    def one_call():
        logits, state = block(**arguments, return_state=True)
        return tf.reduce_sum(logits * cotangent), state

    def pieced():
        _, state, total = in_pieces(block, arguments, pieces, cotangent)
        return total, state

    expected, actual = gradient(one_call), gradient(pieced)
    for name in expected:
        assert_close(actual[name], expected[name], tolerance=1e-3, name=name)


@pytest.mark.parametrize(
    ("segment_length", "mode"),
    [
        (length, mode)
        for length in (1, 4, None)
        for mode in MODES
        if mode != "xla" or length == 4  # of the others' operations it has all
    ],
)
def test_one_token_at_a_time(mode, segment_length):
    rng = np.random.default_rng(3)
    block = random_block(rng, segment_length=segment_length, chunk_length=3)
    arguments = random_batch(rng, block, 3, 6)
    whole, state = read(block, arguments)

    def step(arguments, state):
        return block(**arguments, state=state, return_state=True)

    step = MODES[mode](step)
    carried = tensors(arguments.pop("state"))
    for t in range(whole.shape[1]):
        token = tensors({name: a[:, t : t + 1] for name, a in arguments.items()})
        logits, carried = step(token, carried)
        assert_close(logits, whole[:, t : t + 1], name=f"t = {t}")
    assert_states_close(arrays(carried), state)
    assert {name: s.dtype for name, s in arrays(carried).items()} == {
        name: np.int32 if name == "position" else np.float32 for name in carried
    }


def test_a_returned_state_is_already_consolidated():
    rng = np.random.default_rng(4)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 3, 8, masked=False, with_state=False)
    arguments["x_mask"] = np.arange(8) < np.array([[8], [4], [3]])
    _, state = read(block, arguments)
    assert state["position"].tolist() == [0, 0, 3]
    for name, value in state.items():
        if name.startswith("running"):
            assert not np.any(value[:2]) and np.any(value[2])
        if name.startswith("anchor"):
            assert np.all(np.any(value[:2].reshape(2, -1), axis=1)) and not np.any(value[2])
