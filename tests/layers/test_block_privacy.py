"""What must not matter: later tokens, other rows, padding, and what stands where nothing exists."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from block_helpers import (
    MODES,
    assert_all_close,
    assert_close,
    assert_states_close,
    caller,
    differentiated,
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

LENGTH, BATCH = 5, 4

each_case = pytest.mark.parametrize("case", CASES)
each_case_and_mode = pytest.mark.parametrize(
    ("case", "mode"),
    [
        (case, mode)
        for case in CASES
        for mode in MODES
        if mode == "eager" or case == "short segments"  # the others' graphs differ in less
    ],
)
eager_and_graph = pytest.mark.parametrize("mode", ["eager", "graph"])


@pytest.fixture(scope="module")
def blocks():
    """A block for every case."""
    return {
        case: random_block(np.random.default_rng(11), **settings)
        for case, settings in CASES.items()
    }


@pytest.fixture(scope="module")
def callers(blocks):
    """What calls the block of a case: for one shape traced once, whichever test asks."""
    return functools.cache(lambda case, mode, **more: caller(blocks[case], mode, **more))


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
def test_what_comes_later_changes_nothing(blocks, callers, case, mode):
    rng = np.random.default_rng(0)
    first = random_batch(rng, blocks[case], BATCH, LENGTH)
    other = random_batch(rng, blocks[case], BATCH, LENGTH)
    first["x_mask"][:, -1] = other["x_mask"][:, -1] = True  # so that something can change
    call = callers(case, mode)
    expected, _ = call(first)
    for t in range(LENGTH - 1):
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
    # The last row is as it was; of every other one label is changed.
    together = rows(first, [0] * 13)
    together["labels"][range(12), range(12)] += 1
    together["labels"] %= 7
    *logits, expected = read(block, together)[0]
    for t, found in enumerate(logits):
        changed = np.max(np.abs(found - expected), axis=-1)
        assert not np.any(changed[: t + 1] > 1e-6)
        assert np.all(changed[t + 1 :] > 1e-6)


@each_case_and_mode
def test_rows_are_bit_identical_whoever_their_neighbours_are(blocks, callers, case, mode):
    block = blocks[case]
    mine = random_batch(np.random.default_rng(2), block, 2, LENGTH)
    calls = [callers(case, mode)]
    if mode != "xla":
        calls += [callers(case, mode, output=output) for output in ("features", "loss")]
    results = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        others = random_batch(rng, block, 2, LENGTH)
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
def test_a_neighbour_that_is_not_a_number_stays_alone(blocks, callers, case, mode):
    arguments = random_batch(np.random.default_rng(3), blocks[case], BATCH, LENGTH)
    call = callers(case, mode)
    expected = rows(dict(zip("ab", call(arguments), strict=True)), [0, 2, 3])
    arguments["x"][1] = np.nan
    for name in arguments["state"]:
        if name != "position":
            arguments["state"][name][1] = np.inf
    actual = rows(dict(zip("ab", call(arguments), strict=True)), [0, 2, 3])
    tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)


@each_case
def test_another_batch_size_or_more_padding(blocks, case):
    block = blocks[case]
    arguments = random_batch(np.random.default_rng(4), block, 3, LENGTH)
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
        assert_close(longer[:, before : before + LENGTH], logits)
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
def test_garbage_where_nothing_exists(blocks, callers, case, mode):
    rng = np.random.default_rng(5)
    arguments = random_batch(rng, blocks[case], BATCH, LENGTH)
    arguments["x_mask"][2] = False  # a row with nothing at all
    call = callers(case, mode)
    logits, state = call(arguments)
    garbage = with_garbage(rng, arguments)
    actual, actual_state = call(garbage)
    np.testing.assert_array_equal(actual, logits)
    tf.nest.map_structure(np.testing.assert_array_equal, actual_state, state)
    assert not np.any(actual[~arguments["x_mask"]])
    for name, value in arguments["state"].items():
        np.testing.assert_array_equal(actual_state[name][2], value[2])
    losses = read(blocks[case], garbage, return_state=False, output="loss")
    for loss in losses.values():
        assert np.all(np.isfinite(loss)) and not np.any(loss[~arguments["x_mask"]])
    unlabelled = {"labels": None, "weights": None}
    np.testing.assert_array_equal(call(garbage | unlabelled)[0], call(arguments | unlabelled)[0])


@eager_and_graph
def test_gradients_with_garbage_where_nothing_exists(blocks, mode):
    rng = np.random.default_rng(6)
    block = blocks["short segments"]
    arguments = random_batch(rng, block, 3, LENGTH)
    cotangents = random_cotangents(rng, block, arguments)
    gradients = differentiated(block, mode)
    expected = gradients(arguments, *cotangents)[2]
    actual = gradients(with_garbage(rng, arguments), *cotangents)[2]
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


def all_existing(rng, block, length=LENGTH):
    """A batch of which every position exists, and is said to: the shapes of a masked one."""
    return random_batch(rng, block, BATCH, length, masked=False) | {
        "x_mask": np.ones((BATCH, length), bool)
    }


@eager_and_graph
def test_tokens_of_weight_zero_need_no_label_and_still_count(blocks, callers, mode):
    arguments = all_existing(np.random.default_rng(8), blocks["short segments"])
    unweighted = arguments["weights"] == 0
    assert np.any(unweighted)
    call = callers("short segments", mode)
    expected, state = call(arguments)
    labels = np.where(unweighted, -100, arguments["labels"]).astype(np.int32)
    actual, actual_state = call(arguments | {"labels": labels})
    np.testing.assert_array_equal(actual, expected)
    tf.nest.map_structure(np.testing.assert_array_equal, actual_state, state)
    position = (arguments["state"]["position"] + LENGTH) % 4
    np.testing.assert_array_equal(state["position"], position)
    losses, _ = callers("short segments", mode, output="loss")(arguments | {"labels": labels})
    for loss in losses.values():
        np.testing.assert_array_equal(loss == 0, unweighted)


@pytest.mark.parametrize("length", [1, LENGTH])
@eager_and_graph
def test_a_token_of_weight_zero_leaves_nothing_behind_whatever_it_is(blocks, callers, mode, length):
    """0 * NaN is NaN: such a token has to be dropped, not multiplied away."""
    arguments = all_existing(np.random.default_rng(10), blocks["short segments"], length)
    arguments["weights"][:, 0] = 0
    call = callers("short segments", mode)
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
