"""Every kind of body that fast weights are tested on, small; names as in the README's table."""

import keras
import keras_hub
from keras import ops

from fwl_keras.backbones import RecurrentBackbone

WIDTH = 8


def plain_transformer(vocab_size):
    ids = keras.Input((None,), dtype="int32")
    positions = ops.cumsum(ops.ones_like(ids), axis=1) - 1
    x = keras.layers.Embedding(vocab_size, WIDTH)(ids) + keras.layers.Embedding(64, WIDTH)(
        positions
    )
    attention = keras.layers.MultiHeadAttention(2, WIDTH // 2)
    x = x + attention(*[keras.layers.LayerNormalization()(x)] * 2, use_causal_mask=True)
    inner = keras.layers.Dense(16, activation="gelu")(keras.layers.LayerNormalization()(x))
    return keras.Model(ids, keras.layers.LayerNormalization()(x + keras.layers.Dense(WIDTH)(inner)))


def plain_recurrent(vocab_size):
    return keras.Sequential(
        [
            keras.layers.Embedding(vocab_size, WIDTH),
            keras.layers.LSTM(WIDTH, return_sequences=True),
            keras.layers.GRU(WIDTH, return_sequences=True),
        ]
    )


def recurrent_backbone(vocab_size):
    kinds = keras.layers.LSTM, keras.layers.GRU
    embedding = keras.layers.Embedding(vocab_size, WIDTH)
    return RecurrentBackbone([embedding, *(kind(WIDTH) for kind in kinds)])


def gpt2(vocab_size):
    return keras_hub.models.GPT2Backbone(
        vocab_size, 1, 2, WIDTH, 16, max_sequence_length=64, dropout=0.0
    )


def llama(vocab_size):
    return keras_hub.models.LlamaBackbone(
        vocab_size, 1, 2, WIDTH, 16, num_key_value_heads=1, tie_word_embeddings=False
    )


def gemma(vocab_size):
    return keras_hub.models.GemmaBackbone(
        vocab_size, 1, 2, 1, WIDTH, 16, 4, final_logit_soft_cap=3.0, attention_logit_soft_cap=5.0
    )


def mistral(vocab_size):
    return keras_hub.models.MistralBackbone(vocab_size, 1, 2, WIDTH, 16, 1, sliding_window=4)


def opt(vocab_size):
    return keras_hub.models.OPTBackbone(
        vocab_size, 1, 2, WIDTH, 16, max_sequence_length=64, dropout=0.0
    )


def transformer_xl(vocab_size):
    from fwl_keras.backbones import TransformerXLBackbone

    return TransformerXLBackbone(vocab_size, 2, WIDTH, 2, 16, memory_length=16)


def encoder_blocks(vocab_size):
    from fwl_keras.backbones import EncoderBlockBackbone

    return EncoderBlockBackbone(vocab_size, 1, WIDTH, 2, 64, 16)


BODIES = {
    "Keras: functional transformer": plain_transformer,
    "Keras: `Sequential` of LSTM, GRU": plain_recurrent,
    "`RecurrentBackbone` of LSTM, GRU": recurrent_backbone,
    "KerasHub: GPT-2": gpt2,
    "KerasHub: Llama": llama,
    "KerasHub: Gemma": gemma,
    "KerasHub: Mistral": mistral,
    "KerasHub: OPT": opt,
    "Model Garden: Transformer-XL": transformer_xl,
    "Model Garden: encoder blocks": encoder_blocks,
}
MODEL_GARDEN = ("Model Garden: Transformer-XL", "Model Garden: encoder blocks")
