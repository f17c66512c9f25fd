"""The models that a benchmark trains, and what sets each apart from the others."""

from collections.abc import Callable
from dataclasses import dataclass

from fwl_keras.runs.config import RunConfig

# Part of the training steps that fine-tuning gets.
TUNING_STEPS = 0.1

# A model that has learned in windows goes on with less of a learning rate; and on documents with a
# memory as much longer as they are than windows, and with smaller steps: what the search of
# "carried_scaled" has found on WikiText-2's validation text.
_SLOWER = 8
_LONGER_MEMORY = 8
_SMALLER_STEPS = 1.4

# Groups of rows that take turns on documents.
_GROUPS = 8


@dataclass(frozen=True)
class TrainedModel:
    """One model of a benchmark.

    Attributes:
        name: Its name, also that of its directory.
        change: From the benchmark's configuration to this model's.
        begins_with: Name of the model whose weights this one begins with, or None.
        two_thirds: Whether it is trained on two thirds of the training documents only.
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
        carry_groups=_GROUPS,
        longer_memory=_LONGER_MEMORY,
        smaller_steps=_SMALLER_STEPS,
    )


def _tuning_steps(config: RunConfig) -> int:
    return max(1, round(TUNING_STEPS * config.steps))


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


_ALL = (
    TrainedModel("baseline", _changed(fast_weights=False)),
    TrainedModel("fast_weights", _changed()),
    TrainedModel("one_segment", _changed(segment_length=None)),
    TrainedModel("carried", _changed(carry_state=True, carry_groups=_GROUPS)),
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
MODELS: dict[str, TrainedModel] = {model.name: model for model in _ALL}
