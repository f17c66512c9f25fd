"""Fast weights on KerasHub's models: they begin as the model, adapt, train, write, are saved."""

import keras
import keras_hub
import numpy as np
import pytest
from lm_helpers import all_log_probabilities, chosen, log_softmax, random_ids

from fwl_keras.models.keras_hub import from_causal_lm, from_preset

V, WIDTH = 23, 8


def gpt2():
    backbone = keras_hub.models.GPT2Backbone(V, 1, 2, WIDTH, 16, max_sequence_length=32, dropout=0)
    return keras_hub.models.GPT2CausalLM(backbone=backbone)


def llama():
    backbone = keras_hub.models.LlamaBackbone(
        V, 1, 2, WIDTH, 16, num_key_value_heads=1, tie_word_embeddings=False
    )
    return keras_hub.models.LlamaCausalLM(backbone=backbone)


def gemma():
    backbone = keras_hub.models.GemmaBackbone(
        V, 1, 2, 1, WIDTH, 16, 4, final_logit_soft_cap=3.0, attention_logit_soft_cap=5.0
    )
    return keras_hub.models.GemmaCausalLM(backbone=backbone)


def mistral():
    backbone = keras_hub.models.MistralBackbone(V, 1, 2, WIDTH, 16, 1, sliding_window=4)
    return keras_hub.models.MistralCausalLM(backbone=backbone)


def opt():
    backbone = keras_hub.models.OPTBackbone(V, 1, 2, WIDTH, 16, max_sequence_length=32, dropout=0.0)
    return keras_hub.models.OPTCausalLM(backbone=backbone)


@pytest.fixture(
    params=[
        gemma,
        *(pytest.param(make, marks=pytest.mark.slow) for make in (gpt2, llama, mistral, opt)),
    ],
    ids=lambda make: make.__name__,
)
def causal_lm(request):
    keras.utils.set_random_seed(3)
    causal_lm = request.param()
    # Random weights of everyday size, so that logits differ.
    embedding = causal_lm.backbone.token_embedding
    for variable in embedding.weights:
        variable.assign(keras.random.normal(variable.shape, stddev=0.7, seed=1))
    return causal_lm


def test_everything(causal_lm, tmp_path):
    """One test, for building each model is what takes time."""
    ids = random_ids(4, 14)
    text = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    logits = np.asarray(causal_lm(text))
    lm = from_causal_lm(causal_lm, segment_length=5, initial_step_size=0.1)
    lm.compile(keras.optimizers.Adam(3e-3), sampler="greedy")

    # The slow pass begins as the model.
    expected = chosen(log_softmax(logits[:, :-1]), ids[:, 1:])
    trained = lm.score(ids, use_fast_weights=False).log_probabilities[:, 1:]
    np.testing.assert_allclose(trained, expected, atol=1e-4)
    # What differs is what was learned in between.
    assert np.abs(lm.score(ids).log_probabilities[:, 1:] - expected).max() > 1e-3

    # Pieces with the model's cache are one call on the whole.
    state, found = lm.initial_state(4, carry_context=True, context_length=14), []
    for start, stop in ((0, 5), (5, 6), (6, 14)):
        score = lm.score(ids[:, start:stop], state=state)
        state = score.state
        found.append(score.log_probabilities)
    whole = lm.score(ids).log_probabilities
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-4)
    prompts = [ids[0, :3], ids[1, :5]]
    written = lm.generate(prompts, 12, stop_token_ids=None)["token_ids"]
    best = all_log_probabilities(lm, written).max(axis=-1)
    scores = lm.score(written).log_probabilities
    np.testing.assert_allclose(scores[0, 3:], best[0, 2:], atol=1e-4)
    np.testing.assert_allclose(scores[1, 5:], best[1, 4:], atol=1e-4)

    # Frozen, only the block trains; thawed, everything that Keras lists does.
    lm.backbone.trainable = False
    before = [np.array(v) for v in lm.backbone.variables]
    lm.compile(keras.optimizers.Adam(3e-3))
    first = lm.train_on_batch(ids, return_dict=True)["loss"]
    for _ in range(2):
        last = lm.train_on_batch(ids, return_dict=True)["loss"]
    assert last < first
    for variable, value in zip(lm.backbone.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    lm.backbone.trainable = True
    lm.compile(keras.optimizers.Adam(3e-3))
    assert len(lm.trainable_variables) == len({v.path for v in lm.trainable_variables})
    before = {v.path: np.array(v) for v in lm.trainable_variables}
    lm.train_on_batch(ids)
    unchanged = {
        v.path for v in lm.trainable_variables if np.array_equal(before[v.path], np.array(v))
    }
    assert not unchanged, unchanged

    lm.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras")
    np.testing.assert_allclose(
        loaded.score(ids).log_probabilities, lm.score(ids).log_probabilities, atol=1e-5
    )


@pytest.mark.slow
def test_lora():
    lm = from_causal_lm(gemma(), segment_length=5)
    lm.backbone.enable_lora(2)
    lm.compile("adam")
    names = [v.path for v in lm.trainable_variables]
    assert any("lora" in name for name in names)
    lm.fit(random_ids(4, 14), verbose=0)


def test_presets(tmp_path):
    causal_lm = gpt2()
    causal_lm.save_to_preset(str(tmp_path / "preset"))
    lm = from_preset(str(tmp_path / "preset"), segment_length=5)
    ids = random_ids(2, 9)
    logits = np.asarray(causal_lm({"token_ids": ids, "padding_mask": np.ones_like(ids)}))
    expected = chosen(log_softmax(logits[:, :-1]), ids[:, 1:])
    found = lm.score(ids, use_fast_weights=False).log_probabilities[:, 1:]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_errors():
    with pytest.raises(ValueError, match="`size` must be 8"):
        from_causal_lm(gpt2(), size=16)
    with pytest.raises(ValueError, match="; received GPT2Backbone"):
        from_causal_lm(gpt2().backbone)

    class Other(keras_hub.models.GPT2CausalLM):
        def call(self, inputs, training=None):
            return 2.0 * super().call(inputs, training=training)

    with pytest.raises(ValueError, match="those of Other are something else"):
        from_causal_lm(Other(backbone=gpt2().backbone))
