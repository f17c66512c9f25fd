"""Files with a layer of Keras 2, which would import any module and call what it finds there."""

import json

import keras
import pytest
from attacks import WIDTH, V, function, marshalled, named, not_refused, serialized

from fwl_keras import FWLBlock, FWLCausalLM

tf_keras = pytest.importorskip("tf_keras")
pytest.importorskip("official", reason="needs tf-models-official")

from fwl_keras.backbones import (  # noqa: E402
    EncoderBlockBackbone,
    Keras2Layer,
    TransformerXLBackbone,
)
from fwl_keras.backbones.keras2_config import (  # noqa: E402
    ACTIVATIONS,
    INITIALIZER_NAMES,
    INITIALIZERS,
    LAYERS,
    layer_from_config,
)
from fwl_keras.backbones.model_garden_layers import (  # noqa: E402
    PositionEmbedding,
    RelativePositionEncoding,
    TransformerEncoderBlock,
    TransformerXL,
)

L = tf_keras.layers
ADAPTER = ("config", "backbone", "config", "layers", 1, "config")


def old_lambda(kind, value):
    shape = {"output_shape": None, "output_shape_type": "raw"}
    config = {"name": "l", "function": value, "function_type": kind, **shape}
    return named("keras.layers", "Lambda", config)


def functional(layer):
    """A functional model of Keras 2, whose nodes call layers with any arguments."""
    inputs = {"name": "i", "batch_input_shape": [None, 3], "dtype": "float32"}
    node = [["i", 0, 0, {"value": "touch canary"}]]
    layers = [
        {**named("keras.layers", "InputLayer", inputs), "name": "i", "inbound_nodes": []},
        {**layer, "name": "l", "inbound_nodes": [node]},
    ]
    ends = {"input_layers": [["i", 0, 0]], "output_layers": [["l", 0, 0]]}
    return named("keras", "Functional", {"name": "m", "layers": layers, **ends})


PAYLOADS = {
    "a module on the path": (
        lambda canary: named("hostile_module", "Evil"),
        "'hostile_module.Evil'",
    ),
    "a function on the path": (
        lambda canary: function("hostile_module", "run"),
        "'hostile_module.run'",
    ),
    "a shell": (lambda canary: function("os", "system"), "'os.system'"),
    "a process": (lambda canary: named("subprocess", "getoutput"), "'subprocess.getoutput'"),
    "a module of this package": (
        lambda canary: named("fwl_keras.hostile_inside", "Evil"),
        "'fwl_keras.hostile_inside.Evil'",
    ),
    "the name of a listed class": (
        lambda canary: named("hostile_module", "Dense"),
        "'hostile_module.Dense'",
    ),
    "a listed class, registered as another": (
        lambda canary: {**named("keras.layers", "Dense"), "registered_name": "Text>Tokenizer"},
        "'keras.layers.Dense'",
    ),
    "a marshalled lambda": (
        lambda canary: {**marshalled(canary), "module": "builtins"},
        "__lambda__",
    ),
    "a Lambda layer": (
        lambda canary: old_lambda("lambda", marshalled(canary)["config"]["code"]),
        "'keras.layers.Lambda'",
    ),
    "a Lambda layer with a function": (
        lambda canary: old_lambda("function", function("hostile_module", "run")),
        "'keras.layers.Lambda'",
    ),
    "a Lambda layer of old files": (
        lambda canary: {"class_name": "Lambda", "config": old_lambda("raw", "run")["config"]},
        "'None.Lambda'",
    ),
    "any operation": (
        lambda canary: named("keras.layers", "TFOpLambda", {"function": "io.write_file"}),
        "'keras.layers.TFOpLambda'",
    ),
    "a functional model": (
        lambda canary: functional(old_lambda("function", function("hostile_module", "run"))),
        "Lambda'|Functional'",
    ),
    "a download": (lambda canary: named("keras.utils", "get_file"), "'keras.utils.get_file'"),
    "another file": (lambda canary: named("keras.models", "load_model"), "load_model"),
    "a vocabulary": (
        lambda canary: named("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
        "'keras.layers.StringLookup'",
    ),
    "a class of the Model Garden that is not listed": (
        lambda canary: {
            **named("official.nlp.modeling.layers.text_layers", "SentencepieceTokenizer"),
            "registered_name": "Text>SentencepieceTokenizer",
        },
        "SentencepieceTokenizer",
    ),
    "a type": (
        lambda canary: {**named("hostile_module", "__typespec__"), "spec_name": "Evil"},
        "__typespec__",
    ),
    "bytes": (
        lambda canary: {"class_name": "__bytes__", "config": {"value": "a"}},
        "__bytes__",
    ),
    "no name": (lambda canary: {"class_name": ["a"], "config": {}}, "['a']"),
}
PLACES = {
    "the layer": (*ADAPTER, "layer"),
    "a layer within": (*ADAPTER, "layer", "config", "layers", 1),
    "an initialiser": (*ADAPTER, "layer", "config", "layers", 1, "config", "kernel_initializer"),
    "a regulariser": (*ADAPTER, "layer", "config", "layers", 1, "config", "kernel_regularizer"),
    "an activation": (*ADAPTER, "layer", "config", "layers", 1, "config", "activation"),
    "a policy": (*ADAPTER, "layer", "config", "layers", 1, "config", "dtype"),
}


@pytest.fixture(scope="module")
def adapted():
    """Configuration of a language model with a layer of Keras 2 in its body."""
    layer = Keras2Layer(tf_keras.Sequential([L.Input((None, WIDTH)), L.Dense(WIDTH, "gelu")]))
    body = keras.Sequential([keras.Input((None,)), keras.layers.Embedding(V, WIDTH), layer])
    config = serialized(FWLCausalLM(body, FWLBlock(WIDTH, V)))
    layers = config["config"]["backbone"]["config"]["layers"]
    config["config"]["backbone"]["config"]["layers"] = layers[1:]  # without the input
    return config


@pytest.mark.parametrize("place", PLACES)
def test_a_file(place, adapted, canary):
    assert not not_refused(adapted, PLACES[place], PAYLOADS, canary)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kernel_initializer", "hostile_module"),
        ("kernel_initializer", "get"),
        ("activation", "deserialize"),
        ("activation", "os.system"),
        ("kernel_regularizer", "deserialize"),
        ("kernel_constraint", "get"),
    ],
)
def test_names_that_are_looked_up(key, value, canary):
    config = L.serialize(L.Dense(3))
    config["config"][key] = value
    with pytest.raises(ValueError, match=f"`{key}`='{value}'"):
        layer_from_config(config)


@pytest.mark.parametrize("value", [None, 3, "Dense", [], {}, {"config": {}}])
def test_no_configuration(value):
    with pytest.raises(ValueError, match="must be the configuration of a layer"):
        Keras2Layer.from_config({"layer": value})


@pytest.mark.parametrize("make", [EncoderBlockBackbone, TransformerXLBackbone])
@pytest.mark.parametrize(
    "activation", [function("hostile_module", "run"), "hostile_module.run", "get", None, ["relu"]]
)
def test_a_body_with_a_hostile_activation(make, activation, canary):
    settings = {"vocab_size": V, "num_layers": 1, "width": WIDTH, "num_heads": 2}
    if make is EncoderBlockBackbone:
        settings["max_sequence_length"] = 4
    with pytest.raises(ValueError, match=r"`activation` must be one of|hostile_module\.run"):
        make.from_config({**settings, "activation": activation})


# ------------------------------------------------------------------------ what is still loaded


def test_the_lists_are_of_what_there_is():
    assert all(issubclass(getattr(L, name), L.Layer) for name in LAYERS)
    assert all(isinstance(getattr(tf_keras.initializers, name), type) for name in INITIALIZERS)
    assert all(tf_keras.initializers.get(name) for name in INITIALIZER_NAMES if name != "identity")
    assert all(callable(tf_keras.activations.get(name)) for name in ACTIVATIONS)


def transformer_xl():
    initializer = tf_keras.initializers.RandomNormal(stddev=0.02)
    return TransformerXL(10, 1, 8, 2, 4, 8, 0.0, 0.0, initializer)


REAL = {
    "Dense": lambda: L.Dense(2, "gelu", kernel_regularizer=tf_keras.regularizers.L2(0.1)),
    "16 bits": lambda: L.Dense(2, dtype="mixed_bfloat16", kernel_constraint="max_norm"),
    "BatchNormalization": L.BatchNormalization,
    "Sequential": lambda: tf_keras.Sequential([L.Dense(2), L.LSTM(3, return_sequences=True)]),
    "Bidirectional": lambda: L.Bidirectional(L.GRU(2)),
    "RNN": lambda: L.RNN([L.LSTMCell(2), L.GRUCell(2)]),
    "MultiHeadAttention": lambda: L.MultiHeadAttention(2, 3, attention_axes=[1]),
    "Activation": lambda: L.Activation(tf_keras.activations.swish),
    "PositionEmbedding": lambda: PositionEmbedding(8),
    "TransformerEncoderBlock": lambda: TransformerEncoderBlock(2, 8, "relu"),
    "TransformerXL": transformer_xl,
    "RelativePositionEncoding": lambda: RelativePositionEncoding(8),
}


@pytest.mark.parametrize("name", REAL)
def test_real_layers(name):
    adapter = Keras2Layer(REAL[name]())
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(adapter)))
    loaded = keras.saving.deserialize_keras_object(config)
    assert type(loaded.layer) is type(adapter.layer)
    assert json.loads(json.dumps(L.serialize(loaded.layer))) == config["config"]["layer"]


def test_a_compiled_layer_is_loaded_without_its_loss():
    layer = tf_keras.Sequential([L.Dense(2)])
    layer.compile("sgd", "mse")
    layer.build((None, 3))
    config = json.loads(json.dumps(L.serialize(layer)))
    config["compile_config"] = {"optimizer": named("hostile_module", "Evil")}
    assert layer_from_config(config).optimizer is None


def test_the_name_of_ones_own_class_for_another(canary):
    hostile = {**named("hostile_module", "Mine"), "registered_name": "hostile_module>Mine"}
    hostile["config"] = {"name": "m"}
    config = keras.saving.serialize_keras_object(Keras2Layer(L.Dense(3)))
    config["config"]["layer"] = hostile
    loaded = keras.saving.deserialize_keras_object(config, {"Mine": Mine})
    assert type(loaded.layer) is Mine


class Mine(L.Layer):
    """A layer of the user's own."""


def test_layers_of_ones_own():
    config = keras.saving.serialize_keras_object(Keras2Layer(Mine(name="m")))
    with pytest.raises(ValueError, match="`custom_objects`"):
        keras.saving.deserialize_keras_object(config)
    given = {"Mine": Mine}
    assert type(keras.saving.deserialize_keras_object(config, given).layer) is Mine
    with tf_keras.saving.custom_object_scope(given):
        assert type(keras.saving.deserialize_keras_object(config).layer) is Mine


def test_a_trusted_file(canary):
    """And so the payloads above are alive: the import alone runs the module."""
    config = keras.saving.serialize_keras_object(Keras2Layer(L.Dense(3)))
    config["config"]["layer"] = PAYLOADS["a Lambda layer with a function"][0](canary)
    with pytest.raises(ValueError, match=r"keras\.layers\.Lambda"):
        keras.saving.deserialize_keras_object(config)
    assert not canary.exists()
    assert type(keras.saving.deserialize_keras_object(config, safe_mode=False).layer) is L.Lambda
    assert canary.exists()
    canary.unlink()


def test_an_adapter_within_a_functional_model(adapted):
    """Whoever has only `fwl_keras` imported finds its module, wherever in the file it is."""
    lm = keras.saving.deserialize_keras_object(json.loads(json.dumps(adapted)))
    assert [type(one).__name__ for one in lm.backbone.layers] == ["Embedding", "Keras2Layer"]
