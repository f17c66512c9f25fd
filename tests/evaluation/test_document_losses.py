"""Losses of documents read side by side, against one document at a time."""

import keras
import numpy as np
import pytest

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.data import evaluation_windows
from fwl_keras.evaluation import document_losses, stream_losses, token_losses

V, T, EOS, PAD = 19, 8, 1, 0
SIZES = [3, 16, 0, 29, 8, 24, 1]
DOCUMENTS = [np.random.default_rng(i).integers(2, V, size) for i, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def lm():
    """A small model whose adaptation is well above any tolerance."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(V, 8, embeddings_initializer="normal")(tokens)
    backbone = keras.Model(tokens, keras.layers.Conv1D(8, 3, padding="causal")(x))
    return FWLCausalLM(backbone, FWLBlock(8, V, segment_length=4, initial_step_size=0.03))


@pytest.fixture
def eager(lm, monkeypatch):
    """Compiling for every document takes its time."""
    monkeypatch.setattr(lm, "run_eagerly", True)


@pytest.fixture(scope="module")
def one_by_one(lm):
    """Losses of each document as a stream, and of all documents side by side."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "run_eagerly", True)
        # A stream's windows are full: what comes after the document changes nothing in it.
        streams = [
            stream_losses(lm, windows_of(ids)).ravel()[: len(ids)] if len(ids) else np.zeros(0)
            for ids in DOCUMENTS
        ]
        return streams, losses_of(lm)


def losses_of(lm, documents=DOCUMENTS, **options):
    return document_losses(lm, documents, length=T, eos_id=EOS, pad_id=PAD, **options)


def windows_of(ids):
    return evaluation_windows(np.append(EOS, ids), T, pad_id=PAD)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_carried_losses_are_those_of_each_document_as_a_stream(lm, one_by_one, batch_size):
    losses = losses_of(lm, batch_size=batch_size) if batch_size < 8 else one_by_one[1]
    assert [len(one) for one in losses] == SIZES
    for expected, found in zip(one_by_one[0], losses, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_reset_losses_are_those_of_each_window(lm, one_by_one, batch_size):
    losses = losses_of(lm, batch_size=batch_size, carry=False)
    windows = np.concatenate([windows_of(ids) for ids in DOCUMENTS if len(ids)])
    expected = token_losses(lm, windows, batch_size=len(windows), pad_token_id=PAD)
    expected = expected[np.isfinite(expected)]
    np.testing.assert_allclose(np.concatenate(losses), expected, atol=1e-4)
    for ids, found, other in zip(DOCUMENTS, losses, one_by_one[1], strict=True):
        if len(ids):
            np.testing.assert_allclose(found[:T], other[:T], atol=1e-4)
        if len(ids) > T:
            assert np.abs(found[T:] - other[T:]).max() > 1e-2


def test_compiled_losses_are_the_same(lm, one_by_one):
    for ours, expected in zip(losses_of(lm), one_by_one[1], strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_model_without_fast_weights_has_nothing_to_carry(lm):
    block = FWLBlock(8, V, use_fast_weights=False)
    base = FWLCausalLM(lm.backbone, block)
    base.run_eagerly = True
    for carried, reset in zip(losses_of(base), losses_of(base, carry=False), strict=True):
        np.testing.assert_allclose(carried, reset, atol=1e-5)


def test_bad_arguments(lm):
    with pytest.raises(ValueError, match="holds no tokens"):
        losses_of(lm, [[], []])
    with pytest.raises(
        ValueError, match="`batch_size` must be a positive whole number; received 0"
    ):
        losses_of(lm, batch_size=0)
