"""The list of our classes that a file may name is complete; each is saved and loaded."""

import ast
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from attacks import WIDTH, V, small_model

import fwl_keras
from fwl_keras.backbones import RecurrentBackbone
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.layers import (
    Codebook,
    FastDense,
    FastLayerNormalization,
    FWLBlock,
    SquaredReLU,
    Unembedding,
)
from fwl_keras.models import Perplexity, TextPreprocessor
from fwl_keras.saving import SAVED_CLASSES, check_config


def registered_classes():
    """Module and name of every class that the package registers, from its source."""
    root = Path(fwl_keras.__file__).parent
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                marks = [ast.unparse(one) for one in node.decorator_list]
                if any("register_keras_serializable" in one for one in marks):
                    yield module, node.name


def test_every_registered_class_is_listed():
    # It stands in for a class that is listed, and is never saved itself.
    stand_in = ("fwl_keras.models.keras_hub_stand_in", "KerasHubStandIn")
    listed = {(module, name) for module, names in SAVED_CLASSES.items() for name in names}
    assert listed == set(registered_classes()) - {stand_in}


def preprocessor():
    return TextPreprocessor(SentencePieceTokenizer.train(["some text " * 50], 300))


OBJECTS = {
    "FWLCausalLM": small_model,
    "FWLBlock": lambda: FWLBlock(WIDTH, V, kernel_initializer="he_normal"),
    "Codebook": lambda: Codebook(3),
    "Unembedding": lambda: Unembedding(V, layer=keras.layers.Dense(V)),
    "FastDense": lambda: FastDense(3, kernel_initializer=keras.initializers.RandomNormal(0, 0.1)),
    "FastLayerNormalization": FastLayerNormalization,
    "SquaredReLU": SquaredReLU,
    "Perplexity": Perplexity,
    "RecurrentBackbone": lambda: RecurrentBackbone([keras.layers.Embedding(V, WIDTH)]),
    "TextPreprocessor": preprocessor,
}
# With tests beside those of the libraries they need.
ELSEWHERE = {
    "KerasHubFWLCausalLM",
    "Keras2Layer",
    "EncoderBlockBackbone",
    "TransformerXLBackbone",
}


def test_all_are_tried():
    assert set(OBJECTS) | ELSEWHERE == {one for names in SAVED_CLASSES.values() for one in names}


@pytest.mark.parametrize("name", OBJECTS)
def test_saved_and_loaded(name):
    one = OBJECTS[name]()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(one)))
    assert name in SAVED_CLASSES[config["module"]]
    check_config(config)
    loaded = keras.saving.deserialize_keras_object(config)
    assert type(loaded) is type(one)
    again = json.loads(json.dumps(keras.saving.serialize_keras_object(loaded)))
    assert again["config"] == config["config"]


def test_a_file_as_before(tmp_path):
    lm = small_model()
    lm.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 10)))
    lm.optimizer.build(lm.trainable_variables)
    lm.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras")
    ids = np.ones((1, 4), "int32")
    np.testing.assert_array_equal(loaded(ids), lm(ids))
    assert type(loaded.optimizer.learning_rate) is type(lm.optimizer.learning_rate)
