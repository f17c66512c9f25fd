"""What must not matter: later tokens, other rows, padding, and what stands where nothing exists."""

import numpy as np
import pytest
import tensorflow as tf
from block_helpers import (
    MODES,
    assert_all_close,
    assert_close,
    assert_states_close,
    caller,
    gradients_of,
    random_batch,
    random_block,
    random_cotangents,
    read,
)

CASES = {
    "one segment": {"segment_length": None, "chunk_length": 4},
    "short segments": {"segment_length": 4, "chunk_length": 3},
    "defaults": {},
}

each_case = pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
each_case_and_mode = pytest.mark.parametrize(
    ("settings", "mode"),
    [
        pytest.param(settings, mode, id=f"{name}-{mode}")
        for name, settings in CASES.items()
        for mode in MODES
        if mode != "xla" or name == "short segments"  # the others take as long and differ in less
    ],
)


def rows(tree, chosen):
    """The chosen rows of every array in a dictionary."""
    if isinstance(tree, dict):
        return {name: rows(value, chosen) for name, value in tree.items()}
    return None if tree is None else tree[chosen]


def joined(*trees):
    """Dictionaries of arrays, one above the other."""
    if isinstance(trees[0], dict):
        return {name: joined(*(tree[name] for tree in trees)) for name in trees[0]}
    return np.concatenate(trees)


@each_case_and_mode
def test_what_comes_later_changes_nothing(settings, mode):
    rng = np.random.default_rng(0)
    block = random_block(rng, **settings)
    first = random_batch(rng, block, 2, 9)
    other = random_batch(rng, block, 2, 9)
    first["x_mask"][:, -1] = other["x_mask"][:, -1] = True  # so that something can change
    call = caller(block, mode)
    expected, _ = call(first)
    for t in (0, 3, 4, 7):
        changed = {"state": first["state"]}
        for name in ("x", "labels", "weights", "x_mask"):
            # The label and weight of t itself are part of what comes later: they predict t + 1.
            keep = t if name in ("labels", "weights") else t + 1
            changed[name] = np.concatenate([first[name][:, :keep], other[name][:, keep:]], axis=1)
        logits, _ = call(changed)
        assert_close(logits[:, : t + 1], expected[:, : t + 1], 1e-6, name=f"t = {t}")
        assert np.max(np.abs(logits - expected)) > 1e-2


def test_a_token_is_seen_by_every_later_one():
    """The counterpart: strictly causal, not blind."""
    rng = np.random.default_rng(1)
    block = random_block(rng, segment_length=4, chunk_length=2)
    first = random_batch(rng, block, 1, 12, masked=False, weighted=False)
    expected, _ = read(block, first)
    for t in range(12):
        labels = first["labels"].copy()
        labels[:, t] = (labels[:, t] + 1) % 7
        changed = np.max(np.abs(read(block, first | {"labels": labels})[0] - expected), axis=-1)[0]
        assert not np.any(changed[: t + 1] > 1e-6)
        assert np.all(changed[t + 1 :] > 1e-6)


@each_case_and_mode
def test_rows_are_bit_identical_whoever_their_neighbours_are(settings, mode):
    rng = np.random.default_rng(2)
    block = random_block(rng, **settings)
    mine = random_batch(rng, block, 2, 9)
    outputs = ["logits"] if mode == "xla" else ["logits", "features", "loss"]
    calls = [caller(block, mode, output=output) for output in outputs]
    results = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        others = random_batch(rng, block, 2, 9)
        if seed == 1:
            others["x_mask"][:] = False
        if seed == 2:
            others["x_mask"][:] = True
        if seed == 3:
            others["x"] *= 1e4
        together = joined(rows(others, [0]), rows(mine, [0]), rows(others, [1]), rows(mine, [1]))
        results.append([call(together) for call in calls])
    for result in results[1:]:
        for first, second in zip(results[0], result, strict=True):
            tf.nest.map_structure(
                lambda a, b: np.testing.assert_array_equal(a[1::2], b[1::2]), first, second
            )


@each_case_and_mode
def test_a_neighbour_that_is_not_a_number_stays_alone(settings, mode):
    rng = np.random.default_rng(3)
    block = random_block(rng, **settings)
    arguments = random_batch(rng, block, 3, 9)
    call = caller(block, mode)
    expected = rows(dict(zip("ab", call(arguments), strict=True)), [0, 2])
    arguments["x"][1] = np.nan
    for name in arguments["state"]:
        if name != "position":
            arguments["state"][name][1] = np.inf
    actual = rows(dict(zip("ab", call(arguments), strict=True)), [0, 2])
    tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)


@each_case
def test_another_batch_size_or_more_padding(settings):
    rng = np.random.default_rng(4)
    block = random_block(rng, **settings)
    arguments = random_batch(rng, block, 3, 9)
    logits, state = read(block, arguments)
    for chosen in ([1], [2, 0], [0, 0, 1, 2, 2]):
        fewer, fewer_state = read(block, rows(arguments, chosen))
        assert_close(fewer, logits[chosen])
        assert_states_close(fewer_state, rows(state, chosen))
    for before, after in ((0, 1), (3, 0), (2, 9)):
        padded = {"state": arguments["state"]}
        for name in ("x", "labels", "weights", "x_mask"):
            array = arguments[name]
            widths = [(0, 0), (before, after), (0, 0)][: array.ndim]
            padded[name] = np.pad(array, widths)
        longer, longer_state = read(block, padded)
        assert_close(longer[:, before : before + 9], logits)
        assert_states_close(longer_state, state)


def with_garbage(rng, arguments):
    """The same call, with things no one may look at wherever nothing exists."""
    absent = ~arguments["x_mask"]
    arguments = {
        name: value if name == "state" else value.copy() for name, value in arguments.items()
    }
    arguments["x"][absent] = rng.choice([np.nan, np.inf, -1e30], (np.sum(absent), 1))
    arguments["weights"][absent] = rng.choice([np.nan, np.inf, -3.0, 1e30], np.sum(absent))
    arguments["labels"][absent] = rng.choice([-100, -1, 7, 2**31 - 1], np.sum(absent))
    return arguments


@each_case_and_mode
def test_garbage_where_nothing_exists(settings, mode):
    rng = np.random.default_rng(5)
    block = random_block(rng, **settings)
    arguments = random_batch(rng, block, 3, 9)
    arguments["x_mask"][2] = False  # a row with nothing at all
    call = caller(block, mode)
    logits, state = call(arguments)
    garbage = with_garbage(rng, arguments)
    actual, actual_state = call(garbage)
    np.testing.assert_array_equal(actual, logits)
    tf.nest.map_structure(np.testing.assert_array_equal, actual_state, state)
    assert not np.any(actual[~arguments["x_mask"]])
    for name, value in arguments["state"].items():
        np.testing.assert_array_equal(actual_state[name][2], value[2])
    losses = read(block, garbage, return_state=False, output="loss")
    for loss in losses.values():
        assert np.all(np.isfinite(loss)) and not np.any(loss[~arguments["x_mask"]])
    unlabelled = {"labels": None, "weights": None}
    np.testing.assert_array_equal(call(garbage | unlabelled)[0], call(arguments | unlabelled)[0])


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_gradients_with_garbage_where_nothing_exists(mode):
    rng = np.random.default_rng(6)
    block = random_block(rng, segment_length=4, chunk_length=2)
    arguments = random_batch(rng, block, 3, 7)
    cotangents = random_cotangents(rng, block, arguments)
    expected = gradients_of(block, arguments, *cotangents, mode=mode)
    actual = gradients_of(block, with_garbage(rng, arguments), *cotangents, mode=mode)
    assert_all_close(actual, expected, tolerance=1e-6)
    assert not np.any(actual["x"][~arguments["x_mask"]])


def test_one_hot_garbage_where_nothing_looks():
    rng = np.random.default_rng(7)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 2, 9)
    expected, state = read(block, arguments)
    one_hot = np.eye(7, dtype=np.float32)[arguments["labels"]]
    one_hot[~arguments["x_mask"]] = np.nan
    assert np.any(arguments["weights"] == 0)
    one_hot[arguments["weights"] == 0] = 0.0  # what one_hot(-100) makes
    actual, actual_state = read(block, arguments | {"labels": one_hot})
    assert_close(actual, expected, 1e-6)
    assert_states_close(actual_state, state, 1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_tokens_of_weight_zero_need_no_label_and_still_count(mode):
    rng = np.random.default_rng(8)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 3, 7, masked=False)
    unweighted = arguments["weights"] == 0
    assert np.any(unweighted)
    call = caller(block, mode)
    expected, state = call(arguments)
    labels = np.where(unweighted, -100, arguments["labels"]).astype(np.int32)
    actual, actual_state = call(arguments | {"labels": labels})
    np.testing.assert_array_equal(actual, expected)
    tf.nest.map_structure(np.testing.assert_array_equal, actual_state, state)
    np.testing.assert_array_equal(state["position"], (arguments["state"]["position"] + 7) % 4)
    losses = read(block, arguments | {"labels": labels}, mode, return_state=False, output="loss")
    for loss in losses.values():
        np.testing.assert_array_equal(loss == 0, unweighted)


@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_token_of_weight_zero_leaves_nothing_behind_whatever_it_is(mode, length):
    """0 * NaN is NaN: such a token has to be dropped, not multiplied away."""
    rng = np.random.default_rng(10)
    block = random_block(rng, segment_length=4, chunk_length=2)
    arguments = random_batch(rng, block, 2, length, masked=False)
    arguments["weights"][:, 0] = 0
    call = caller(block, mode)
    expected, state = call(arguments)
    arguments["x"][:, 0] = np.nan
    actual, actual_state = call(arguments)
    np.testing.assert_array_equal(actual[:, 1:], expected[:, 1:])
    tf.nest.map_structure(np.testing.assert_array_equal, actual_state, state)


def test_the_mask_of_an_embedding_is_heard():
    """Keras hands the mask that travels with x to the argument x_mask."""
    import keras

    rng = np.random.default_rng(9)
    block = random_block(rng, segment_length=4)
    embedding = keras.layers.Embedding(11, 4, mask_zero=True)
    ids = rng.integers(0, 11, (3, 9))
    ids[:, 4:6] = 0
    labels = rng.integers(0, 7, (3, 9))
    implied, state = block(embedding(ids), labels, return_state=True)
    told, expected = block(np.asarray(embedding(ids)), labels, x_mask=ids != 0, return_state=True)
    np.testing.assert_array_equal(implied, told)
    tf.nest.map_structure(np.testing.assert_array_equal, state, expected)
    assert not np.any(implied[:, 4:6])
