"""A causal decoder made of the TensorFlow Model Garden's encoder blocks."""

import keras
from keras import ops

from fwl_keras._arguments import require_count
from fwl_keras.backbones.keras2 import keras2_policy
from fwl_keras.backbones.keras2_config import require_activation
from fwl_keras.backbones.keras2_layer import Keras2Layer
from fwl_keras.backbones.model_garden_layers import PositionEmbedding, TransformerEncoderBlock
from fwl_keras.saving import check_config


@keras.saving.register_keras_serializable(package="fwl_keras")
class EncoderBlockBackbone(keras.layers.Layer):
    """Encoder blocks with a causal mask: a decoder-only transformer.

    `tfm.nlp.layers.PositionEmbedding` and `TransformerEncoderBlock` (norms first) between an
    embedding of ours and the features.

    Args:
        vocab_size: number of token ids V.
        num_layers: number of blocks.
        width: width D of the features.
        num_heads: attention heads, a divisor of the width.
        max_sequence_length: tokens that it can read at once: positions are learned.
        inner_size: width of the feed-forward layers; None: 4 * D.
        dropout: rate of the blocks' outputs.
        attention_dropout: rate of the attention's weights.
        activation: of the feed-forward layers, by its Keras 2 name.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: int tensor [B, T], or dict of `token_ids` [B, T] and `padding_mask` [B, T].
        training: as for Keras layers.

    Returns:
        Features [B, T, D].

    Raises:
        ValueError: if an argument does not fit.
        ImportError: without tf-models-official, or on a backend other than TensorFlow.

    Example:
        >>> body = EncoderBlockBackbone(50, 2, width=16, num_heads=2, max_sequence_length=64)
        >>> lm = FWLCausalLM(body, FWLBlock(16, 50, unembedding=body.token_embedding))
    """

    def __init__(
        self,
        vocab_size: int,
        num_layers: int,
        width: int,
        num_heads: int,
        max_sequence_length: int,
        inner_size: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation: str = "gelu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        inner_size = 4 * width if inner_size is None else inner_size
        sizes = {
            "vocab_size": vocab_size,
            "num_layers": num_layers,
            "width": width,
            "num_heads": num_heads,
            "max_sequence_length": max_sequence_length,
            "inner_size": inner_size,
        }
        for name, size in sizes.items():
            require_count(name, size)
        require_activation(activation)
        if width % num_heads:
            raise ValueError(f"`width`={width} must be a multiple of `num_heads`={num_heads}.")
        self.settings = {
            **sizes,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "activation": activation,
        }
        self.max_sequence_length = max_sequence_length
        self.width = width
        policy = self.dtype_policy.name
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocab_size,
            width,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="token_embedding",
        )
        self.position_embedding = Keras2Layer(
            PositionEmbedding(max_sequence_length, dtype=policy), name="position_embedding"
        )
        self.embedding_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        with keras2_policy(policy):
            blocks = [
                TransformerEncoderBlock(
                    num_attention_heads=num_heads,
                    inner_dim=inner_size,
                    inner_activation=activation,
                    norm_first=True,
                    norm_epsilon=1e-5,
                    output_dropout=dropout,
                    attention_dropout=attention_dropout,
                )
                for _ in range(num_layers)
            ]
        self.blocks = [Keras2Layer(block, name=f"block_{i}") for i, block in enumerate(blocks)]
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-5, dtype=self.dtype_policy, name="norm"
        )

    def build(self, input_shape):
        x = (1, 1, self.width)
        self.token_embedding.build((None, None))
        self.position_embedding.build(x)
        for block in self.blocks:
            block.build([x, (1, 1, 1)])
        self.norm.build(x)

    def call(self, inputs, training=None):
        token_ids, padding_mask = inputs, None
        if isinstance(inputs, dict):
            token_ids = inputs["token_ids"]
            padding_mask = ops.cast(inputs["padding_mask"], "bool")
        length = ops.shape(token_ids)[1]
        if isinstance(length, int) and length > self.max_sequence_length:
            raise ValueError(
                f"`inputs` has {length} tokens, more than `max_sequence_length`="
                f"{self.max_sequence_length}; read it in windows, as lm.score does."
            )
        visible = ops.tril(ops.ones((length, length), "bool"))[None]
        if padding_mask is not None:
            visible = ops.logical_and(visible, padding_mask[:, None])
        visible = ops.broadcast_to(visible, (ops.shape(token_ids)[0], length, length))
        x = self.token_embedding(token_ids)
        x = self.embedding_dropout(x + self.position_embedding(x), training=training)
        for block in self.blocks:
            x = block([x, visible], training=training)
        return self.norm(x)

    def get_config(self) -> dict:
        return {**super().get_config(), **self.settings}

    @classmethod
    def from_config(cls, config):
        check_config(config)
        return cls(**config)
