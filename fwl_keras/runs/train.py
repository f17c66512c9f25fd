"""Training: from a configuration to a finished run."""

import json
from pathlib import Path

import numpy as np
from rich.console import Console

from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.evaluation.plots import plot_run
from fwl_keras.models import FWLCausalLM
from fwl_keras.runs.callbacks import (
    FollowSchedule,
    KeepRun,
    ShowProgress,
    tensorboard_callbacks,
)
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory, check_new, replace_file
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.model import build_model, learning_rate_schedule
from fwl_keras.runs.text import RunText, prepare_text, reload_text
from fwl_keras.saving import check_weights_file

# A decay must be below 1 in float32.
_LONGEST = 1 - 1e-6


def start_run(
    path: str | Path,
    config: RunConfig,
    console: Console | None = None,
    *,
    steps_given: bool = False,
) -> RunDirectory:
    """Trains a new run to its end.

    Args:
        path: The run's directory, which must not exist or be empty.
        config: The configuration; shrunk where the text is too small for it.
        console: Where to report; by default nowhere.
        steps_given: Whether to keep the number of steps however small the text is.

    Returns:
        The finished run.

    Raises:
        ValueError: The directory is in use, or the corpus is unreadable or too small.
    """
    console = console or Console(quiet=True)
    check_new(path)
    config, text = prepare_text(config, console.print, steps_given=steps_given)
    run = RunDirectory.create(path, config, text.tokenizer, text.description())
    train(run, config, text, console)
    return run


def resume_run(path: str | Path, console: Console | None = None) -> RunDirectory:
    """Continues a run to the result that it would have had without the interruption.

    Args:
        path: The run's directory.
        console: Where to report; by default nowhere.

    Returns:
        The finished run; one that is finished already is left alone.

    Raises:
        ValueError: There is no run, or its corpus has changed.
    """
    console = console or Console(quiet=True)
    run = RunDirectory.open(path)
    config = RunConfig.load(run.config)
    if run.finished:
        console.print(f"{path} is finished: {config.steps:,} steps; nothing is left to do.")
        return run
    tokenizer = SentencePieceTokenizer.load(run.tokenizer)
    text = reload_text(config, tokenizer, json.loads(run.corpus.read_text("utf-8")))
    train(run, config, text, console)
    return run


def train(
    run: RunDirectory,
    config: RunConfig,
    text: RunText,
    console: Console,
    *,
    lm: FWLCausalLM | None = None,
    title: str = "training",
) -> FWLCausalLM:
    """Trains a run from its last checkpoint, or its beginning, to its end.

    Args:
        run: The run.
        config: Its configuration.
        text: Its text.
        console: Where to report.
        lm: The configuration's model, untrained, if it was built already.
        title: What stands before the progress bar.

    Returns:
        The trained model.
    """
    lm = build_model(config, text.tokenizer) if lm is None else lm
    if config.initial_model is not None and not run.checkpoint.exists():
        begin_with(lm, config.initial_model)
        _remember_longer(lm, config.longer_memory, config.smaller_steps)
    if config.carry_state:
        # Before the checkpoint is read, which has the state in it.
        lm.carry_state(
            config.batch_size,
            carry_context=config.carry_context,
            groups=config.carry_groups,
        )
    done = restore(run, lm)
    if done:
        console.print(f"Continuing after step {done:,} of {config.steps:,}.")
    if done < config.steps:
        _fit(run, config, text, lm, done, console, title)
    plot_run(run.read_metrics(), run.curve)
    # Last of all: a run with a model is a finished one.
    replace_file(run.model, lm.save)
    return lm


def restore(run: RunDirectory, lm: FWLCausalLM) -> int:
    """Loads a run's last checkpoint, if it has one, and drops the metrics written after it.

    Args:
        run: The run.
        lm: Its model, compiled.

    Returns:
        The number of steps that are done.
    """
    if run.checkpoint.exists():
        check_weights_file(run.checkpoint)
        lm.load_weights(run.checkpoint)
    done = int(lm.optimizer.iterations)
    if run.metrics.exists():
        run.rewind_metrics(done)
    return done


def begin_with(lm: FWLCausalLM, path: str | Path) -> None:
    """Gives a model the weights of a finished run.

    Args:
        lm: The model.
        path: The run's directory.

    Raises:
        ValueError: There is no finished run, or its weights have other shapes.
    """
    try:
        lm.set_weights(load_run_model(path).get_weights())
    except ValueError as error:
        raise ValueError(
            f"initial_model={str(path)!r} does not fit: {error}; give the same body, layers, "
            "width, heads and vocab_size as that run has"
        ) from error


def _remember_longer(lm, longer, smaller):
    """Decays to the power 1 / longer, step sizes divided by `smaller`."""
    decays, step_sizes = lm.block.decays(), lm.block.step_sizes()
    if longer != 1:
        decays = {t: np.minimum(decay ** (1 / longer), _LONGEST) for t, decay in decays.items()}
        lm.block.set_decays(decays)
    if smaller != 1:
        lm.block.set_step_sizes({t: step_size / smaller for t, step_size in step_sizes.items()})


def _fit(
    run: RunDirectory,
    config: RunConfig,
    text: RunText,
    lm: FWLCausalLM,
    done: int,
    console: Console,
    title: str,
) -> None:
    """Keras's `fit` with an interval for an epoch: checkpoints are where epochs end."""
    intervals = -(-config.steps // config.interval)
    looks = [*range(config.validation_every, intervals, config.validation_every), intervals]
    bar = ShowProgress(console, config.steps, title)
    batches = text.batches(config)
    try:
        lm.fit(
            batches.for_fit(start=done),
            epochs=intervals,
            initial_epoch=done // config.interval,
            steps_per_epoch=config.interval,
            validation_data=text.validation_windows(config),
            validation_batch_size=config.batch_size,
            validation_freq=looks,
            shuffle=False,  # the batches are in their order already
            verbose=0,
            callbacks=[
                FollowSchedule(learning_rate_schedule(config), config.steps),
                KeepRun(run, batches.tokens_per_step),
                *tensorboard_callbacks(run.tensorboard),
                bar,
            ],
        )
    finally:
        bar.close()
