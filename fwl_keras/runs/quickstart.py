"""The quickstart: one small model with and one without fast weights, compared."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from fwl_keras.callbacks import all_variables
from fwl_keras.evaluation import token_losses
from fwl_keras.evaluation.plots import plot_gain, plot_learning_curves
from fwl_keras.evaluation.scored_document import perplexity_of
from fwl_keras.evaluation.token_analysis import gain_by_position
from fwl_keras.files import new_directory, replace_file
from fwl_keras.models import FWLCausalLM
from fwl_keras.runs.build_model import build_model
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory, check_new_run
from fwl_keras.runs.held_out import HeldOut, held_out
from fwl_keras.runs.json_files import strict_json
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.run_text import RunText, prepare_text, reload_text
from fwl_keras.runs.train import train

FAST, BASELINE = "fast_weights", "baseline"
_LABELS = {FAST: "with fast weights", BASELINE: "without"}

# Windows of a held-out document that are looked at, so that a few long ones do not take all time.
_MAX_WINDOWS = 16

# Timing: one step that compiles, some that are timed.
_TIMED_STEPS = 4

# Reading costs about a third of training on the same tokens, and a few seconds to compile.
_READING_COST = 0.4
_READING_START_SECONDS = 10.0

# Part of the time that is kept back, for measurements of four steps are rough.
_RESERVE = 0.25

_MIN_STEPS = 20


@dataclass(frozen=True)
class Measured:
    """One model's figures.

    Attributes:
        parameters: number of weights.
        losses: float32 [N, T], nats per held-out token; NaN where there is none.
        tokens_per_second: training speed.
        step_sizes: lowest and highest step size at the end, or None without fast weights.
        curve: pairs of a step and a perplexity per token in training.
    """

    parameters: int
    losses: np.ndarray
    tokens_per_second: float
    step_sizes: tuple[float, float] | None
    curve: list[tuple[int, float]]

    @property
    def nll(self) -> float:
        """Mean loss in nats per token."""
        return float(np.nanmean(self.losses, dtype=np.float64))

    @property
    def perplexity(self) -> float:
        """Perplexity per token."""
        return perplexity_of(self.nll)


def quickstart(
    path: str | Path,
    config: RunConfig,
    console: Console | None = None,
    *,
    minutes: float = 6.0,
) -> dict:
    """Train the pair, evaluate it, and write table and pictures; continue one interrupted.

    Args:
        path: a directory that does not exist or is empty, or one of an earlier quickstart.
        config: the configuration of both models; `fast_weights` is set for each.
        console: where to report; by default nowhere.
        minutes: the time it may take; the number of steps is reduced to fit.

    Returns:
        What `quickstart.json` holds.

    Raises:
        ValueError: if the directory has something else in it, or the corpus is too small.
    """
    began = time.perf_counter()
    if not minutes > 0:
        raise ValueError(f"`minutes` must be above 0; received {minutes}.")
    console = console or Console(quiet=True)
    path = Path(path)
    if (path / BASELINE / "config.json").exists():
        runs, configs, text, models = _reopen(path)
        data = _held_out(text, configs[FAST])
    else:
        check_new_run(path)
        config, text = prepare_text(config, console.print)
        data = _held_out(text, config)
        configs, models = _timed(config, text, data, console, began, minutes)
        runs = _create(path, configs, text)
    for name, run in runs.items():
        if not run.finished:
            models[name] = train(
                run, configs[name], text, console, lm=models.get(name), title=f"{_LABELS[name]:17}"
            )
    measured = {}
    for name, run in runs.items():
        lm = models.get(name) or load_run_model(run.path)
        console.print(f"Reading held-out documents {_LABELS[name]} ...")
        measured[name] = _measure(run, configs[name], lm, data)
    return _report(path, configs[FAST], data, measured, console, time.perf_counter() - began)


def choose_steps(wanted: int, seconds_per_step: float, seconds_left: float) -> int:
    """Return the number of steps that fit into the time, at most those wanted.

    Args:
        wanted: steps of the configuration.
        seconds_per_step: time of one step of both models together.
        seconds_left: time for training.

    Returns:
        A number of steps, at least 20 (or `wanted`), however little time there is.
    """
    fitting = int(seconds_left / seconds_per_step)
    return min(wanted, max(_MIN_STEPS, fitting))


def _reopen(path: Path):
    runs = {name: RunDirectory.open(path / name) for name in (FAST, BASELINE)}
    configs = {name: run.read_config() for name, run in runs.items()}
    run = runs[FAST]
    text = reload_text(configs[FAST], run.read_tokenizer(), run.read_corpus())
    return runs, configs, text, {}


def _create(path: Path, configs: dict, text: RunText) -> dict[str, RunDirectory]:
    with new_directory(path) as beside:
        for name, config in configs.items():
            RunDirectory.create(beside / name, config, text.tokenizer, text.description())
    return {name: RunDirectory(path / name) for name in configs}


def _held_out(text: RunText, config: RunConfig) -> HeldOut:
    documents = (*text.corpus.valid, *text.corpus.test)
    return held_out(documents, text.tokenizer, config.length, max_windows=_MAX_WINDOWS)


def _timed(
    config: RunConfig,
    text: RunText,
    data: HeldOut,
    console: Console,
    began: float,
    minutes: float,
) -> tuple[dict[str, RunConfig], dict[str, FWLCausalLM]]:
    """Build both models, time their first steps, and choose the number of steps."""
    console.print("Building both models and timing their first steps ...")
    models, seconds_per_step = {}, 0.0
    for name in (FAST, BASELINE):
        models[name] = build_model(config.replace(fast_weights=name == FAST), text.tokenizer)
        seconds_per_step += _seconds_per_step(models[name], text, config)
    reading = len(models) * _READING_START_SECONDS + (
        _READING_COST * seconds_per_step * len(data.windows) / config.batch_size
    )
    spent = time.perf_counter() - began
    left = (60 * minutes - spent) * (1 - _RESERVE) - reading
    steps = choose_steps(config.steps, seconds_per_step, left)
    estimate = spent + steps * seconds_per_step + reading
    console.print(
        f"A step of each model takes {seconds_per_step:.2f} s together: "
        f"about {estimate / 60:.1f} minutes in all."
    )
    if steps < config.steps:
        console.print(
            f"{steps:,} steps instead of {config.steps:,}, to stay within {minutes:g} minutes "
            "(--minutes sets another limit)."
        )
    configs = {
        name: config.replace(fast_weights=name == FAST, steps=steps) for name in (FAST, BASELINE)
    }
    return configs, models


def _seconds_per_step(lm: FWLCausalLM, text: RunText, config: RunConfig) -> float:
    """Time some training steps and take them back, so that the compiled step can be kept."""
    variables = all_variables(lm)
    # Copies: JAX writes the new values where the old ones were.
    before = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
    timer = _StepTimer()
    steps = 1 + _TIMED_STEPS
    batches = text.batches(config.replace(steps=steps)).for_fit()
    lm.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[timer])
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    return float(np.median(np.diff(timer.times)))


class _StepTimer(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())


def _measure(run: RunDirectory, config: RunConfig, lm: FWLCausalLM, data: HeldOut) -> Measured:
    metrics = run.read_metrics()
    sizes = np.concatenate([np.ravel(value) for value in lm.block.step_sizes().values()])
    return Measured(
        parameters=lm.count_params(),
        losses=token_losses(
            lm, data.windows, batch_size=config.batch_size, pad_token_id=data.pad_id
        ),
        # Lines may have been lost.
        tokens_per_second=float(
            np.median([line.get("tokens_per_second") or 0.0 for line in metrics] or [np.nan])
        ),
        step_sizes=(float(sizes.min()), float(sizes.max())) if config.fast_weights else None,
        curve=[(line["step"], line["perplexity"]) for line in metrics if "perplexity" in line],
    )


def _report(
    path: Path,
    config: RunConfig,
    data: HeldOut,
    measured: dict[str, Measured],
    console: Console,
    seconds: float,
) -> dict:
    fast, baseline = measured[FAST], measured[BASELINE]
    gain = gain_by_position(baseline.losses - fast.losses, data.positions, data.documents)
    curves = {_LABELS[name]: one.curve for name, one in measured.items()}
    plot_learning_curves(
        curves, path / "learning_curves.png", title="Text read for the first time, in training"
    )
    plot_gain(
        gain,
        path / "gain_by_position.png",
        window=config.length,
        title="Better with fast weights, on held-out documents (band: 95 %)",
    )
    result = {
        "steps": config.steps,
        "documents": len(data.texts),
        "tokens": int((~np.isnan(fast.losses)).sum()),
        "seconds": round(seconds, 1),
        "improvement_percent": _improvement(fast.perplexity, baseline.perplexity),
        **{
            name: {
                "parameters": one.parameters,
                "perplexity_per_token": one.perplexity,
                "tokens_per_second": one.tokens_per_second,
                "step_sizes": one.step_sizes,
            }
            for name, one in measured.items()
        },
        "gain_by_position": {name: values.tolist() for name, values in gain.items()},
    }
    text = strict_json(result, indent=2) + "\n"
    replace_file(path / "quickstart.json", lambda file: file.write_text(text, "utf-8"))
    console.print(comparison_table(measured, len(data.texts)))
    console.print(verdict(fast.perplexity, baseline.perplexity, path, seconds), soft_wrap=True)
    return result


def comparison_table(measured: dict[str, Measured], documents: int) -> Table:
    """Return the quickstart's one table.

    Args:
        measured: the figures of both models.
        documents: number of held-out documents they were measured on.
    """
    fast, baseline = measured[FAST], measured[BASELINE]
    table = Table(title=f"{documents} held-out documents")
    table.add_column("")
    for name in (FAST, BASELINE):
        table.add_column(_LABELS[name], justify="right")
    table.add_row("parameters", f"{fast.parameters:,}", f"{baseline.parameters:,}")
    table.add_row("perplexity per token", f"{fast.perplexity:,.2f}", f"{baseline.perplexity:,.2f}")
    improvement = _improvement(fast.perplexity, baseline.perplexity)
    table.add_row("improvement", f"{improvement:+.1f} %", "")
    table.add_row(
        "training, tokens/s", f"{fast.tokens_per_second:,.0f}", f"{baseline.tokens_per_second:,.0f}"
    )
    low, high = fast.step_sizes
    table.add_row("step sizes", f"{low:.1g} to {high:.1g}", "none")
    return table


def verdict(fast: float, baseline: float, path: Path, seconds: float) -> str:
    """Return the sentence that the quickstart ends with, whichever model is better.

    Args:
        fast: perplexity per token with fast weights.
        baseline: perplexity per token without.
        path: where everything is.
        seconds: time it took.
    """
    if not (math.isfinite(fast) and math.isfinite(baseline)):
        outcome = (
            f"A perplexity is not finite ({fast:,.2f} with fast weights, {baseline:,.2f} without)"
        )
        return f"{outcome}, after {seconds / 60:.1f} minutes; both models are in {path}."
    percent = _improvement(fast, baseline)
    numbers = f"({fast:,.2f} with, {baseline:,.2f} without)"
    if percent >= 0.5:
        outcome = f"Fast weights lowered the perplexity by {percent:.1f} % {numbers}"
    elif percent <= -0.5:
        outcome = f"Fast weights did not help here: perplexity {-percent:.1f} % higher {numbers}"
    else:
        outcome = f"Fast weights made no difference worth speaking of {numbers}"
    return (
        f"{outcome}, after {seconds / 60:.1f} minutes; both models, the table's numbers and two "
        f"pictures are in {path}."
    )


def _improvement(fast: float, baseline: float) -> float:
    """Return how much lower a perplexity is, in percent."""
    return 100 * (1 - fast / baseline)
