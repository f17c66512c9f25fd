"""Bad input is a ValueError that names the argument."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from block_helpers import random_batch, random_block, read

import fwl_keras

B, T, D, S, V, L = 2, 3, 4, 5, 7, 4


@pytest.fixture(scope="module")
def block():
    return random_block(np.random.default_rng(0), segment_length=L)


@pytest.fixture
def arguments(block):
    return random_batch(np.random.default_rng(1), block, B, T)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("size", "vocab_size", "attn_chunks", "chunk_length", "segment_length")
        for value in (0, -3, 2.5)
    ]
    + [
        ("loss_reduction", "mean"),
        ("loss_reduction", None),
        ("epsilon", -1e-6),
        ("initial_step_size", 0.0),
        ("initial_step_size", -0.1),
        ("step_size_gain", 0.0),
        ("initial_decay", 0.0),
        ("initial_decay", 1.0),
        ("initial_decay", 1.5),
    ],
)
def test_settings(name, value):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        fwl_keras.FWLBlock(**{"size": S, "vocab_size": V, name: value})


def test_both_chunk_arguments():
    with pytest.raises(ValueError, match=r"attn_chunks.*chunk_length|chunk_length.*attn_chunks"):
        fwl_keras.FWLBlock(S, V, attn_chunks=2, chunk_length=3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: keras.layers.Dense(V + 1), "unembedding"),
        (lambda: keras.layers.Dense(V, activation="relu"), "unembedding"),
        (lambda: keras.layers.ReversibleEmbedding(V + 1, S), "unembedding"),
        (lambda: keras.layers.ReversibleEmbedding(V, S + 1), "unembedding"),
        (lambda: keras.layers.Flatten(), "unembedding"),
    ],
)
def test_unembeddings_that_do_not_fit(make, name):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        block = fwl_keras.FWLBlock(S, V, unembedding=make())
        block(np.zeros((B, T, D), np.float32))


def test_initial_state_before_build():
    with pytest.raises(ValueError, match=r"(?i)buil[dt]"):
        fwl_keras.FWLBlock(S, V).initial_state(B)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", lambda a: np.where(np.arange(T) == 1, V, a)),
        ("labels", lambda a: np.where(np.arange(T) == 1, -1, a)),
        ("labels", lambda a: np.where(np.arange(T) == 1, 2**32 + 1, a.astype(np.int64))),
        ("labels", lambda a: a.astype(np.float32)),
        ("labels", lambda a: a[:, :-1]),
        ("labels", lambda a: a[:-1]),
        ("labels", lambda a: a[0]),
        ("labels", lambda a: np.full((B, T, V), 1 / V, np.float32)),
        ("labels", lambda a: 0.9 * np.eye(V, dtype=np.float32)[a]),
        ("labels", lambda a: 2 * np.eye(V, dtype=np.int32)[a]),
        ("labels", lambda a: np.zeros((B, T, V), np.int32)),
        ("labels", lambda a: np.eye(V + 1, dtype=np.int32)[a]),
        ("labels", lambda a: np.eye(V, dtype=np.int32)[a][:, :-1]),
        ("weights", lambda a: np.where(np.arange(T) == 1, np.nan, a).astype(np.float32)),
        ("weights", lambda a: np.where(np.arange(T) == 1, np.inf, a).astype(np.float32)),
        ("weights", lambda a: np.where(np.arange(T) == 1, -np.inf, a).astype(np.float32)),
        ("weights", lambda a: a[:, :-1]),
        ("weights", lambda a: a[:-1]),
        ("weights", lambda a: a[0]),
        ("weights", lambda a: a[..., None]),
        ("x_mask", lambda a: a[:, :-1]),
        ("x_mask", lambda a: a[:-1]),
        ("x_mask", lambda a: a[0]),
        ("x_mask", lambda a: a[..., None]),
        ("x", lambda a: a[0]),
        ("x", lambda a: a[:, :, None]),
        ("x", lambda a: a[..., :-1]),
    ],
)
def test_arrays(block, arguments, name, change):
    arguments["weights"][:] = 1.0
    arguments["x_mask"][:] = True
    read(block, arguments)
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        read(block, arguments | {name: change(arguments[name])})


@pytest.mark.parametrize("name", ["labels", "weights", "x_mask", "state"])
def test_shapes_are_checked_in_graphs_too(block, arguments, name):
    if name == "state":
        changed = {n: a[:-1] for n, a in arguments["state"].items()}
    else:
        changed = arguments[name][:, :-1]
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        read(block, arguments | {name: changed}, "graph")


def test_only_looked_at_labels_are_checked(block, arguments):
    """The counterpart: an id outside the vocabulary where nothing learns from it is fine."""
    arguments["weights"][:] = [1.0, 0.0, 1.0]
    arguments["x_mask"][:] = [True, True, False]
    arguments["labels"][:] = [3, -1, 99]
    logits, _ = read(block, arguments)
    assert np.all(np.isfinite(logits))
    for place in ("weights", "x_mask"):
        changed = arguments | {place: np.ones_like(arguments[place])}
        with pytest.raises(ValueError, match=r"\blabels\b"):
            read(block, changed)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_no_tokens(block, mode):
    for labels in (None, np.zeros((B, 0), np.int32)):
        with pytest.raises(ValueError, match=r"(?i)T = 0|T >= 1|empty|at least one"):
            read(block, {"x": np.zeros((B, 0, D), np.float32), "labels": labels}, mode)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {n: a[:-1] for n, a in s.items()},
        lambda s: s | {"anchor_gamma": s["anchor_gamma"][:-1]},
        lambda s: s | {"running_gamma": s["running_gamma"][:, :-1]},
        lambda s: s | {"running_expand_kernel": s["running_expand_kernel"][0]},
        lambda s: s | {"position": s["position"][:-1]},
        lambda s: {n: a for n, a in s.items() if n != "anchor_beta"},
        lambda s: {n: a for n, a in s.items() if n != "position"},
        lambda s: s | {"surprise": s["position"]},
        lambda s: s | {"position": np.full(B, L, np.int32)},
        lambda s: s | {"position": np.array([0, -1], np.int32)},
        lambda s: s | {"position": s["position"].astype(np.float32)},
        lambda s: list(s.values()),
    ],
)
def test_states(block, arguments, change):
    with pytest.raises(ValueError, match=r"\b(state|position)\b"):
        read(block, arguments | {"state": change(arguments["state"])})


def test_a_single_segment_has_no_position(arguments):
    block = random_block(np.random.default_rng(2), segment_length=None)
    with pytest.raises(ValueError, match=r"\bposition\b"):
        read(block, arguments | {"state": arguments["state"] | {"position": np.array([0, 1])}})


def test_parity_mode_takes_and_gives_no_state(arguments):
    block = random_block(
        np.random.default_rng(3),
        loss_reduction="mean_with_sample_weight",
        epsilon=0.0,
        segment_length=None,
    )
    arguments["state"] = {n: np.zeros_like(a) for n, a in arguments["state"].items()}
    with pytest.raises(ValueError, match=r"\bstate\b"):
        read(block, arguments, return_state=False)
    with pytest.raises(ValueError, match=r"\b(return_)?state\b"):
        read(block, arguments | {"state": None})


def test_weights_without_labels_and_unknown_outputs(block, arguments):
    with pytest.raises(ValueError, match=r"\boutput\b"):
        read(block, arguments, output="probabilities")
    with pytest.raises(ValueError, match=r"\blabels\b"):
        read(block, arguments | {"labels": None}, output="loss")


@pytest.mark.parametrize(
    ("setter", "value"),
    [
        ("set_step_sizes", {"gamma": 0.0}),
        ("set_step_sizes", {"gamma": -0.1}),
        ("set_step_sizes", {"gamma": float("nan")}),
        ("set_step_sizes", {"gammas": 0.1}),
        ("set_decays", {"gamma": 0.0}),
        ("set_decays", {"gamma": 1.0}),
        ("set_decays", {"gamma": float("nan")}),
        ("set_decays", {"gammas": 0.5}),
    ],
)
def test_setters(block, setter, value):
    before = block.step_sizes(), block.decays()
    with pytest.raises(ValueError, match=next(iter(value))):
        getattr(block, setter)(value)
    tf.nest.map_structure(
        np.testing.assert_array_equal, (block.step_sizes(), block.decays()), before
    )


def test_a_refused_call_leaves_the_block_as_it_was(block, arguments):
    expected = read(block, arguments)
    with pytest.raises(ValueError, match=r"\blabels\b"):
        read(block, arguments | {"labels": np.full((B, T), V), "x_mask": None, "weights": None})
    tf.nest.map_structure(np.testing.assert_array_equal, read(block, arguments), expected)
