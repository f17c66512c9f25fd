"""Constructors and setters of the layers refuse what does not fit, naming the argument."""

import keras
import numpy as np
import pytest

from fwl_keras import FWLBlock
from fwl_keras.layers.fast_dense import FastDense
from fwl_keras.layers.fast_layer_normalization import FastLayerNormalization
from fwl_keras.layers.unembedding import Unembedding

S, V = 4, 5
NAN, INF = float("nan"), float("inf")
COUNTS = (0, -1, 2.5, True, "3")
NUMBERS = (0.0, -0.1, NAN, INF, True, "1", None)
FRACTIONS = (0.0, 1.0, -0.5, NAN, "0.5", None)
BOOLS = (1, "no", None, 0.0)
STEPS = {
    "initial_step_size": NUMBERS,
    "step_size_gain": NUMBERS,
    "initial_decay": FRACTIONS,
    "step_size_per_unit": BOOLS,
    "train_step_sizes": BOOLS,
}
BLOCK = {
    **STEPS,
    "size": (*COUNTS, None),
    "vocab_size": (*COUNTS, None),
    "attn_chunks": COUNTS,
    "chunk_length": COUNTS,
    "segment_length": COUNTS,
    "use_bias": (1, "no"),
    "use_fast_weights": BOOLS,
    "residual": BOOLS,
    "epsilon": (-1e-6, NAN, INF, "0", None),
    "loss_reduction": ("mean", None),
}
MAKERS = [
    (FWLBlock, {"size": S, "vocab_size": V}, BLOCK),
    (FastDense, {"units": S}, {**STEPS, "units": COUNTS, "train_decays": BOOLS}),
    (FastLayerNormalization, {}, {**STEPS, "epsilon": (-1.0, NAN)}),
    (Unembedding, {"vocab_size": V}, {"vocab_size": COUNTS, "use_bias": BOOLS}),
]


@pytest.mark.parametrize(
    ("make", "fitting", "name", "value"),
    [
        (make, fitting, name, value)
        for make, fitting, wrong in MAKERS
        for name, values in wrong.items()
        for value in values
    ],
)
def test_constructors(make, fitting, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must"):
        make(**{**fitting, name: value})


def test_numbers_of_numpy_fit():
    FWLBlock(np.int64(S), np.int32(V), initial_step_size=np.float32(0.1), residual=np.bool_(True))
    FWLBlock(S, V, epsilon=0, initial_step_size=1)


@pytest.fixture(scope="module")
def block():
    block = FWLBlock(S, V)
    block.build((None, None, S))
    return block


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INF, [1.0, INF], [1.0, NAN], "1", True, []])
def test_step_sizes(block, value):
    before = block.step_sizes()
    with pytest.raises(ValueError, match="`gamma` must"):
        block.set_step_sizes({"beta": 0.5, "gamma": value})
    with pytest.raises(ValueError, match="`gamma` must"):
        block.normalization.set_step_size("gamma", value)
    assert block.step_sizes() == before


@pytest.mark.parametrize("value", [0.0, 1.0, NAN, [0.5, 1.5], "0.5", True])
def test_decays(block, value):
    before = block.decays()
    with pytest.raises(ValueError, match="`gamma` must"):
        block.set_decays({"beta": 0.5, "gamma": value})
    with pytest.raises(ValueError, match="`gamma` must"):
        block.normalization.set_decay("gamma", value)
    assert block.decays() == before


@pytest.mark.parametrize("value", [0, 1.5, True, None])
def test_states(block, value):
    with pytest.raises(ValueError, match="`batch_size` must"):
        block.initial_state(value)


def test_unembeddings():
    with pytest.raises(ValueError, match="has no configuration of its own"):
        Unembedding(V, layer=keras.layers.ReversibleEmbedding(V, S)).get_config()


def test_what_a_block_cannot_be_built_for():
    with pytest.raises(ValueError, match=r"`x` must have shape .* with a known width"):
        FWLBlock(S, V).build((None, None, None))
    with pytest.raises(ValueError, match=f"`residual=True` adds features of width {S + 1}"):
        FWLBlock(S, V, residual=True).build((None, None, S + 1))
    with pytest.raises(ValueError, match="was tied to the embedding 'ids'; call `set_unembedding"):
        FWLBlock(S, V, unembedding="ids").build((None, None, S))
