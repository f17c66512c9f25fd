"""Training: from a configuration to a finished run."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from fwl_keras.callbacks import NotFiniteError, StopWhenNotFinite
from fwl_keras.evaluation.plots import plot_run
from fwl_keras.files import disk_errors, replace_file
from fwl_keras.models import FWLCausalLM
from fwl_keras.runs import terminal
from fwl_keras.runs.build_model import build_model, learning_rate_schedule
from fwl_keras.runs.callbacks import (
    FollowSchedule,
    KeepRun,
    ShowProgress,
    tensorboard_callbacks,
)
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory, check_new_run
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.reason import reason
from fwl_keras.runs.run_text import RunText, prepare_text, reload_text
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
    """Train a new run to its end.

    Args:
        path: the run's directory, which must not exist or be empty.
        config: the configuration; shrunk where the text is too small for it.
        console: where to report; by default nowhere.
        steps_given: whether to keep the number of steps however small the text is.

    Returns:
        The finished run.

    Raises:
        ValueError: if the directory is in use, or the corpus is unreadable or too small.
    """
    console = console or Console(quiet=True)
    check_new_run(path)
    config, text = prepare_text(config, console.print, steps_given=steps_given)
    run = RunDirectory.create(path, config, text.tokenizer, text.description())
    train(run, config, text, console)
    return run


def resume_run(path: str | Path, console: Console | None = None) -> RunDirectory:
    """Continue a run to the result that it would have had without the interruption.

    Args:
        path: the run's directory.
        console: where to report; by default nowhere.

    Returns:
        The finished run; one that is finished already is left alone.

    Raises:
        ValueError: if there is no run, another process trains it, its corpus or its configuration
            has changed, or a file that it needs is damaged.
    """
    console = console or Console(quiet=True)
    run = RunDirectory.open(path)
    config = run.read_config()
    if run.finished:
        console.print(f"{path} is finished: {config.steps:,} steps; nothing is left to do.")
        return run
    text = reload_text(config, run.read_tokenizer(), run.read_corpus())
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
    """Train a run from its last checkpoint, or its beginning, to its end.

    Args:
        run: the run.
        config: its configuration.
        text: its text.
        console: where to report.
        lm: the configuration's model, untrained, if it was built already.
        title: what stands before the progress bar.

    Returns:
        The trained model.

    Raises:
        ValueError: if another process trains the run, its checkpoints are damaged, or the loss is
            not finite.
    """
    say = functools.partial(terminal.say, console)
    with run.locked():
        run.remove_leftovers()
        run.remember_beginning()
        repaired = run.repair_tokenizer()
        if repaired is not None:
            say(repaired)
        if run.tensorboard.exists() and not run.tensorboard.is_dir():
            raise ValueError(f"`{run.tensorboard}` is not a directory; remove it.")
        lm = build_model(config, text.tokenizer) if lm is None else lm
        checkpoints = run.checkpoint, run.previous_checkpoint
        if config.initial_model is not None and not any(path.exists() for path in checkpoints):
            begin_with(lm, config.initial_model)
            _remember_longer(lm, config.longer_memory, config.smaller_steps)
        if config.carry_state:
            # Before the checkpoint is read, which has the state in it.
            lm.carry_state(
                config.batch_size,
                carry_context=config.carry_context,
                groups=config.carry_groups,
            )
        done = restore(run, lm, say)
        if done:
            console.print(f"Continuing after step {done:,} of {config.steps:,}.")
        if done < config.steps:
            with disk_errors(run.tensorboard):
                _fit(run, config, text, lm, done, console, title)
        metrics = [line for line in run.read_metrics() if "perplexity" in line]
        replace_file(run.curve, lambda path: plot_run(metrics, path))
        # Last of all: a run with a model is a finished one.
        run.keep_model(lm)
        return lm


def restore(
    run: RunDirectory, lm: FWLCausalLM, say: Callable[[str], object] = lambda line: None
) -> int:
    """Load a run's last checkpoint, if it has one, and drop the metrics written after it.

    Where that one is damaged, it is the one before: the steps between the two are trained again.

    Args:
        run: the run.
        lm: its model, compiled.
        say: told, in a sentence each, what is damaged.

    Returns:
        The number of steps that are done.

    Raises:
        ValueError: if there are checkpoints, and none of them can be used.
    """
    problems = []
    for path in (run.checkpoint, run.previous_checkpoint):
        if not path.exists():
            continue
        problem = run.damage(path, run.checkpoint.name) or _load_weights(lm, path)
        if problem is None:
            break
        problems.append(f"`{path}` {problem}")
    else:
        if problems:
            raise ValueError(
                f"{'; '.join(problems)}; put a whole one back, or remove what is there to train "
                "from the first step."
            )
    if problems:
        # Or it would become the one before, which is whole.
        aside = run.set_aside(run.checkpoint)
        say(f"{problems[0]}; going on from {path.name} (the damaged one is now {aside.name}).")
    done = int(lm.optimizer.iterations)
    aside = run.rewind_metrics(done) if run.metrics.exists() else None
    if aside is not None:
        say(
            f"`{run.metrics}` has lines that cannot be read; the others are kept, the file as it "
            f"was is now {aside.name}."
        )
    return done


def _load_weights(lm: FWLCausalLM, path: Path) -> str | None:
    """Say what is wrong with a checkpoint of unknown checksum, or one that fits another model."""
    try:
        check_weights_file(path)
        lm.load_weights(path)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        return f"cannot be read: {reason(error)}"
    return None


def begin_with(lm: FWLCausalLM, path: str | Path) -> None:
    """Give a model the weights of a finished run.

    Args:
        lm: the model.
        path: the run's directory.

    Raises:
        ValueError: if there is no finished run, or its weights have other shapes.
    """
    try:
        lm.set_weights(load_run_model(path).get_weights())
    except ValueError as error:
        raise ValueError(
            f"`initial_model` {str(path)!r} does not fit: {reason(error)}; give the same body, "
            "layers, width, heads and vocab_size as that run has."
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
    """Keras's `fit` with an interval for an epoch: checkpoints are where epochs end.

    Raises:
        NotFiniteError: if the loss is not finite.
    """
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
                StopWhenNotFinite(),
                FollowSchedule(learning_rate_schedule(config), config.steps),
                KeepRun(run, batches.tokens_per_step),
                *tensorboard_callbacks(run.tensorboard),
                bar,
            ],
        )
    except NotFiniteError as error:
        kept = [path.name for path in (run.checkpoint, run.previous_checkpoint) if path.exists()]
        kept = f"{' and '.join(kept)} in {run.path} are" if kept else "no checkpoint is"
        raise NotFiniteError(
            f"{reason(error)}; the run had learning_rate={config.learning_rate:g} and "
            f"dtype={config.dtype!r}; {kept} from before; begin a new run with other options.",
            step=error.step,
            epoch=error.epoch,
            batch=error.batch,
        ) from error
    finally:
        bar.close()
