"""Keras callbacks of a run."""

import importlib.util
import time
from pathlib import Path

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fwl_keras.runs.directory import RunDirectory


class FollowSchedule(keras.callbacks.Callback):
    """Sets the learning rate of every step from a Keras schedule.

    Args:
        schedule: maps a step to its learning rate.
        steps: steps of the whole run; `fit` ends after the last.
    """

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.steps = steps
        self.step = 0

    def on_train_begin(self, logs=None):
        self.step = int(self.model.optimizer.iterations)

    def on_train_batch_begin(self, batch, logs=None):
        if hasattr(self.model, "jax_state_sync"):
            # Within an epoch JAX's variables are elsewhere; this brings them back.
            self.model.jax_state_sync()
        self.model.optimizer.learning_rate = float(self.schedule(self.step))

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step >= self.steps:
            # The last interval may be shorter than the others.
            self.model.stop_training = True


class KeepRun(keras.callbacks.Callback):
    """At the end of every interval writes a line of metrics, then a checkpoint.

    In this order a kill between the two leaves a line too many, which is dropped on resuming, and
    never a checkpoint whose line is missing.

    Args:
        run: the run.
        tokens_per_step: tokens in a batch.
    """

    def __init__(self, run: RunDirectory, tokens_per_step: int) -> None:
        super().__init__()
        self.run = run
        self.tokens_per_step = tokens_per_step
        self._warm = False

    def on_epoch_begin(self, epoch, logs=None):
        # The first step of a process compiles; it does not tell how fast training is.
        self._since = time.perf_counter() if self._warm else None
        self._timed_steps = 0

    def on_train_batch_end(self, batch, logs=None):
        if self._since is None:
            self._since = time.perf_counter()
            self._warm = True
        else:
            self._timed_steps += 1
        self._until = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self._until - self._since
        line = {
            "step": int(self.model.optimizer.iterations),
            **{name: float(value) for name, value in (logs or {}).items()},
            "learning_rate": float(self.model.optimizer.learning_rate),
            "tokens_per_second": (
                round(self._timed_steps * self.tokens_per_step / seconds, 1) if seconds else None
            ),
        }
        if self.model.block.use_fast_weights:
            line["step_sizes"] = _means(self.model.block.step_sizes())
            line["decays"] = _means(self.model.block.decays())
        self.run.append_metrics(line)
        self.run.keep_checkpoint(self.model)


class ShowProgress(keras.callbacks.Callback):
    """A progress bar, and a line whenever held-out text was looked at.

    Args:
        console: where to draw.
        steps: steps of the whole run.
        title: what stands before the bar.
    """

    def __init__(self, console: Console, steps: int, title: str) -> None:
        super().__init__()
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[measure]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.progress.add_task(title, total=steps, measure="")

    def on_train_begin(self, logs=None):
        self.progress.update(self.task, completed=int(self.model.optimizer.iterations))
        self.progress.start()

    def on_train_batch_end(self, batch, logs=None):
        self.progress.update(
            self.task, advance=1, measure=f"perplexity {float(logs['perplexity']):,.1f}"
        )

    def on_epoch_end(self, epoch, logs=None):
        if "val_perplexity" in logs:
            self.console.print(
                f"step {int(self.model.optimizer.iterations):,}: perplexity per token "
                f"{logs['perplexity']:,.1f} in training, {logs['val_perplexity']:,.1f} on held-out "
                "text"
            )

    def close(self) -> None:
        """Take the bar off the screen's live part; also after an interruption."""
        self.progress.stop()


def tensorboard_callbacks(directory: Path) -> list[keras.callbacks.Callback]:
    """Return what writes TensorBoard's logs: nothing where TensorFlow, which does it, is missing.

    Args:
        directory: the logs' directory.
    """
    if importlib.util.find_spec("tensorflow") is None:
        return []
    if keras.backend.backend() != "tensorflow":
        import tensorflow as tf

        # TensorFlow would take the memory that the backend computes in.
        tf.config.set_visible_devices([], "GPU")
    return [keras.callbacks.TensorBoard(str(directory), write_graph=False)]


def _means(values: dict) -> dict[str, float]:
    """Means of arrays by name: a weight may have one step size, or one per output unit."""
    return {name: float(value.mean()) for name, value in values.items()}
