"""Small language models of every kind of body, for tests of reading and writing."""

import keras
import keras_hub
import numpy as np

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.backbones import RecurrentBackbone

V, WIDTH = 23, 8
# XLA takes half a minute to compile a step on TensorFlow, where a graph does without it.
JIT = keras.backend.backend() == "jax"


def recurrent_body(dtype=None):
    kinds = [keras.layers.LSTM, keras.layers.GRU]
    embedding = keras.layers.Embedding(V, WIDTH, dtype=dtype)
    return RecurrentBackbone([embedding, *(kind(WIDTH, dtype=dtype) for kind in kinds)])


def gemma_body(dtype=None):
    return keras_hub.models.GemmaBackbone(
        vocabulary_size=V,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        hidden_dim=WIDTH,
        intermediate_dim=16,
        dtype=dtype,
    )


def gpt2_body(dtype=None, length=32):
    return keras_hub.models.GPT2Backbone(
        vocabulary_size=V,
        num_layers=1,
        num_heads=2,
        hidden_dim=WIDTH,
        intermediate_dim=16,
        max_sequence_length=length,
        dropout=0.0,
        dtype=dtype,
    )


def plain_body(dtype=None):
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(V, WIDTH, dtype=dtype)(ids)
    return keras.Model(ids, keras.layers.GRU(WIDTH, return_sequences=True, dtype=dtype)(x))


BODIES = {
    "recurrent": recurrent_body,
    "gemma": gemma_body,
    "gpt2": gpt2_body,
    "plain": plain_body,
}


def language_model(body="recurrent", dtype=None, preprocessor=None, context_length=None, **block):
    """Step sizes are large, so that a step too many or too few shows."""
    settings = {"segment_length": 5, "initial_step_size": 0.3, **block}
    return FWLCausalLM(
        BODIES[body](dtype),
        FWLBlock(WIDTH, V, dtype=dtype, **settings),
        preprocessor=preprocessor,
        context_length=context_length,
        dtype=dtype,
    )


def random_ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, V, size=shape).astype("int32")


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def all_log_probabilities(lm, ids):
    """float64 [B, T - 1, V] of tokens 1 .. T - 1, by one ordinary call of the model."""
    return log_softmax(lm(ids[:, :-1], labels=ids[:, 1:]))


def chosen(log_probabilities, ids):
    return np.take_along_axis(log_probabilities, ids[..., None], axis=-1)[..., 0]


def assert_same_state(one, other, atol=1e-4):
    assert set(one) == set(other)
    for name in one:
        a, b = (np.asarray(keras.ops.convert_to_numpy(s[name])) for s in (one, other))
        np.testing.assert_allclose(
            a.astype("float64"), b.astype("float64"), rtol=1e-4, atol=atol, err_msg=name
        )
