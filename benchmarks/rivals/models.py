"""The models that a benchmark trains, and the rows of its table: a model and a way of reading."""

from collections.abc import Callable
from dataclasses import dataclass

from fwl_keras.runs.config import RunConfig

# Part of the training steps that fine-tuning gets.
_TUNING_STEPS = 0.1

# A model that has learned in windows goes on with less of a learning rate; and on documents with a
# memory as much longer as they are than windows, and with smaller steps: what the search of
# "carried_scaled" has found on WikiText-2's validation text.
_SLOWER = 8
_LONGER_MEMORY = 8
_SMALLER_STEPS = 1.4

# Batches of documents that are read in turn, where the state is carried.
_CARRY_GROUPS = 8


@dataclass(frozen=True)
class TrainedModel:
    """One model of a benchmark.

    Attributes:
        name: its name, also that of its directory.
        change: from the benchmark's configuration to this model's.
        begins_with: name of the model whose weights this one begins with, or None.
        two_thirds: whether it is trained on two thirds of the training documents only.
    """

    name: str
    change: Callable[[RunConfig], RunConfig]
    begins_with: str | None = None
    two_thirds: bool = False


def _changed(**changes) -> Callable[[RunConfig], RunConfig]:
    return lambda config: config.replace(**changes)


def _tuned(part: str) -> Callable[[RunConfig], RunConfig]:
    return lambda config: config.replace(trained_part=part, steps=_tuning_steps(config))


def _more(config: RunConfig) -> RunConfig:
    learning_rate = config.learning_rate / _SLOWER
    return config.replace(steps=_tuning_steps(config), learning_rate=learning_rate)


def _documents(config: RunConfig) -> RunConfig:
    return _more(config).replace(
        carry_state=True,
        carry_groups=_CARRY_GROUPS,
        longer_memory=_LONGER_MEMORY,
        smaller_steps=_SMALLER_STEPS,
    )


def _tuning_steps(config: RunConfig) -> int:
    return max(1, round(_TUNING_STEPS * config.steps))


def _smaller(config: RunConfig) -> RunConfig:
    return config.replace(
        layers=max(1, config.layers * 2 // 3),
        width=config.width // 2,
        heads=max(1, config.heads // 2),
    )


def _larger(config: RunConfig) -> RunConfig:
    return config.replace(layers=config.layers * 8 // 3)


def _without(change: Callable[[RunConfig], RunConfig]) -> Callable[[RunConfig], RunConfig]:
    return lambda config: change(config).replace(fast_weights=False)


_MODELS = (
    TrainedModel("baseline", _changed(fast_weights=False)),
    TrainedModel("fast_weights", _changed()),
    TrainedModel("one_segment", _changed(segment_length=None)),
    TrainedModel("carried", _changed(carry_state=True, carry_groups=_CARRY_GROUPS)),
    TrainedModel("documents", _documents, begins_with="fast_weights"),
    TrainedModel("more_baseline", _without(_more), begins_with="baseline"),
    TrainedModel("fixed_steps", _changed(learn_step_sizes=False)),
    TrainedModel("fixed_documents", _documents, begins_with="fixed_steps"),
    TrainedModel("tuned_block", _tuned("block"), begins_with="baseline"),
    TrainedModel("tuned_all", _tuned("all"), begins_with="baseline"),
    TrainedModel("two_thirds_baseline", _changed(fast_weights=False), two_thirds=True),
    TrainedModel("two_thirds_fast_weights", _changed(), two_thirds=True),
    TrainedModel("smaller_baseline", _without(_smaller)),
    TrainedModel("smaller_fast_weights", _smaller),
    TrainedModel("larger_baseline", _without(_larger)),
    TrainedModel("larger_fast_weights", _larger),
    TrainedModel(
        "larger_documents",
        lambda config: _documents(_larger(config)),
        begins_with="larger_fast_weights",
    ),
)

# By name: every model of a benchmark.
MODELS: dict[str, TrainedModel] = {model.name: model for model in _MODELS}

# Groups of rows; `Row.group` says what each is for.
MAIN, MORE, THIRD, SIZES = "main", "more", "third", "sizes"


@dataclass(frozen=True)
class Row:
    """One row: a model and a method.

    Attributes:
        title: what stands in the table.
        model: name of the model.
        method: name of the method.
        group: `"main"`: all seeds; `"more"`: the first seed; `"third"`: what two thirds of the
            training documents leave out; `"sizes"`: other sizes of the body.
        settings_of: name of the model that the method's settings were searched with.
    """

    title: str
    model: str
    method: str
    group: str = MORE
    settings_of: str | None = None

    @property
    def name(self) -> str:
        """Name in files."""
        return f"{self.model}.{self.method}"

    @property
    def search(self) -> str:
        """Name of the search of its settings."""
        return f"{self.settings_of or self.model}.{self.method}"


_ROWS = (
    Row("baseline", "baseline", "plain", MAIN),
    Row("+ dynamic evaluation, SGD", "baseline", "sgd"),
    Row("+ dynamic evaluation, RMS", "baseline", "rms", MAIN),
    Row("+ dynamic evaluation of the block only, RMS", "baseline", "block"),
    Row("baseline, a tenth more steps", "more_baseline", "plain"),
    Row("baseline, a tenth more steps, + RMS", "more_baseline", "rms", settings_of="baseline"),
    Row("+ hidden-state optimisation", "baseline", "hidden_states"),
    Row("+ fast weights at test time only", "baseline", "test_time_windows"),
    Row("+ fast weights at test time only, carried", "baseline", "test_time"),
    Row("baseline fine-tuned: the block, with fast weights", "tuned_block", "windows"),
    Row("baseline fine-tuned: the block, carried", "tuned_block", "carried"),
    Row("baseline fine-tuned: everything, with fast weights", "tuned_all", "windows"),
    Row("baseline fine-tuned: everything, carried", "tuned_all", "carried"),
    Row("fast weights as published (one segment)", "one_segment", "windows"),
    Row("fast weights as published (one segment), carried", "one_segment", "carried"),
    Row("fast weights, fixed step sizes", "fixed_steps", "windows", MAIN),
    Row("fast weights, fixed step sizes, carried", "fixed_steps", "carried", MAIN),
    Row("fixed at first, tuned on documents, carried", "fixed_documents", "carried", MAIN),
    Row("fast weights", "fast_weights", "windows", MAIN),
    Row("fast weights, carried", "fast_weights", "carried", MAIN),
    Row("fast weights, carried, scaled on validation text", "fast_weights", "carried_scaled", MAIN),
    Row("fast weights tuned on documents", "documents", "windows"),
    Row("fast weights tuned on documents, carried", "documents", "carried", MAIN),
    Row("fast weights trained carried", "carried", "windows"),
    Row("fast weights trained carried, carried", "carried", "carried"),
    Row("fast weights, carried, + dynamic evaluation, RMS", "fast_weights", "carried_rms"),
    Row("two thirds: baseline", "two_thirds_baseline", "plain", THIRD),
    Row("two thirds: + dynamic evaluation, RMS", "two_thirds_baseline", "rms", THIRD, "baseline"),
    Row("two thirds: fast weights, carried", "two_thirds_fast_weights", "carried", THIRD),
    Row("smaller body: baseline", "smaller_baseline", "plain", SIZES),
    Row("smaller body: fast weights", "smaller_fast_weights", "windows", SIZES),
    Row("smaller body: fast weights, carried", "smaller_fast_weights", "carried", SIZES),
    Row("larger body: baseline", "larger_baseline", "plain", SIZES),
    Row("larger body: + dynamic evaluation, RMS", "larger_baseline", "rms", SIZES, "baseline"),
    Row("larger body: fast weights", "larger_fast_weights", "windows", SIZES),
    Row("larger body: fast weights, carried", "larger_fast_weights", "carried", SIZES),
    Row("larger body: tuned on documents, carried", "larger_documents", "carried", SIZES),
)

# By name: every row, in the table's order.
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}
