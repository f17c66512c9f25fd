"""Transformer-XL, the body of the paper, from the TensorFlow Model Garden."""

import keras
import numpy as np
from keras import ops

from fwl_keras._arguments import require_count
from fwl_keras.backbones.keras2 import keras2_policy, tf_keras
from fwl_keras.backbones.keras2_config import require_activation
from fwl_keras.backbones.keras2_layer import Keras2Layer
from fwl_keras.backbones.model_garden_layers import RelativePositionEncoding, TransformerXL
from fwl_keras.saving import check_config

# Tokens of a memory that nothing is cut off.
_EVERYTHING = np.iinfo("int32").max


@keras.saving.register_keras_serializable(package="fwl_keras")
class TransformerXLBackbone(keras.layers.Layer):
    """Transformer-XL (Dai et al. 2019, arXiv 1901.02860) as a causal body with a memory.

    `tfm.nlp.layers.TransformerXL` with relative positions and a causal mask, between an embedding
    of ours and the features. Its memory, the inputs of every layer for the last tokens, can be
    carried from call to call; each row has one of its own, as full as the row's text is long: what
    is empty is masked. The layer's segment bias, which only XLNet uses, is not trained. The layers
    compute in float32 whatever the dtype policy is: the Model Garden's cannot mix precisions.

    Args:
        vocab_size: number of token ids V.
        num_layers: number of layers.
        width: width D of the features.
        num_heads: attention heads, a divisor of the width.
        inner_size: width of the feed-forward layers; None: 4 * D.
        memory_length: tokens that a memory holds.
        dropout: rate of the embeddings' and layers' outputs.
        attention_dropout: rate of the attention's weights.
        activation: of the feed-forward layers, by its Keras 2 name.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: int tensor [B, T], or dict of `token_ids` [B, T] and `padding_mask` [B, T].
        context: dict from `initial_context` or an earlier call, or None: no memory at all. With a
            context a row's tokens come first, its padding last.
        training: as for Keras layers.

    Returns:
        Features [B, T, D]; with a context a pair of them and the context after the last token.
        No gradient goes into a memory.

    Raises:
        ValueError: if an argument does not fit.
        ImportError: without tf-models-official, or on a backend other than TensorFlow.

    Example:
        >>> body = TransformerXLBackbone(50, num_layers=2, width=16, num_heads=2, memory_length=8)
        >>> features, context = body(ids, context=body.initial_context(len(ids)))
    """

    def __init__(
        self,
        vocab_size: int,
        num_layers: int,
        width: int,
        num_heads: int,
        inner_size: int | None = None,
        memory_length: int = 128,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation: str = "relu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        inner_size = 4 * width if inner_size is None else inner_size
        sizes = {
            "vocab_size": vocab_size,
            "num_layers": num_layers,
            "width": width,
            "num_heads": num_heads,
            "inner_size": inner_size,
            "memory_length": memory_length,
        }
        for name, size in sizes.items():
            require_count(name, size)
        require_activation(activation)
        if width % (2 * num_heads):
            raise ValueError(
                f"`width`={width} must be a multiple of 2 * `num_heads` = {2 * num_heads}."
            )
        self.settings = {
            **sizes,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "activation": activation,
        }
        self.memory_length = memory_length
        self._memory_names = memory_names(num_layers)
        self.width = width
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocab_size,
            width,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="token_embedding",
        )
        self.embedding_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        with keras2_policy("float32"):
            layers = TransformerXL(
                vocab_size=vocab_size,
                num_layers=num_layers,
                hidden_size=width,
                num_attention_heads=num_heads,
                head_size=width // num_heads,
                inner_size=inner_size,
                dropout_rate=dropout,
                attention_dropout_rate=attention_dropout,
                initializer=tf_keras.initializers.RandomNormal(stddev=0.02),
                # It hands out memories of everything it was given; they are cut here, by row.
                memory_length=_EVERYTHING,
                reuse_length=0,
                inner_activation=activation,
                name="transformer_xl",
            )
        self.transformer_xl = _Layers(layers, name="layers")

    def build(self, input_shape):
        self.token_embedding.build((None, None))
        x = (1, 1, self.width)
        memories = dict.fromkeys(self._memory_names, x)
        self.transformer_xl.build({"x": x, "distances": (3,), "mask": (1, 1, 2), **memories})

    def call(self, inputs, context=None, training=None):
        token_ids, padding_mask = inputs, None
        if isinstance(inputs, dict):
            token_ids = inputs["token_ids"]
            padding_mask = ops.cast(inputs["padding_mask"], "bool")
        if padding_mask is None:
            padding_mask = ops.ones_like(token_ids, "bool")
        x = self.token_embedding(token_ids) * self.width**0.5
        x = self.embedding_dropout(x, training=training)
        memories, room = {}, 0
        if context is not None:
            memories = {name: context[name] for name in self._memory_names}
            room = ops.shape(memories["memory_0"])[1]
        length = ops.shape(token_ids)[1]
        distances = ops.arange(room + length, -1, -1, dtype="float32")
        features, layer_inputs = self.transformer_xl(
            {
                "x": ops.cast(x, "float32"),
                "distances": distances,
                "mask": self._visible(padding_mask, context, room),
                **memories,
            },
            training=training,
        )
        features = ops.cast(features, self.compute_dtype)
        if context is None:
            return features
        read = ops.sum(ops.cast(padding_mask, "int32"), axis=1)
        # The newest token is the last of a memory, whatever the row's length.
        kept = (read[:, None] + ops.arange(room, dtype="int32"))[..., None]
        new_context = {
            name: ops.take_along_axis(layer_input, kept, axis=1)
            for name, layer_input in zip(self._memory_names, layer_inputs, strict=True)
        }
        new_context["filled"] = ops.minimum(context["filled"] + read, room)
        return features, new_context

    def _visible(self, padding_mask, context, room):
        """Where a token may look, bool [B, T, room + T]: at what exists, up to itself."""
        length = ops.shape(padding_mask)[1]
        exists = padding_mask
        if context is not None:
            slots = ops.arange(room, dtype="int32")[None]
            exists = ops.concatenate([slots >= room - context["filled"][:, None], exists], axis=1)
        query = room + ops.arange(length, dtype="int32")[:, None]
        causal = ops.arange(room + length, dtype="int32")[None] <= query
        return ops.logical_and(exists[:, None], causal[None])

    def initial_context(self, batch_size: int, length: int | None = None) -> dict:
        """An empty memory.

        Args:
            batch_size: number of rows B, int or integer tensor.
            length: tokens M that it holds; None: `memory_length`.

        Returns:
            Dict of `memory_0`, `memory_1`, ..., float32 zeros [B, M, D], the inputs of every layer;
            and `filled`, int32 zeros [B], how many of them are tokens.
        """
        shape = (batch_size, length or self.memory_length, self.width)
        memories = {name: ops.zeros(shape, "float32") for name in self._memory_names}
        return {**memories, "filled": ops.zeros((batch_size,), "int32")}

    def get_config(self) -> dict:
        return {**super().get_config(), **self.settings}

    @classmethod
    def from_config(cls, config):
        check_config(config)
        return cls(**config)


def memory_names(num_layers: int) -> list[str]:
    """Names of a context's memories, one for each layer."""
    return [f"memory_{i}" for i in range(num_layers)]


class _Layers(Keras2Layer):
    """The Model Garden's layers: from embeddings and memories to features and new memories."""

    def __init__(self, layer, **kwargs):
        super().__init__(layer, frozen=("segment_attention_bias",), **kwargs)
        config = layer.get_config()
        self._memory_names = memory_names(config["num_layers"])
        self._encoding = RelativePositionEncoding(config["hidden_size"], dtype="float32")

    def run(self, inputs, training):
        x = inputs["x"]
        return self.layer(
            x,
            relative_position_encoding=self._encoding(
                inputs["distances"], batch_size=ops.shape(x)[0]
            ),
            state=[inputs.get(name) for name in self._memory_names],
            content_attention_mask=inputs["mask"],
            training=training,
        )
