"""What the package promises: its public names, each documented."""

import importlib
import importlib.util
import inspect

import pytest

PUBLIC = {
    "fwl_keras": ["FWLBlock", "FWLCausalLM", "callbacks", "next_token_targets"],
    "fwl_keras.backbones": [
        "EncoderBlockBackbone",
        "Keras2Layer",
        "RecurrentBackbone",
        "TransformerXLBackbone",
    ],
    "fwl_keras.data": [
        "CORPUS_NAMES",
        "Corpus",
        "Document",
        "DocumentBatches",
        "DocumentPass",
        "SentencePieceTokenizer",
        "TrainingBatches",
        "evaluation_windows",
        "load_corpus",
        "load_documents",
        "pack_documents",
        "pack_stream",
        "token_stream",
        "word_count",
    ],
    "fwl_keras.evaluation": [
        "DynamicEvaluation",
        "document_losses",
        "stream_losses",
        "token_losses",
    ],
    "fwl_keras.layers": [
        "Codebook",
        "FWLBlock",
        "FastDense",
        "FastLayerNormalization",
        "SquaredReLU",
        "Unembedding",
    ],
    "fwl_keras.models": [
        "FWLCausalLM",
        "KerasHubFWLCausalLM",
        "Perplexity",
        "TextPreprocessor",
        "from_causal_lm",
        "from_preset",
    ],
    "fwl_keras.ops": [
        "coarse_cross_entropy_gradient",
        "cross_entropy",
        "cross_entropy_gradient",
        "linear_attention",
        "linear_attention_chunked",
        "linear_attention_recurrent",
        "linear_attention_step",
        "next_token_targets",
        "random_uniform",
        "running_sum",
        "running_sum_chunked",
        "running_sum_recurrent",
        "running_sum_step",
        "sample_tokens",
    ],
    "fwl_keras.runs": ["PRESETS", "RunConfig", "RunDirectory"],
    "fwl_keras.saving": [
        "SAVED_CLASSES",
        "check_config",
        "check_model_file",
        "check_weights_file",
    ],
}
MODEL_GARDEN = {"EncoderBlockBackbone", "Keras2Layer", "TransformerXLBackbone"}
EACH = [(module, name) for module, names in PUBLIC.items() for name in names]


@pytest.mark.parametrize("module", PUBLIC)
def test_names(module):
    assert importlib.import_module(module).__all__ == PUBLIC[module]


@pytest.mark.parametrize(("module", "name"), EACH)
def test_every_name_is_there_and_documented(module, name):
    if name in MODEL_GARDEN and importlib.util.find_spec("official") is None:
        pytest.skip("needs the Model Garden")
    found = getattr(importlib.import_module(module), name)
    assert name in dir(importlib.import_module(module))
    if inspect.isclass(found) or inspect.isfunction(found):
        assert inspect.getdoc(found), "has no docstring"
        assert ">>>" in inspect.getdoc(found), "has no example"


def test_a_name_that_is_not_there():
    for module in ("fwl_keras", "fwl_keras.backbones", "fwl_keras.models"):
        with pytest.raises(AttributeError, match="no_such_name"):
            importlib.import_module(module).no_such_name  # noqa: B018
