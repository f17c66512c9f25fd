"""The ways in which a benchmark's models read documents: plainly, or adapting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.rivals.hidden_state_optimisation import HiddenStateOptimisation
from benchmarks.rivals.hill_climb import logarithmic_scale
from benchmarks.rivals.operations import Operations
from fwl_keras.evaluation import DynamicEvaluation, document_losses
from fwl_keras.layers.fast_state import FAST_WEIGHTS
from fwl_keras.models import FWLCausalLM
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.load import load_run_model


@dataclass
class Reader:
    """A model that is to read, and what it computes once only.

    Attributes:
        lm: the model.
        length: tokens of a window, the model's context.
        batch_size: documents read side by side, where a method can; no result depends on it.
        training_windows: int32 [N, length + 1], for statistics of training gradients.
        progress: whether to draw progress bars.
        jit_compile: whether XLA compiles steps on weights, as it compiled those of training.
    """

    lm: FWLCausalLM
    length: int
    batch_size: int
    training_windows: np.ndarray
    progress: bool = True
    jit_compile: bool = False
    _kept: dict = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        path: str | Path,
        training_windows: np.ndarray,
        *,
        fast_weights: bool | None = None,
        progress: bool = True,
    ) -> Self:
        """Load a finished run's model.

        Args:
            path: the run's directory.
            training_windows: int32 [N, length + 1], for statistics of training gradients.
            fast_weights: whether to read with fast weights; None: as the model was trained.
            progress: whether to draw progress bars.
        """
        lm = load_run_model(path)
        if fast_weights is not None:
            lm.block.use_fast_weights = fast_weights
        config = RunConfig.load(Path(path) / "config.json")
        return cls(
            lm, config.length, config.batch_size, training_windows, progress, config.jit_compile
        )

    def kept(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what is computed once for the model, however often it reads.

        Args:
            name: what it is.
            compute: called the first time.
        """
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]

    @property
    def eos_id(self) -> int:
        """Id that stands before every document."""
        return self.lm.preprocessor.tokenizer.eos_id

    @property
    def pad_id(self) -> int:
        """Id that fills up windows."""
        return self.lm.preprocessor.tokenizer.pad_id


Losses = Callable[[Reader, Sequence[np.ndarray], dict], list[np.ndarray]]


@dataclass(frozen=True)
class Method:
    """A way of reading.

    Attributes:
        name: its name, also in files.
        title: its name in tables.
        losses: from a reader, documents' token ids and settings to every token's loss in nats.
        operations: from a model's counts, and the pieces of a window between two steps (1 where
            there are none), to multiply-adds per token.
        start: settings that a search begins with, by name; empty where nothing is tuned.
        scales: from the tokens of a window to the settings' possible values, in the order in which
            they are searched.
        together: settings that are moved together, too; see `hill_climb`.
        adds_fast_weights: whether a model trained without fast weights reads with them.
    """

    name: str
    title: str
    losses: Losses
    operations: Callable[[Operations, int], float]
    start: Mapping[str, float] = field(default_factory=dict)
    scales: Callable[[int], Mapping[str, Sequence[float]]] = lambda length: {}
    together: tuple[tuple[str, ...], ...] = ()
    adds_fast_weights: bool = False


def _read(carry: bool) -> Losses:
    def losses(reader, documents_ids, settings):
        return document_losses(
            reader.lm,
            documents_ids,
            length=reader.length,
            batch_size=reader.batch_size,
            eos_id=reader.eos_id,
            pad_id=reader.pad_id,
            carry=carry,
            compiled=reader.kept("compiled steps", dict),
            progress=reader.progress,
        )

    return losses


def _read_with_steps(carry: bool) -> Losses:
    read = _read(carry)

    def losses(reader, documents_ids, settings):
        block = reader.lm.block
        block.set_step_sizes(dict.fromkeys(FAST_WEIGHTS, settings["step_size"]))
        block.set_decays(dict.fromkeys(FAST_WEIGHTS, settings["decay"]))
        return read(reader, documents_ids, settings)

    return losses


def _read_with_scaled_steps(reader, documents_ids, settings):
    """Read with the trained step sizes times a number, and the trained decays to a power.

    A power below 1 makes memory longer: training in windows knows of nothing longer than a window.
    """
    block = reader.lm.block
    kept = reader.kept("step_sizes and decays", lambda: (block.step_sizes(), block.decays()))
    step_sizes, decays = kept
    block.set_step_sizes({t: settings["step_scale"] * value for t, value in step_sizes.items()})
    powers = {t: value ** settings["decay_power"] for t, value in decays.items()}
    block.set_decays({t: np.clip(value, 1e-4, 1 - 1e-6) for t, value in powers.items()})
    return _read(carry=True)(reader, documents_ids, settings)


def _evaluate_dynamically(rule: str, weights: str) -> Losses:
    def losses(reader, documents_ids, settings):
        evaluation = DynamicEvaluation(
            rule,
            weights=weights,
            context_length=reader.length,
            **{**settings, "per_document": bool(settings["per_document"])},
        )
        statistics = None
        if rule == "rms":
            statistics = reader.kept(
                f"statistics of {weights} for {evaluation.length}",
                lambda: evaluation.statistics(
                    reader.lm, reader.training_windows, progress=reader.progress
                ),
            )
        return evaluation.losses(
            reader.lm,
            documents_ids,
            statistics,
            eos_id=reader.eos_id,
            jit_compile=reader.jit_compile,
            compiled=reader.kept("compiled steps", dict),
            progress=reader.progress,
        )

    return losses


def _optimise_hidden_states(reader, documents_ids, settings):
    return HiddenStateOptimisation(context_length=reader.length, **settings).losses(
        reader.lm,
        documents_ids,
        eos_id=reader.eos_id,
        batch_size=reader.batch_size,
        compiled=reader.kept("compiled steps", dict),
        progress=reader.progress,
    )


def _lengths(context_length):
    """Pieces of a context between two steps."""
    return [n for n in (8, 16, 32, 64, 128, 256, 512) if n <= context_length]


def _sgd_scales(context_length):
    return {
        "learning_rate": logarithmic_scale(1e-3, 10.0, per_decade=4),
        "length": _lengths(context_length),
        "decay": [0.0, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1],
        "per_document": [0, 1],
    }


def _rms_scales(context_length):
    return {
        "learning_rate": logarithmic_scale(1e-6, 1e-1, per_decade=4),
        "epsilon": logarithmic_scale(1e-5, 1e-1),
        "length": _lengths(context_length),
        "decay": [0.0, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1],
        "per_document": [0, 1],
    }


def _hidden_state_scales(context_length):
    return {
        "learning_rate": logarithmic_scale(1e-4, 1.0),
        "length": _lengths(context_length),
    }


def _step_scales(context_length):
    return {
        "step_size": logarithmic_scale(1e-6, 1.0),
        "decay": [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995],
    }


# Near what was best for a small model on WikiText-2: a search begins somewhere.
_SGD_START = {"learning_rate": 0.1, "length": 32, "decay": 3e-3, "per_document": 1}
_RMS_START = {
    "learning_rate": 5.6e-4,
    "epsilon": 1e-3,
    "length": 32,
    "decay": 3e-4,
    "per_document": 1,
}
# Most steps are divided by about epsilon; and a longer piece has a larger gradient.
_RMS_TOGETHER = (("learning_rate", "epsilon"), ("learning_rate", "length"))

_METHODS = (
    Method("plain", "plain", _read(carry=False), lambda count, pieces: count.plain),
    Method(
        "windows",
        "windows, each on its own",
        _read(carry=False),
        lambda count, pieces: count.adapting,
    ),
    Method("carried", "state carried", _read(carry=True), lambda count, pieces: count.carrying),
    Method(
        "carried_scaled",
        "state carried, steps and decays scaled",
        _read_with_scaled_steps,
        lambda count, pieces: count.carrying,
        {"step_scale": 1.0, "decay_power": 0.5},
        lambda length: {
            "decay_power": [0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0],
            "step_scale": [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0],
        },
    ),
    Method(
        "test_time_windows",
        "fast weights at test time only, windows",
        _read_with_steps(carry=False),
        lambda count, pieces: count.adapting,
        {"step_size": 1e-3, "decay": 0.95},
        _step_scales,
        adds_fast_weights=True,
    ),
    Method(
        "test_time",
        "fast weights at test time only, state carried",
        _read_with_steps(carry=True),
        lambda count, pieces: count.carrying,
        {"step_size": 1e-3, "decay": 0.95},
        _step_scales,
        adds_fast_weights=True,
    ),
    Method(
        "sgd",
        "dynamic evaluation, SGD",
        _evaluate_dynamically("sgd", "all"),
        Operations.dynamic_evaluation_in,
        _SGD_START,
        _sgd_scales,
        (("learning_rate", "length"),),
    ),
    Method(
        "rms",
        "dynamic evaluation, RMS",
        _evaluate_dynamically("rms", "all"),
        Operations.dynamic_evaluation_in,
        _RMS_START,
        _rms_scales,
        _RMS_TOGETHER,
    ),
    Method(
        "block",
        "dynamic evaluation of the block only, RMS",
        _evaluate_dynamically("rms", "block"),
        Operations.dynamic_evaluation_of_block_in,
        _RMS_START,
        _rms_scales,
        _RMS_TOGETHER,
    ),
    Method(
        "hidden_states",
        "hidden-state optimisation",
        _optimise_hidden_states,
        lambda count, pieces: count.hidden_state_optimisation,
        {"learning_rate": 3.2e-3, "length": 64},
        _hidden_state_scales,
    ),
    Method(
        "carried_rms",
        "state carried, and dynamic evaluation, RMS",
        _evaluate_dynamically("rms", "all"),
        Operations.adapting_and_dynamic_evaluation_in,
        {**_RMS_START, "length": 64},
        # Of the rest, what is best for all weights without fast weights: each trial takes minutes.
        lambda context_length: {"learning_rate": _rms_scales(context_length)["learning_rate"]},
    ),
)

# By name: every way of reading.
METHODS: dict[str, Method] = {method.name: method for method in _METHODS}
