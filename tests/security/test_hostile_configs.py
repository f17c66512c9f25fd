"""`.keras` files that name what they may not, in every place where a configuration has objects."""

import json

import keras
import pytest
from attacks import (
    WIDTH,
    V,
    drawing,
    function,
    functional_model,
    lambda_layer,
    marshalled,
    named,
    not_refused,
    put,
    serialized,
    small_model,
    was_read,
    write_archive,
)

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.backbones import RecurrentBackbone
from fwl_keras.layers import FastDense, FastLayerNormalization, Unembedding
from fwl_keras.saving import check_config

# What is refused, and what the error names. Each takes the path of the canary.
PAYLOADS = {
    "a marshalled lambda": (marshalled, "a Python lambda"),
    "a lambda of old files": (
        lambda canary: {"class_name": "__lambda__", "config": {"value": "4wAAAA=="}},
        "a Python lambda",
    ),
    "a Lambda layer": (lambda canary: lambda_layer(marshalled(canary)), "a Python lambda"),
    "a shell": (lambda canary: function("os", "system"), "'os.system'"),
    "a process": (
        lambda canary: named("subprocess", "Popen", {"args": f"touch {canary}", "shell": True}),
        "'subprocess.Popen'",
    ),
    "eval": (lambda canary: function("builtins", "eval"), "'builtins.eval'"),
    "a module on the path": (
        lambda canary: named("hostile_module", "Evil"),
        "'hostile_module.Evil'",
    ),
    "a function on the path": (
        lambda canary: function("hostile_module", "run"),
        "'hostile_module.run'",
    ),
    "a module of this package": (
        lambda canary: named("fwl_keras.hostile_inside", "Evil"),
        "'fwl_keras.hostile_inside.Evil'",
    ),
    "its command": (lambda canary: named("fwl_keras.cli", "main"), "'fwl_keras.cli.main'"),
    "another name for its class": (
        lambda canary: named("fwl_keras.backbones.keras2_layer", "Keras2Layer"),
        "registered as 'Keras2Layer'",
    ),
    "a picture, by function": (lambda canary: drawing(canary, "function"), "plot_image_gallery"),
    "a picture, by class": (lambda canary: drawing(canary, "class"), "plot_image_gallery"),
    "a download": (lambda canary: function("keras.utils", "get_file"), "keras.utils.get_file"),
    "safe mode off": (
        lambda canary: function("keras.config", "enable_unsafe_deserialization"),
        "enable_unsafe_deserialization",
    ),
    "another file": (lambda canary: function("keras.saving", "load_model"), "load_model"),
    "another program, as a function": (
        # Keras refuses the class, but not a Lambda layer that calls it.
        lambda canary: lambda_layer(function("keras.layers", "TFSMLayer")),
        "keras.layers.TFSMLayer",
    ),
    "a logger": (
        lambda canary: lambda_layer(function("keras.callbacks", "CSVLogger"), filename=str(canary)),
        "keras.callbacks.CSVLogger",
    ),
    "deserialize": (
        lambda canary: function("keras.activations", "deserialize"),
        "keras.activations.deserialize",
    ),
    "deserialize, without a module": (
        lambda canary: function("builtins", "deserialize"),
        "builtins.deserialize",
    ),
    "no name": (lambda canary: named(["keras"], {"a": 1}), "not both strings"),
    "a type": (
        lambda canary: {
            **named("tensorflow", "__typespec__", []),
            "spec_name": "TensorSpec",
        },
        "__typespec__",
    ),
    "no module": (lambda canary: {"class_name": "system", "config": {}}, "'system'"),
}

BACKBONE, BLOCK = ("config", "backbone"), ("config", "block", "config")
LAYERS = (*BACKBONE, "config", "layers")
PLACES = {
    "the body": BACKBONE,
    "the body's layers": (*LAYERS, 0),
    "the body's initialiser": (
        *BACKBONE,
        "config",
        "layers",
        0,
        "config",
        "embeddings_initializer",
    ),
    "the body's dtype": (*BACKBONE, "config", "dtype"),
    "the block": ("config", "block"),
    "the block's initialiser": (*BLOCK, "kernel_initializer"),
    "the unembedding": (*BLOCK, "unembedding"),
    "the unembedding's activation": (*BLOCK, "unembedding", "config", "activation"),
    "the preprocessor": ("config", "preprocessor"),
}
FUNCTIONAL_PLACES = {
    "a layer": (*LAYERS, 3),
    "an activation": (*LAYERS, 3, "config", "activation"),
    "a regulariser": (*LAYERS, 3, "config", "kernel_regularizer"),
    "a Lambda's function": (*LAYERS, 2, "config", "function"),
    "a Lambda's shape": (*LAYERS, 2, "config", "output_shape"),
    "a Lambda's mask": (*LAYERS, 2, "config", "mask"),
    "a Lambda's argument": (*LAYERS, 2, "config", "arguments", "x"),
    "a node's argument": (*LAYERS, 2, "inbound_nodes", 0, "kwargs", "inputs"),
}


def refuse(path, named):
    with pytest.raises(ValueError) as caught:
        keras.saving.load_model(path)
    assert named in str(caught.value)


def test_the_files_are_good_without_a_payload(recurrent, functional, tmp_path):
    for make in (small_model, functional_model):
        lm = make()
        lm.save(tmp_path / "lm.keras")
        assert serialized(keras.saving.load_model(tmp_path / "lm.keras"))["config"]["block"]
    for config in (recurrent, functional):
        check_config(config)


@pytest.mark.parametrize("place", PLACES)
def test_a_file(place, recurrent, canary):
    assert not not_refused(recurrent, PLACES[place], PAYLOADS, canary)


@pytest.mark.parametrize("place", FUNCTIONAL_PLACES)
def test_a_file_with_a_functional_body(place, functional, canary):
    assert not not_refused(functional, FUNCTIONAL_PLACES[place], PAYLOADS, canary)


@pytest.mark.parametrize("place", ["optimizer", "sampler", "loss", "metrics"])
@pytest.mark.parametrize("attack", ["a module on the path", "a shell", "a picture, by function"])
def test_what_a_model_was_compiled_with(attack, place, canary):
    """Without the rest of the file, which has been built by then."""
    payload, named = PAYLOADS[attack]
    lm = FWLCausalLM.__new__(FWLCausalLM)
    with pytest.raises(ValueError) as caught:
        lm.compile_from_config({"optimizer": "adam", place: payload(canary)})
    assert named in str(caught.value)


DOORS = {
    "FWLCausalLM": lambda payload: FWLCausalLM.from_config({"backbone": payload, "block": {}}),
    "FWLBlock": lambda payload: FWLBlock.from_config(
        {"size": WIDTH, "vocab_size": V, "kernel_initializer": payload}
    ),
    "FWLBlock, unembedding": lambda payload: FWLBlock.from_config(
        {"size": WIDTH, "vocab_size": V, "unembedding": payload}
    ),
    "Unembedding": lambda payload: Unembedding.from_config({"vocab_size": V, "layer": payload}),
    "FastDense": lambda payload: FastDense.from_config({"units": 3, "kernel_initializer": payload}),
    "FastLayerNormalization": lambda payload: FastLayerNormalization.from_config(
        {"gamma_initializer": payload}
    ),
    "RecurrentBackbone": lambda payload: RecurrentBackbone.from_config({"layers": [payload]}),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("attack", ["a marshalled lambda", "a picture, by class", "a shell"])
def test_a_part_on_its_own(attack, door, canary):
    """As in a functional model of the user's, where no language model has looked before."""
    payload, named = PAYLOADS[attack]
    with pytest.raises(ValueError) as caught:
        DOORS[door](payload(canary))
    assert named in str(caught.value)


FILES = {
    "StringLookup": ("keras.layers", {"vocabulary": "FILE"}),
    "TextVectorization": ("keras.layers", {"vocabulary": "FILE"}),
    "WordPieceTokenizer": ("keras_hub.src.tokenizers.word_piece_tokenizer", {"vocabulary": "FILE"}),
    "BytePairTokenizer": (
        "keras_hub.src.tokenizers.byte_pair_tokenizer",
        {"vocabulary": {"a": 0}, "merges": "FILE"},
    ),
    "SentencePieceTokenizer": (
        "keras_hub.src.tokenizers.sentence_piece_tokenizer",
        {"proto": "FILE"},
    ),
    "ParseQTokenizer": ("keras_hub.src.models.parseq.parseq_tokenizer", {"vocabulary": "FILE"}),
    "WhisperTokenizer": (
        "keras_hub.src.models.whisper.whisper_tokenizer",
        {"special_tokens": "FILE"},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_vocabulary_that_is_a_file_elsewhere(name, recurrent, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text('{"secret": 0}')
    module, arguments = FILES[name]
    arguments = {key: str(secret) if value == "FILE" else value for key, value in arguments.items()}
    config = put(recurrent, ("config", "preprocessor"), named(module, name, arguments))
    path = write_archive(tmp_path / "lm.keras", config)
    with pytest.raises(ValueError, match=r"secret\.txt"):
        keras.saving.load_model(path)
    assert not was_read(secret)


@pytest.mark.parametrize(
    "layer",
    [
        named("keras.layers", "TFSMLayer", {"filepath": "elsewhere", "name": "t"}),
        named("keras.src.export.tfsm_layer", "TFSMLayer", {"filepath": "elsewhere", "name": "t"}),
    ],
    ids=["by its public name", "by its module"],
)
def test_another_program(layer, recurrent, tmp_path):
    config = put(recurrent, (*LAYERS, 0), layer)
    refuse(write_archive(tmp_path / "lm.keras", config), "TFSMLayer")


def test_brackets_without_end():
    config = inner = {}
    for _ in range(100_000):
        inner["config"] = [{}]
        inner = inner["config"][0]
    inner.update(function("os", "system"))
    with pytest.raises(ValueError, match=r"'os\.system'"):
        check_config(config)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("config", "block"), None),
        (("config", "block"), 3),
        (("config", "block"), "keras.saving.load_model"),
        (("config", "backbone"), None),
        (("config", "backbone"), "relu"),
    ],
)
def test_parts_that_are_none(place, value, recurrent, tmp_path):
    path = write_archive(tmp_path / "lm.keras", put(recurrent, place, value))
    refuse(path, f"`{place[-1]}`")


# ------------------------------------------------------------------- what is the user's own


def test_an_adapter_by_name_alone(functional, canary, tmp_path):
    """What an adapter holds of Keras 2 is checked by it; without a module Keras builds another."""

    class Adapter(keras.layers.Layer):
        keras2_arguments = ("layer",)

    layer = named("keras.layers", "TimeDistributed", {"layer": drawing(canary, "function")})
    del layer["module"]
    layer = {**layer, "registered_name": "Adapter", "name": "l", "inbound_nodes": []}
    path = write_archive(tmp_path / "lm.keras", put(functional, (*LAYERS, 2), layer))
    with keras.saving.custom_object_scope({"Adapter": Adapter}):
        refuse(path, "plot_image_gallery")
        layer["class_name"] = "system"
        write_archive(path, put(functional, (*LAYERS, 2), layer))
        refuse(path, "system")


@pytest.mark.parametrize("kind", ["function", "class"])
def test_a_trusted_file_is_loaded_with_what_it_has(kind, functional, tmp_path):
    """And so the payloads above are alive: this one needs no Python in the file."""
    canary = tmp_path / "canary.png"
    picture = named("keras", "__numpy__", {"value": [[[[0.0] * 3] * 2] * 2], "dtype": "float32"})
    layer = {
        **drawing(canary, kind),
        "name": "l",
        "inbound_nodes": [{"args": [], "kwargs": {"inputs": picture}}],
    }
    config = put(functional, (*LAYERS, 2), layer)
    path = write_archive(tmp_path / "lm.keras", config)
    refuse(path, "plot_image_gallery")
    assert not canary.exists()
    # It draws, and then there is no tensor to go on with.
    with pytest.raises(Exception):  # noqa: B017
        keras.saving.load_model(path, safe_mode=False)
    assert canary.exists()


def test_a_trusted_lambda_runs(functional, tmp_path):
    canary = tmp_path / "canary"
    place = FUNCTIONAL_PLACES["a Lambda's shape"]
    path = write_archive(tmp_path / "lm.keras", put(functional, place, marshalled(canary)))
    refuse(path, "a Python lambda")
    assert not canary.exists()
    with pytest.raises(Exception):  # noqa: B017  (it gives no shape)
        keras.saving.load_model(path, safe_mode=False)
    assert canary.exists()


class Doubled(keras.layers.Dense):
    """A layer that nobody has registered."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def test_custom_objects(recurrent):
    place = (*LAYERS, 1)
    config = put(recurrent, place, named(__name__, "Doubled", {"units": WIDTH, "name": "d"}))
    with pytest.raises(ValueError, match="`custom_objects`"):
        keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    lm = keras.saving.deserialize_keras_object(config, custom_objects={"Doubled": Doubled})
    assert type(lm.backbone.layers[1]) is Doubled
    with keras.saving.custom_object_scope({"Doubled": Doubled}):
        lm = FWLCausalLM.from_config(config["config"])
    assert type(lm.backbone.layers[1]) is Doubled
    lm = FWLCausalLM.from_config(config["config"], custom_objects={"Doubled": Doubled})
    assert type(lm.backbone.layers[1]) is Doubled
