"""The bodies that a run's model may have; what one needs is imported when it is built."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Standard deviation of a body's kernels at the start.
_KERNEL_SCALE = 0.02

# Sets these random numbers apart from others of the same seed.
_WEIGHTS = 1


class RunBody(NamedTuple):
    """A kind of body.

    Attributes:
        build: makes one, with random weights, for a `RunConfig`.
        carries_context: whether it goes on from window to window where the block's state does.
    """

    build: Callable
    carries_context: bool = False


def _gemma(config):
    """Build a small Gemma whose kernels begin small.

    RMS norm, rotary positions, gated feed-forward layers, and embeddings scaled up, without which a
    small model is slow to leave the plateau of word frequencies (a Llama of this size stood there
    for hundreds of steps).
    """
    import keras_hub

    backbone = keras_hub.models.GemmaBackbone(
        vocabulary_size=config.vocab_size,
        num_layers=config.layers,
        num_query_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.width // config.heads,
        hidden_dim=config.width,
        # Gemma counts both halves of its gated layer.
        intermediate_dim=6 * config.width,
        dtype=config.dtype,
    )
    _start_small(backbone, config)
    return backbone


def _start_small(backbone, config):
    """Give kernels small random values, as GPT-2's are, instead of Gemma's own.

    With the large ones every layer drowns what the layers before it have written to the residual
    stream: a small model is then 0.3 nats per token behind after 200 steps, and stays behind.
    """
    random = np.random.default_rng([config.seed, _WEIGHTS])
    for variable in backbone.trainable_variables:
        if len(variable.shape) > 1 and "embedding" not in variable.path:
            writes = any(name in variable.path for name in ("attention_output", "ffw_linear"))
            scale = _KERNEL_SCALE / (math.sqrt(2 * config.layers) if writes else 1.0)
            variable.assign(random.normal(size=variable.shape) * scale)


def _transformer_xl(config):
    from fwl_keras.backbones import TransformerXLBackbone

    return TransformerXLBackbone(
        config.vocab_size,
        config.layers,
        config.width,
        config.heads,
        memory_length=config.length,
        dtype=config.dtype,
    )


BODIES = {
    "gemma": RunBody(_gemma),
    "transformer-xl": RunBody(_transformer_xl, carries_context=True),
}
