"""Losses of single tokens against the model's logits."""

import keras
import numpy as np
import pytest

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.evaluation import stream_losses, token_losses

pytestmark = pytest.mark.eager

V, T = 19, 10


@pytest.fixture
def lm():
    """A small model whose adaptation is well above any tolerance."""
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(V, 8, embeddings_initializer="normal")(tokens)
    backbone = keras.Model(tokens, keras.layers.GRU(8, return_sequences=True)(x))
    return FWLCausalLM(backbone, FWLBlock(8, V, segment_length=4, initial_step_size=0.03))


def windows(count, seed=0):
    """Consecutive windows [count, T + 1] of one stream."""
    stream = np.random.default_rng(seed).integers(1, V, count * T + 1).astype("int32")
    return np.stack([stream[i * T : i * T + T + 1] for i in range(count)])


def from_logits(logits, labels):
    return np.asarray(
        keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    )


@pytest.mark.parametrize("batch_size", [1, pytest.param(2, marks=pytest.mark.graph), 5])
def test_token_losses(lm, batch_size):
    w = windows(5)
    expected = from_logits(lm(w[:, :-1], labels=w[:, 1:]), w[:, 1:])
    losses = token_losses(lm, w, batch_size=batch_size)
    assert losses.shape == (5, T)
    np.testing.assert_allclose(losses, expected, atol=1e-5)


def test_padding_has_no_loss_and_changes_none(lm):
    w = windows(3)
    expected = token_losses(lm, w)
    w[1, 6:] = 0
    losses = token_losses(lm, w, pad_token_id=0)
    assert np.isnan(losses[1, 5:]).all()
    np.testing.assert_allclose(losses[1, :5], expected[1, :5], atol=1e-5)
    np.testing.assert_allclose(losses[[0, 2]], expected[[0, 2]], atol=1e-5)


def test_stream_carries_the_state_and_nothing_else(lm):
    w = windows(4)
    features = np.concatenate([np.asarray(lm.backbone(row[None, :-1])) for row in w], axis=1)
    labels = w[:, 1:].reshape(1, -1)
    expected = from_logits(lm.block(features, labels), labels).reshape(4, T)
    losses = stream_losses(lm, w)
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    reset = stream_losses(lm, w, reset=True)
    np.testing.assert_allclose(reset[0], losses[0], atol=1e-4)
    assert np.abs(reset[1:] - losses[1:]).max() > 1e-2


def test_bad_windows(lm):
    with pytest.raises(ValueError, match="`windows` is empty"):
        token_losses(lm, np.zeros((0, T + 1), "int32"))
    with pytest.raises(ValueError, match="`windows` are not consecutive"):
        stream_losses(lm, windows(3)[::-1])
