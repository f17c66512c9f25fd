"""Hidden-state optimisation against its definition, with gradients by finite differences."""

import keras
import keras_hub
import numpy as np
import pytest

from benchmarks.rivals.hidden_state_optimisation import HiddenStateOptimisation
from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.evaluation import document_losses

V, WIDTH, EOS = 17, 8, 1


@pytest.fixture(scope="module")
def lm():
    keras.utils.set_random_seed(0)
    body = keras_hub.models.GemmaBackbone(V, 2, 2, 1, WIDTH, 16, 4)
    for v in body.token_embedding.weights:
        v.assign(keras.random.normal(v.shape, stddev=0.7, seed=1))
    lm = FWLCausalLM(body, FWLBlock(WIDTH, V, use_fast_weights=False))
    lm.compile("sgd", run_eagerly=True)
    return lm


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(2, V, size=n).astype("int32") for n in (9, 1, 4, 0)]


def test_without_steps_it_is_plain_evaluation(lm, documents):
    still = HiddenStateOptimisation(0.0, length=4, context_length=8)
    found = still.losses(lm, documents, eos_id=EOS)
    expected = document_losses(lm, documents, length=8, batch_size=2, eos_id=EOS, pad_id=0)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_steps_are_adams(lm):
    """Three pieces of two tokens: none, one and two steps on the first one's keys and values."""
    ids, rate = np.array([5, 9, 3, 12, 7, 4], "int32"), 0.3
    found = HiddenStateOptimisation(rate, length=2, context_length=6)
    (found,) = found.losses(lm, [ids], eos_id=EOS)
    tokens = np.insert(ids, 0, EOS).astype("int32")

    def read(start, context):
        """The losses of a piece after each of the rows of a context."""
        piece = np.repeat(tokens[None, start : start + 3], len(context["cache"]), axis=0)
        there = np.ones((len(piece), 2), bool)
        features, after = lm.body.advance(piece[:, :-1], there, context)
        losses = lm.block(features, piece[:, 1:], output="loss")["loss"]
        return np.asarray(losses, "float64"), after

    def gradient(start, context):
        cache = np.array(keras.ops.convert_to_numpy(context["cache"]))
        places = np.argwhere(cache)
        result = np.zeros(cache.shape)
        both = []
        for sign in (1, -1):
            moved = np.repeat(cache, len(places), axis=0)
            for row, place in enumerate(places):
                moved[(row, *place[1:])] += sign * 1e-2
            rows = {name: np.repeat(value, len(places), axis=0) for name, value in context.items()}
            losses, _ = read(start, {**rows, "cache": keras.ops.convert_to_tensor(moved)})
            both.append(losses.mean(axis=1))
        result[tuple(places.T)] = (both[0] - both[1]) / 2e-2
        return result

    context, expected, history = lm.body.initial_context(1, 6), [], []
    for start in (0, 2, 4):
        losses, after = read(start, context)
        expected.extend(losses[0])
        cache = np.array(keras.ops.convert_to_numpy(after["cache"]))
        if start:
            history.append(gradient(start, context))
        first, second = np.zeros(cache.shape), np.zeros(cache.shape)
        for g in history:
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        # The first piece's have had len(history) steps, the second one's one fewer.
        for step in range(1, len(history) + 1):
            written = slice(2 * (len(history) - step), 2 * (len(history) - step) + 2)
            change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            cache[:, :, :, written] -= rate * change[:, :, :, written]
        context = {**after, "cache": keras.ops.convert_to_tensor(cache.astype("float32"))}
    np.testing.assert_allclose(found, expected, atol=2e-3)
    plain = HiddenStateOptimisation(0.0, length=2, context_length=6)
    assert np.abs(plain.losses(lm, [ids], eos_id=EOS)[0] - found).max() > 5e-2


def test_documents_side_by_side(lm, documents):
    """Rows that begin and end at other times, and rows of padding, change nothing."""
    method = HiddenStateOptimisation(0.1, length=2, context_length=8)
    expected = method.losses(lm, documents, eos_id=EOS, batch_size=1)
    plain = HiddenStateOptimisation(0.0, length=2, context_length=8)
    assert np.abs(plain.losses(lm, documents, eos_id=EOS)[0] - expected[0]).max() > 1e-2
    for batch_size in (2, 3, 8):
        found = method.losses(lm, documents, eos_id=EOS, batch_size=batch_size)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_weights_are_untouched_and_the_future_unseen(lm, documents):
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in lm.variables]
    # Two pieces are read after a step.
    method = HiddenStateOptimisation(0.1, length=2, context_length=8)
    expected = method.losses(lm, documents, eos_id=EOS)[0]
    for value, v in zip(before, lm.variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(v))
    rng = np.random.default_rng(5)
    for t in (3, 5, 8):
        shuffled = documents[0].copy()
        shuffled[t:] = rng.permutation(shuffled[t:])
        found = method.losses(lm, [shuffled, *documents[1:]], eos_id=EOS)[0]
        np.testing.assert_array_equal(found[:t], expected[:t])


def test_errors(documents):
    with pytest.raises(ValueError, match="must be a multiple of `length`=5"):
        HiddenStateOptimisation(length=5, context_length=8)
    with pytest.raises(ValueError, match="`learning_rate` must"):
        HiddenStateOptimisation(-1.0)
    layers = [keras.layers.Embedding(V, WIDTH), keras.layers.GRU(WIDTH, return_sequences=True)]
    lm = FWLCausalLM(keras.Sequential(layers), FWLBlock(WIDTH, V))
    with pytest.raises(ValueError, match="received Sequential"):
        HiddenStateOptimisation().losses(lm, documents, eos_id=EOS)
