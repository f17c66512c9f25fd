"""A configuration's language model and its optimizer."""

import math

import keras
import keras_hub
import numpy as np

from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.layers import FWLBlock
from fwl_keras.models import FWLCausalLM, TextPreprocessor
from fwl_keras.runs.config import RunConfig

# Standard deviation of a body's kernels at the start.
_KERNEL_SCALE = 0.02

# Sets these random numbers apart from others of the same seed.
_WEIGHTS = 1


def build_model(config: RunConfig, tokenizer: SentencePieceTokenizer | None = None) -> FWLCausalLM:
    """Builds and compiles a model with random weights that follow from the seed alone.

    By default the body is a small Gemma: RMS norm, rotary positions, gated feed-forward layers,
    and embeddings scaled up, without which a small model is slow to leave the plateau of word
    frequencies (a Llama of this size stood there for hundreds of steps). Its kernels begin small.

    Args:
        config: The run's configuration.
        tokenizer: The run's tokeniser, for a model that takes texts; None for token ids only.

    Returns:
        The compiled model; `config.initial_model` is left to `train`. Two configurations that
        differ in `fast_weights` only get the same weights.
    """
    keras.utils.set_random_seed(config.seed)
    backbone = _BODIES[config.body](config)
    step_size = {}
    if config.initial_step_size is not None:
        step_size["initial_step_size"] = config.initial_step_size
    block = FWLBlock(
        size=config.width,
        vocab_size=config.vocab_size,
        segment_length=config.segment_length,
        use_fast_weights=config.fast_weights,
        train_step_sizes=config.learn_step_sizes,
        **step_size,
        dtype=config.dtype,
    )
    lm = FWLCausalLM(
        backbone,
        block,
        preprocessor=None if tokenizer is None else text_preprocessor(tokenizer),
        context_length=config.length,
        dtype=config.dtype,
    )
    if config.trained_part == "block":
        backbone.trainable = False
    # The learning rate is a variable that `FollowSchedule` sets: a schedule would be compiled in.
    optimizer = keras.optimizers.AdamW(
        config.learning_rate, weight_decay=config.weight_decay, clipnorm=1.0, beta_2=0.98
    )
    # JAX has nothing between compiled and one operation at a time.
    jit_compile = config.jit_compile or keras.backend.backend() == "jax"
    lm.compile(optimizer, jit_compile=jit_compile)
    optimizer.build(lm.trainable_variables)
    return lm


def _gemma(config):
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
    """Gives kernels small random values, as GPT-2's are, instead of Gemma's own.

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


_BODIES = {"gemma": _gemma, "transformer-xl": _transformer_xl}


def text_preprocessor(tokenizer: SentencePieceTokenizer) -> TextPreprocessor:
    """Returns what a run's model takes texts with.

    A text begins after `eos`: in training that is what stands before every document.

    Args:
        tokenizer: The run's tokeniser.
    """
    return TextPreprocessor(tokenizer, start_token_id=tokenizer.eos_id)


def learning_rate_schedule(config: RunConfig) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate by step: a linear rise, then half a cosine down.

    Args:
        config: The run's configuration.
    """
    warmup = min(max(1, round(config.warmup * config.steps)), config.steps)
    return keras.optimizers.schedules.CosineDecay(
        # The first step is not to be lost on a learning rate of 0.
        config.learning_rate / warmup,
        decay_steps=max(1, config.steps - warmup),
        alpha=config.final_learning_rate,
        warmup_target=config.learning_rate,
        warmup_steps=warmup,
    )
