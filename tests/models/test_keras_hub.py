"""Fast weights on KerasHub's models: they begin as the model, adapt, train, write, are saved."""

import keras
import keras_hub
import numpy as np
import pytest
from bodies import gemma, gpt2, llama, mistral, opt
from lm_helpers import chosen, log_softmax, random_ids

from fwl_keras.models.keras_hub_causal_lm import from_causal_lm, from_preset

V = 23

CAUSAL_LMS = {
    gemma: keras_hub.models.GemmaCausalLM,
    gpt2: keras_hub.models.GPT2CausalLM,
    llama: keras_hub.models.LlamaCausalLM,
    mistral: keras_hub.models.MistralCausalLM,
    opt: keras_hub.models.OPTCausalLM,
}


def make(body):
    return CAUSAL_LMS[body](backbone=body(V))


@pytest.fixture(params=CAUSAL_LMS, ids=lambda body: body.__name__)
def causal_lm(request):
    keras.utils.set_random_seed(3)
    causal_lm = make(request.param)
    # Random weights of everyday size, so that logits differ.
    embedding = causal_lm.backbone.token_embedding
    for variable in embedding.weights:
        variable.assign(keras.random.normal(variable.shape, stddev=0.7, seed=1))
    return causal_lm


def test_the_slow_pass_begins_as_the_model_and_the_block_trains_alone(causal_lm):
    """What works with every body is in test_support.py."""
    ids = random_ids(4, 14)
    text = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    logits = np.asarray(causal_lm(text))
    lm = from_causal_lm(causal_lm, segment_length=5, initial_step_size=0.1)
    lm.compile(keras.optimizers.Adam(3e-3), run_eagerly=True)

    expected = chosen(log_softmax(logits[:, :-1]), ids[:, 1:])
    trained = lm.score(ids, use_fast_weights=False).log_probabilities[:, 1:]
    np.testing.assert_allclose(trained, expected, atol=1e-4)
    # What differs is what was learned in between.
    assert np.abs(lm.score(ids).log_probabilities[:, 1:] - expected).max() > 1e-3

    lm.backbone.trainable = False
    lm.compile(keras.optimizers.Adam(3e-3), run_eagerly=True)
    before = [np.array(v) for v in lm.backbone.variables]
    first = lm.train_on_batch(ids, return_dict=True)["loss"]
    for _ in range(2):
        last = lm.train_on_batch(ids, return_dict=True)["loss"]
    assert last < first
    for variable, value in zip(lm.backbone.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_lora():
    lm = from_causal_lm(make(gemma), segment_length=5)
    lm.backbone.enable_lora(2)
    lm.compile("adam", run_eagerly=True)
    names = [v.path for v in lm.trainable_variables]
    assert any("lora" in name for name in names)
    lm.fit(random_ids(4, 14), verbose=0)


def test_presets(tmp_path):
    causal_lm = make(gpt2)
    causal_lm.save_to_preset(str(tmp_path / "preset"))
    lm = from_preset(str(tmp_path / "preset"), segment_length=5)
    ids = random_ids(2, 9)
    logits = np.asarray(causal_lm({"token_ids": ids, "padding_mask": np.ones_like(ids)}))
    expected = chosen(log_softmax(logits[:, :-1]), ids[:, 1:])
    found = lm.score(ids, use_fast_weights=False).log_probabilities[:, 1:]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_errors():
    with pytest.raises(ValueError, match="`size` must be 8"):
        from_causal_lm(make(gpt2), size=16)
    with pytest.raises(ValueError, match="; received GPT2Backbone"):
        from_causal_lm(make(gpt2).backbone)

    class Other(keras_hub.models.GPT2CausalLM):
        def call(self, inputs, training=None):
            return 2.0 * super().call(inputs, training=training)

    with pytest.raises(ValueError, match="those of Other are something else"):
        from_causal_lm(Other(backbone=make(gpt2).backbone))
