"""Any length, unknown sizes, every way to run, both precisions."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from block_helpers import (
    MODES,
    arrays,
    assert_all_close,
    assert_close,
    assert_states_close,
    caller,
    differentiated,
    gradients_of,
    oracle_gradients_of,
    oracle_reading,
    random_batch,
    random_block,
    random_cotangents,
    read,
    tensors,
)

import fwl_keras

LENGTHS = [1, 2, 3, 127, 128, 129, 513, 1000]


@pytest.fixture(scope="module")
def long():
    """A block with the default lengths, a batch of 1000 tokens and what the oracle says of it."""
    rng = np.random.default_rng(0)
    block = random_block(rng, step_size=0.004)
    arguments = random_batch(rng, block, 1, max(LENGTHS), masked=False, with_state=False)
    reading = oracle_reading(block, arguments)
    assert np.max(np.abs(reading.logits - reading.slow_logits)) > 0.1
    return block, arguments, reading


def clipped(arguments, length):
    return {n: a if a is None else a[:, :length] for n, a in arguments.items()}


@pytest.mark.parametrize("length", LENGTHS)
def test_any_length(long, length):
    block, arguments, expected = long
    logits, state = read(block, clipped(arguments, length))
    assert_close(logits, expected.logits[:, :length])
    assert state["position"].tolist() == [length % 128]
    if length == len(arguments["labels"][0]):
        assert_states_close(state, expected.state)


@pytest.mark.parametrize(
    "chunks", [{"attn_chunks": 7}, {"chunk_length": 50}, {"chunk_length": 999}]
)
def test_the_chunk_length_does_not_matter(long, chunks):
    block, arguments, expected = long
    other = fwl_keras.FWLBlock.from_config(block.get_config() | chunks)
    other(arguments["x"])
    other.set_weights(block.get_weights())
    assert_close(read(other, clipped(arguments, 300))[0], expected.logits[:, :300])


def test_unknown_batch_and_length(long):
    block, arguments, expected = long
    traces = []

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 4], tf.float32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.float32),
        ]
    )
    def function(x, labels, weights):
        traces.append(x.shape)
        logits, state = block(x, labels=labels, weights=weights, return_state=True)
        return logits, state, tf.gradients(logits, x)[0]

    for batch, length in ((1, 1), (2, 3), (3, 127), (1, 128), (2, 129), (1, 513), (1, 1000)):
        inputs = (np.repeat(arguments[n][:, :length], batch, 0) for n in ("x", "labels", "weights"))
        logits, state, gradient = function(*map(tf.convert_to_tensor, inputs))
        assert_close(logits, np.repeat(expected.logits[:, :length], batch, 0))
        assert np.all(np.asarray(state["position"]) == length % 128)
        assert gradient.shape == (batch, length, 4) and np.all(np.isfinite(gradient))
    assert traces == [(None, None, 4)]


@pytest.mark.slow
def test_unknown_length_with_states_and_masks():
    rng = np.random.default_rng(1)
    block = random_block(rng, segment_length=4, chunk_length=3)
    unknown = {
        "x": tf.TensorSpec([None, None, 4], tf.float32),
        "labels": tf.TensorSpec([None, None], tf.int32),
        "weights": tf.TensorSpec([None, None], tf.float32),
        "x_mask": tf.TensorSpec([None, None], tf.bool),
        "state": {
            name: tf.TensorSpec([None, *value.shape[1:]], value.dtype)
            for name, value in block.initial_state(1).items()
        },
    }

    variables = [v.value for v in block.trainable_variables]

    def function(arguments):
        watched = [arguments["x"], arguments["state"]["anchor_gamma"]]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            logits, state = block(**arguments, return_state=True)
            total = tf.reduce_sum(tf.sin(logits)) + tf.reduce_sum(state["running_gamma"])
        return logits, state, tape.gradient(total, watched + variables)

    traced = tf.function(function, input_signature=[unknown])
    for batch, length in ((1, 1), (2, 3), (3, 11)):
        arguments = tensors(random_batch(rng, block, batch, length))
        logits, state, gradients = function(arguments)
        actual, actual_state, actual_gradients = traced(arguments)
        assert_close(actual, logits)
        assert_states_close(arrays(actual_state), arrays(state))
        for gradient, expected in zip(actual_gradients, gradients, strict=True):
            expected = tf.zeros_like(gradient) if expected is None else expected
            assert_close(gradient, expected, 1e-3)


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("segment_length", "mode"),
    [
        (4, "eager"),
        (4, "graph"),
        pytest.param(4, "xla", marks=pytest.mark.slow),
        (None, "eager"),
        (None, "graph"),
    ],
)
def test_every_way_to_run(segment_length, mode):
    rng = np.random.default_rng(2)
    block = random_block(rng, segment_length=segment_length, chunk_length=3)
    arguments = random_batch(rng, block, 2, 5)
    expected = oracle_reading(block, arguments)
    cotangents = random_cotangents(rng, block, arguments)
    logits, state, gradients = differentiated(block, mode)(arguments, *cotangents)
    assert_close(logits, expected.logits)
    assert_states_close(state, expected.state)
    assert_all_close(gradients, oracle_gradients_of(block, arguments, *cotangents), tolerance=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_a_fresh_start_in_every_mode(mode):
    """No state, no mask, several segments: the way training calls it."""
    rng = np.random.default_rng(3)
    block = random_block(rng, segment_length=4, chunk_length=3)
    arguments = random_batch(rng, block, 2, 6, masked=False, with_state=False)
    cotangent, _ = random_cotangents(rng, block, arguments)
    assert_all_close(
        gradients_of(block, arguments, cotangent, mode=mode),
        oracle_gradients_of(block, arguments, cotangent),
        tolerance=1e-3,
    )


@pytest.mark.parametrize("segment_length", [4, None])
def test_a_fresh_state_is_no_state(segment_length):
    rng = np.random.default_rng(12)
    block = random_block(rng, segment_length=segment_length, chunk_length=3)
    arguments = random_batch(rng, block, 2, 11, with_state=False)
    fresh = arguments | {"state": {n: np.asarray(s) for n, s in block.initial_state(2).items()}}
    (logits, state), (same, same_state) = read(block, arguments), read(block, fresh)
    assert_close(same, logits, 1e-5)
    assert_states_close(same_state, state, 1e-5)


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [
        ("int32", "eager"),
        ("bool", "eager"),
        ("float32", "eager"),
        ("float32", "graph"),
        pytest.param("float32", "xla", marks=pytest.mark.slow),
    ],
)
def test_one_hot_labels_are_ids(dtype, mode):
    rng = np.random.default_rng(4)
    # A graph of one segment is traced sooner; how many there are has no part in it.
    block = random_block(rng, segment_length=4 if mode == "eager" else None)
    arguments = random_batch(rng, block, 2, 7)
    logits, state = read(block, arguments, mode)
    one_hot = np.eye(7)[arguments["labels"]].astype(dtype)
    same, same_state = read(block, arguments | {"labels": one_hot}, mode)
    assert_close(same, logits, 1e-6)
    assert_states_close(same_state, state, 1e-6)


@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_other_integers_are_ids(dtype):
    rng = np.random.default_rng(5)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 2, 7)
    same = arguments | {"labels": arguments["labels"].astype(dtype)}
    np.testing.assert_array_equal(read(block, same)[0], read(block, arguments)[0])


def test_other_dtypes_mean_the_same():
    rng = np.random.default_rng(13)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 2, 11)
    arguments["weights"] = np.round(arguments["weights"])
    expected, state = read(block, arguments)
    for changed in (
        {"x": arguments["x"].astype(np.float64)},
        {"weights": arguments["weights"].astype(np.int32)},
        {"x_mask": arguments["x_mask"].astype(np.int32)},
        {"x_mask": arguments["x_mask"].astype(np.float32)},
        {
            "state": {
                n: a.astype(np.int64) if n == "position" else a.astype(np.float64)
                for n, a in arguments["state"].items()
            }
        },
    ):
        same, same_state = read(block, arguments | changed)
        assert_close(same, expected, 1e-6)
        assert_states_close(same_state, state, 1e-6)
        assert {n: a.dtype for n, a in same_state.items()} == {n: a.dtype for n, a in state.items()}


def test_numpy_arrays_are_as_good_as_tensors():
    rng = np.random.default_rng(14)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 2, 11)
    logits, state = block(**arguments, return_state=True)
    expected, expected_state = read(block, arguments)
    np.testing.assert_array_equal(logits, expected)
    tf.nest.map_structure(np.testing.assert_array_equal, arrays(state), expected_state)


@pytest.mark.parametrize("mode", ["graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_ids_outside_the_vocabulary_in_a_graph_are_never_plausible(mode):
    """Behind such a label a row predicts nothing; other rows are not touched."""
    rng = np.random.default_rng(6)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 4, 5, masked=False)
    arguments["weights"][:] = 1
    labels = arguments["labels"].astype(np.int32)
    at = [1, 2, 4]
    labels[[1, 2, 3], at] = [-1, 7, 2**31 - 1]
    call = caller(block, mode)
    expected, expected_state = call(arguments)
    logits, state = call(arguments | {"labels": labels})
    assert_close(logits[0], expected[0], 1e-6)
    for row, place in enumerate(at, start=1):
        assert np.isnan(logits[row, place + 1 :]).all()
    for name, value in state.items():
        np.testing.assert_allclose(value[0], expected_state[name][0], rtol=1e-5, atol=1e-6)
    sums = state["anchor_gamma"] + state["running_gamma"]
    assert np.isnan(sums[1:]).any(axis=1).all()
    losses = read(block, arguments | {"labels": labels}, mode, return_state=False, output="loss")
    assert np.isfinite(losses["loss"][0]).all()
    for row, place in enumerate(at, start=1):
        assert np.isnan(losses["loss"][row, place:]).all()
        assert np.isnan(losses["slow_loss"][row, place])


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_ignored_label_is_weight_zero(mode):
    """-100 takes no step and has no loss, whatever weight it was given."""
    rng = np.random.default_rng(6)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 2, 5, masked=False)
    ignored = rng.random((2, 5)) < 0.3
    labels = np.where(ignored, -100, arguments["labels"]).astype(np.int32)
    weights = np.where(ignored, 0, arguments["weights"]).astype(np.float32)
    call = caller(block, mode)
    logits, state = call(arguments | {"labels": labels})
    expected, expected_state = call(arguments | {"weights": weights})
    assert_close(logits, expected, 1e-6)
    assert_states_close(state, expected_state, 1e-6)
    losses = read(block, arguments | {"labels": labels}, mode, return_state=False, output="loss")
    for loss in losses.values():
        np.testing.assert_array_equal(np.asarray(loss) == 0, ignored)


def test_bfloat16_keeps_its_sums_in_float32():
    rng = np.random.default_rng(7)
    settings = {"width": 16, "size": 24, "vocab_size": 50, "segment_length": 64}
    exact = random_block(rng, step_size=0.004, **settings)
    mixed = random_block(rng, dtype="mixed_bfloat16", **settings)
    mixed.set_weights(exact.get_weights())
    assert {v.dtype for v in mixed.weights} == {"float32"}
    arguments = random_batch(rng, exact, 2, 256)
    # Something to learn: a text that repeats itself.
    arguments["x"] = np.tile(arguments["x"][:, :32], (1, 8, 1))
    arguments["labels"] = np.tile(arguments["labels"][:, :32], (1, 8))
    expected, expected_state = read(exact, arguments, output="loss")
    losses, state = read(mixed, arguments, output="loss")
    exists = arguments["x_mask"]
    adapted, slow = (expected[name][exists].mean() for name in ("loss", "slow_loss"))
    assert abs(adapted - slow) > 0.05 * slow
    for name in ("loss", "slow_loss"):
        assert losses[name].dtype == np.float32
        mean, right = losses[name][exists].mean(), expected[name][exists].mean()
        assert abs(mean - right) <= 0.005 * right, (name, mean, right)
    logits, _ = read(mixed, arguments)
    assert np.all(np.isfinite(logits.astype(np.float32)))
    assert set(state) == set(expected_state)
    np.testing.assert_array_equal(state["position"], expected_state["position"])
    assert state["position"].dtype == np.int32
    for name in state:
        if name != "position":
            assert state[name].dtype == np.float32
            assert_close(state[name], expected_state[name], 0.1, name=name)
    # Keras would cast the float arguments of most layers; here that would round the state.
    _, unread = read(mixed, arguments | {"labels": None, "weights": None})
    for name, value in arguments["state"].items():
        np.testing.assert_array_equal(unread[name], value)


def test_bfloat16_gradients_are_finite_and_alike():
    rng = np.random.default_rng(8)
    exact = random_block(rng, segment_length=8, step_size=0.01)
    mixed = random_block(rng, segment_length=8, dtype="mixed_bfloat16")
    mixed.set_weights(exact.get_weights())
    arguments = random_batch(rng, exact, 2, 20)
    gradients = []
    for block in (exact, mixed):
        with tf.GradientTape() as tape:
            loss = block(**tensors(arguments), output="loss")["loss"]
            loss = tf.reduce_sum(loss)
        gradient = tape.gradient(loss, [v.value for v in block.trainable_variables])
        gradients.append(np.concatenate([np.ravel(g) for g in gradient]).astype(np.float64))
    first, second = gradients
    assert np.all(np.isfinite(second))
    cosine = np.sum(first * second) / np.linalg.norm(first) / np.linalg.norm(second)
    assert cosine > 0.98


def snapshot(layer):
    """The attributes of a layer and of its sublayers."""
    layers = [layer, *layer._flatten_layers(include_self=False)]
    return [{name: id(value) for name, value in vars(each).items()} for each in layers]


def test_nothing_stays_on_the_block():
    rng = np.random.default_rng(9)
    block = random_block(rng, segment_length=4)
    short, long = (random_batch(rng, block, 2, length) for length in (2, 5))
    expected = [read(block, arguments) for arguments in (short, long)]
    before = snapshot(block)

    @tf.function
    def first(arguments):
        return block(**arguments, return_state=True)

    @tf.function
    def both(one, other):
        # One function inside another, around a call of its own.
        inner, state = first(one)
        return (inner, state), block(**other, return_state=True), first(one)

    for _ in range(2):
        results = [first(tensors(short)), *both(tensors(short), tensors(long)), read(block, long)]
        for result, right in zip(results, [0, 0, 1, 0, 1], strict=True):
            logits, state = arrays(tuple(result))
            assert_close(logits, expected[right][0], 1e-5)
            assert_states_close(state, expected[right][1], 1e-5)
    assert snapshot(block) == before


def test_threads_do_not_meet():
    rng = np.random.default_rng(10)
    block = random_block(rng, segment_length=4)
    batches = [random_batch(rng, block, 2, length) for length in (5, 11, 8)]
    expected = [read(block, arguments) for arguments in batches]
    found = [[] for _ in batches]

    def work(i):
        for _ in range(5):
            found[i].append(read(block, batches[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, right in zip(found, expected, strict=True):
        assert len(results) == 5
        for result in results:
            tf.nest.map_structure(np.testing.assert_array_equal, result, right)


def test_symbolic_outputs_have_the_shapes_and_dtypes_of_real_ones():
    for dtype in ("float32", "mixed_bfloat16"):
        block = fwl_keras.FWLBlock(5, 7, segment_length=4, dtype=dtype)
        for output in ("logits", "features", "loss"):
            symbolic = block(
                keras.Input((None, 4)),
                labels=keras.Input((None,), dtype="int32"),
                output=output,
                return_state=True,
            )
            rng = np.random.default_rng(11)
            real = block(
                rng.normal(size=(2, 3, 4)).astype(np.float32),
                labels=rng.integers(0, 7, (2, 3)),
                output=output,
                return_state=True,
            )

            def same(spec, value):
                assert spec.dtype == keras.backend.standardize_dtype(value.dtype)
                assert len(spec.shape) == len(value.shape)
                for expected, actual in zip(spec.shape, value.shape, strict=True):
                    assert expected in (None, actual)

            tf.nest.map_structure(same, symbolic, real)
            batched = (None, None, {"logits": 7, "features": 5}.get(output))
            for spec in tf.nest.flatten(symbolic[0]):
                assert tuple(spec.shape) == batched[: 2 if output == "loss" else 3]
