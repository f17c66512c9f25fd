"""A configuration's language model and its optimizer."""

import keras

from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.layers import FWLBlock
from fwl_keras.models import FWLCausalLM, TextPreprocessor
from fwl_keras.runs.bodies import BODIES
from fwl_keras.runs.config import RunConfig


def build_model(config: RunConfig, tokenizer: SentencePieceTokenizer | None = None) -> FWLCausalLM:
    """Build and compile a model with random weights that follow from the seed alone.

    Args:
        config: the run's configuration.
        tokenizer: the run's tokeniser, for a model that takes texts; None for token ids only.

    Returns:
        The compiled model; `config.initial_model` is left to `train`. Two configurations that
        differ in `fast_weights` only get the same weights.
    """
    keras.utils.set_random_seed(config.seed)
    backbone = BODIES[config.body].build(config)
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


def text_preprocessor(tokenizer: SentencePieceTokenizer) -> TextPreprocessor:
    """Return what a run's model takes texts with.

    A text begins after `eos`: in training that is what stands before every document.

    Args:
        tokenizer: the run's tokeniser.
    """
    return TextPreprocessor(tokenizer, start_token_id=tokenizer.eos_id)


def learning_rate_schedule(config: RunConfig) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate by step: a linear rise, then half a cosine down.

    Args:
        config: the run's configuration.
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
