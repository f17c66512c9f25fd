"""A saved configuration of a Keras 2 layer, checked before anything in it is built."""

import importlib
import numbers

import keras

from fwl_keras.backbones.keras2 import tf_keras
from fwl_keras.saving.check_config import in_safe_mode

# Keras 2 would import any module that a configuration names, and call what it finds there. These
# are the classes that compute with their arguments, which are numbers, strings and each other.
# Not among them: Lambda, layers that read a vocabulary from a file, and functional models, whose
# TFOpLambda calls any operation of TensorFlow.
LAYERS = (
    "Activation",
    "ActivityRegularization",
    "Add",
    "AdditiveAttention",
    "AlphaDropout",
    "Attention",
    "Average",
    "AveragePooling1D",
    "BatchNormalization",
    "Bidirectional",
    "Concatenate",
    "Conv1D",
    "Dense",
    "DepthwiseConv1D",
    "Dot",
    "Dropout",
    "ELU",
    "EinsumDense",
    "Embedding",
    "Flatten",
    "GRU",
    "GRUCell",
    "GaussianDropout",
    "GaussianNoise",
    "GroupNormalization",
    "Identity",
    "InputLayer",
    "LSTM",
    "LSTMCell",
    "LayerNormalization",
    "LeakyReLU",
    "Masking",
    "MaxPooling1D",
    "Maximum",
    "Minimum",
    "MultiHeadAttention",
    "Multiply",
    "PReLU",
    "Permute",
    "RNN",
    "ReLU",
    "RepeatVector",
    "Reshape",
    "SeparableConv1D",
    "SimpleRNN",
    "SimpleRNNCell",
    "Softmax",
    "SpatialDropout1D",
    "StackedRNNCells",
    "Subtract",
    "ThresholdedReLU",
    "TimeDistributed",
    "UnitNormalization",
    "ZeroPadding1D",
)
INITIALIZERS = (
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
)
INITIALIZER_NAMES = (
    *INITIALIZERS,
    "constant",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "ones",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variance_scaling",
    "zeros",
)
ACTIVATIONS = (
    "elu",
    "exponential",
    "gelu",
    "hard_sigmoid",
    "linear",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "softmax",
    "softplus",
    "softsign",
    "swish",
    "tanh",
)
_KERAS2_CLASSES = {
    "keras": ("Sequential",),
    "keras.constraints": ("MaxNorm", "MinMaxNorm", "NonNeg", "RadialConstraint", "UnitNorm"),
    "keras.initializers": INITIALIZERS,
    "keras.layers": LAYERS,
    "keras.mixed_precision": ("Policy",),
    "keras.regularizers": ("L1", "L1L2", "L2", "OrthogonalRegularizer"),
}
_MODEL_GARDEN_CLASSES = {
    "official.nlp.modeling.layers.position_embedding": ("PositionEmbedding",),
    "official.nlp.modeling.layers.transformer_encoder_block": ("TransformerEncoderBlock",),
    "official.nlp.modeling.layers.transformer_xl": ("TransformerXL",),
    "official.nlp.modeling.networks.xlnet_base": ("RelativePositionEncoding",),
}
# The Model Garden registers all that it has.
_LIBRARIES = ("official", "tf_keras")
# What Keras 2 looks up when it is a string, by the end of the argument's name.
_LOOKED_UP = {
    "activation": ACTIVATIONS,
    "initializer": INITIALIZER_NAMES,
    "regularizer": ("l1", "l1_l2", "l2"),
    "constraint": ("max_norm", "min_max_norm", "non_neg", "unit_norm"),
}
_REMEDY = (
    "If you trust the file, give the class in `custom_objects`, or load it with `safe_mode=False`."
)


def layer_from_config(config: dict) -> "tf_keras.layers.Layer":
    """Build a layer of Keras 2, if it is one of those listed here or one of the caller's own.

    Args:
        config: what `tf_keras.layers.serialize` gave. What a model was compiled with is left out.

    Returns:
        The layer.

    Raises:
        ValueError: if the configuration names anything else, with `safe_mode=False` excepted.

    Example:
        >>> layer_from_config(tf_keras.layers.serialize(tf_keras.layers.Dense(4)))
    """
    if in_safe_mode() is False:
        return tf_keras.layers.deserialize(config)
    if not isinstance(config, dict) or "class_name" not in config:
        raise ValueError(
            f"`layer` must be the configuration of a layer of Keras 2; received {config!r}."
        )
    config = _without_compiling(config)
    layer = tf_keras.layers.deserialize(config, custom_objects=_check(config))
    if not isinstance(layer, tf_keras.layers.Layer):
        raise ValueError(f"`layer` must be a layer of Keras 2; received {layer!r}.")
    return layer


def require_activation(name: str) -> None:
    """Raise a ValueError unless it is the name of an activation of Keras 2."""
    if name not in ACTIVATIONS:
        raise ValueError(
            f"`activation` must be one of {', '.join(ACTIVATIONS)}; received {name!r}."
        )


def _check(config):
    """Refuse what is not listed; return the classes that Keras 2 does not know, by name.

    What the file says of the caller's own classes is replaced by their names.
    """
    given = {}
    pending = [("layer", config)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                given.update(_check_entry(value))
            pending.extend(value.items())
        elif isinstance(value, list | tuple):
            pending.extend((key, one) for one in value)
        elif isinstance(value, str):
            _check_name(key, value)
        elif not isinstance(value, numbers.Number | None):
            raise ValueError(f"`layer` has `{key}`={value!r}, which is no plain value. {_REMEDY}")
    return given


def _check_entry(entry):
    name, module = entry["class_name"], entry.get("module")
    registered = entry.get("registered_name")
    if name == "function" and module == "builtins" and entry.get("config") in ACTIVATIONS:
        return {}
    own = _given_class(name, registered)
    if own is not None:
        # So that Keras 2 finds this class, and not what else the file says of it.
        entry.update(module=None, registered_name=name)
        return {name: own}
    if isinstance(name, str) and isinstance(module, str | None):
        plain_module = module.removeprefix("tf_") if module is not None else None
        official = name in _MODEL_GARDEN_CLASSES.get(module, ())
        if official and registered in (None, name, f"Text>{name}"):
            # Not all of these are registered, and without a class Keras 2 would give back its name.
            return {name: getattr(importlib.import_module(module), name)}
        names = _KERAS2_CLASSES.get(plain_module, ())
        if module is None:
            names = [one for names in _KERAS2_CLASSES.values() for one in names]
        if name in names and registered in (None, name):
            return {}
    what = f"{module}.{entry.get('config') if name == 'function' else name}"
    raise ValueError(
        f"`layer` names {what!r}, which is not among the classes of Keras 2 and the Model Garden "
        f"that are built from a file. {_REMEDY}"
    )


def _given_class(name, registered):
    """A layer's class that the caller gives or has registered, and no library."""
    for names in (keras.saving, tf_keras.saving):
        for one in (registered, name):
            found = names.get_registered_object(one) if isinstance(one, str) else None
            is_layer = isinstance(found, type) and issubclass(found, tf_keras.layers.Layer)
            in_scope = is_layer and names is keras.saving
            if in_scope or (is_layer and found.__module__.split(".")[0] not in _LIBRARIES):
                return found
    return None


def _check_name(key, value):
    for ending, names in _LOOKED_UP.items():
        if key.endswith(ending) and value not in names:
            raise ValueError(
                f"`layer` has `{key}`={value!r}, which is none of {', '.join(names)}. {_REMEDY}"
            )


def _without_compiling(config):
    """The configuration without losses and optimizers, of which an adapter has no use."""
    if isinstance(config, dict):
        return {
            name: _without_compiling(value)
            for name, value in config.items()
            if name != "compile_config"
        }
    if isinstance(config, list | tuple):
        return [_without_compiling(one) for one in config]
    return config
