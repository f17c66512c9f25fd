"""Drawing tokens against a plain NumPy definition and against KerasHub's samplers."""

import keras_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from fwl_keras.ops import sample_tokens

pytestmark = pytest.mark.jax

V = 12


def kept_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distribution by its definition, one row, in float64."""
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    before, kept = 0.0, np.zeros_like(p)
    for rank, token in enumerate(order):
        if (top_k is None or rank < top_k) and (top_p is None or before <= top_p):
            kept[token] = p[token]
        before += p[token]
    return kept / kept.sum()


def frequencies(logits, draws=4000, **settings):
    """How often each token is drawn on a regular grid of numbers: exact to 1 / draws."""
    uniform = ((np.arange(draws) + 0.5) / draws).astype("float32")
    tokens = sample_tokens(np.tile(logits, (draws, 1)).astype("float32"), uniform, **settings)
    return np.bincount(np.asarray(tokens), minlength=V) / draws


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 4},
        {"top_k": 1},
        {"top_p": 0.6},
        {"top_p": 0.01},
        {"top_k": 5, "top_p": 0.7},
        {"top_k": 100, "top_p": 1.0},
    ],
)
def test_frequencies(settings):
    logits = np.random.default_rng(0).normal(size=V) * 1.5
    expected = kept_probabilities(logits, **settings)
    np.testing.assert_allclose(frequencies(logits, **settings), expected, atol=2 * V / 4000)
    most = settings.get("top_k")
    if most is not None and most <= V:
        limited = frequencies(logits, most=most, **settings)
        np.testing.assert_allclose(limited, expected, atol=2 * V / 4000)


@given(
    seed=st.integers(0, 1000),
    k=st.integers(1, V),
    p=st.floats(0.05, 1.0),
    number=st.floats(0, 1, exclude_max=True, width=32),
)
def test_only_kept_tokens_are_drawn(seed, k, p, number):
    logits = np.random.default_rng(seed).normal(size=V).astype("float32") * 3
    expected = kept_probabilities(logits.astype("float64"), 1.0, k, p)
    token = sample_tokens(logits[None], np.array([number], "float32"), top_k=k, top_p=p)
    token = int(np.asarray(token)[0])
    assert expected[token] > 0 or abs(np.cumsum(np.sort(expected)[::-1])[k - 1] - p) < 1e-5


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        (keras_hub.samplers.TopKSampler(k=3), {"top_k": 3}),
        (keras_hub.samplers.TopPSampler(p=0.5), {"top_p": 0.5}),
        (keras_hub.samplers.TopPSampler(p=0.8, k=3), {"top_p": 0.8, "top_k": 3}),
        (keras_hub.samplers.RandomSampler(temperature=0.7), {"temperature": 0.7}),
    ],
)
def test_the_distribution_is_that_of_the_keras_hub_sampler(sampler, settings):
    logits = np.random.default_rng(1).normal(size=V).astype("float32") * 1.5
    draws = 8000
    probabilities = sampler.compute_probabilities(np.tile(logits, (draws, 1)))
    theirs = np.bincount(np.asarray(sampler.get_next_token(probabilities)), minlength=V) / draws
    np.testing.assert_allclose(frequencies(logits, **settings), theirs, atol=0.03)
    assert set(np.nonzero(theirs)[0]) == set(np.nonzero(frequencies(logits, **settings))[0])


def test_rows_have_settings_of_their_own():
    logits = np.tile(np.linspace(0, 2, V), (4, 1)).astype("float32")
    tokens = sample_tokens(
        logits,
        np.full(4, 0.999, "float32"),
        temperature=np.array([0.0, 1.0, 1.0, 1.0], "float32"),
        top_k=np.array([V, V, 1, V]),
        top_p=np.array([1.0, 1.0, 1.0, 1e-6], "float32"),
    )
    assert np.asarray(tokens).tolist() == [V - 1, 0, V - 1, V - 1]


def test_impossible_tokens_are_never_drawn():
    logits = np.full((1, V), -np.inf, "float32")
    logits[0, [3, 5]] = 0.0
    for number in (0.0, 0.4999, 0.5, 1 - 2.0**-24):
        token = int(np.asarray(sample_tokens(logits, np.array([number], "float32")))[0])
        assert token == (3 if number < 0.5 else 5)


def test_greedy_is_argmax():
    logits = np.random.default_rng(2).normal(size=(20, V)).astype("float32")
    tokens = sample_tokens(ops.convert_to_tensor(logits), np.zeros(20, "float32"), temperature=0.0)
    np.testing.assert_array_equal(tokens, logits.argmax(axis=1))


def test_a_tiny_temperature_is_greedy_too():
    logits = np.random.default_rng(2).normal(size=(20, V)).astype("float32") * 10
    for temperature in (1e-3, 1e-20, 2e-38):
        tokens = sample_tokens(logits, np.full(20, 0.9, "float32"), temperature=temperature)
        np.testing.assert_array_equal(tokens, logits.argmax(axis=1))
