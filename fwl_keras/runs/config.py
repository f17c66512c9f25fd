"""What a run is: every number that its result depends on."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from fwl_keras._arguments import require_count, require_not_negative, require_positive
from fwl_keras.data.sentencepiece_tokenizer import MIN_VOCAB_SIZE
from fwl_keras.runs.bodies import BODIES
from fwl_keras.runs.json_files import read_json_object
from fwl_keras.runs.reason import reason

# What differs from RunConfig's defaults, preset by preset.
PRESETS: dict[str, dict] = {
    # Two of these within six minutes on two cores.
    "quickstart": {
        "steps": 300,
        "segment_length": 64,
        "jit_compile": True,
        # Its learning curves are on text read for the first time: no need for held-out text too.
        "validation_windows": 0,
    },
    # Three minutes on two cores.
    "tiny": {"layers": 3, "steps": 400, "segment_length": 64, "jit_compile": True},
    # A quarter of an hour on two cores.
    "small": {"layers": 3, "length": 512, "steps": 800, "segment_length": 64, "jit_compile": True},
    # A GPU, or days.
    "base": {
        "layers": 12,
        "width": 512,
        "heads": 8,
        "vocab_size": 8192,
        "length": 512,
        "batch_size": 16,
        "steps": 20_000,
        "learning_rate": 1e-3,
        "interval": 100,
        "jit_compile": True,
    },
}

# Policies of the body and the block; the fast weights' state is always float32.
DTYPES = ("float32", "mixed_bfloat16")
TRAINED_PARTS = ("all", "block")

# What of a corpus is held out.
SPLITS = ("valid", "test")

_CHOICES = {"body": BODIES, "trained_part": TRAINED_PARTS, "dtype": DTYPES}

_AT_LEAST_ONE = (
    "layers",
    "width",
    "heads",
    "batch_size",
    "steps",
    "interval",
    "validation_every",
    "carry_groups",
)


@dataclass(frozen=True)
class RunConfig:
    """Every choice that a run's result depends on; kept as `config.json` in the run.

    Attributes:
        corpus: a corpus's name or the path of a user's own texts.
        text_field: the field of a `.jsonl` record that has the text.
        vocab_size: the tokeniser's ids, at least 300.
        body: `"gemma"`, or `"transformer-xl"` (needs tf-models-official), whose memory goes on from
            window to window where the state does, and holds as many tokens as a window.
        layers: transformer layers of the body.
        width: width of the body's features and of the fast weight block.
        heads: attention heads; `width / heads` is even, for rotary positions.
        segment_length: tokens in a segment of the block; None for one segment.
        carry_state: whether rows of batches walk through whole documents, the block's state carried
            from window to window; else windows are drawn at random, each with a fresh state.
        carry_groups: groups of rows that take turns where the state is carried, so that batches are
            of more documents than they have rows.
        fast_weights: False trains the baseline: the same parameters, no steps while reading.
        initial_step_size: of the fast weights at the start; None for the block's own default.
        learn_step_sizes: whether step sizes and decays are learned.
        initial_model: directory of a finished run whose weights this one begins with and whose
            tokeniser it uses; None for random weights.
        longer_memory: how many times as long as `initial_model` the fast weights remember at the
            start: its decays are raised to the power 1 / longer_memory. Decays that were learned
            in windows are too short for documents, and learned too slowly to become long.
        smaller_steps: what `initial_model`'s step sizes are divided by at the start: what is
            remembered for longer adds up to more.
        trained_part: `"all"`, or `"block"` to leave the body as it is.
        length: tokens in a training window.
        batch_size: windows in a batch.
        steps: optimizer steps.
        learning_rate: the highest learning rate.
        final_learning_rate: the last one, as a part of the highest.
        warmup: part of the steps in which the learning rate rises.
        weight_decay: AdamW's, per unit of learning rate.
        seed: seed of the weights and of the order of the text.
        dtype: `"float32"` or `"mixed_bfloat16"`.
        jit_compile: whether XLA compiles the training step.
        interval: steps between two lines of metrics, which are also checkpoints.
        validation_every: intervals between two looks at held-out text.
        validation_windows: at most so many windows of it; 0 for none.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> RunConfig.from_preset("tiny", steps=100).steps
        100
    """

    corpus: str = "python-stdlib"
    text_field: str = "text"
    vocab_size: int = 4096
    body: str = "gemma"
    layers: int = 2
    width: int = 128
    heads: int = 4
    segment_length: int | None = 128
    fast_weights: bool = True
    initial_step_size: float | None = None
    learn_step_sizes: bool = True
    initial_model: str | None = None
    longer_memory: float = 1.0
    smaller_steps: float = 1.0
    trained_part: str = "all"
    carry_state: bool = False
    carry_groups: int = 1
    length: int = 256
    batch_size: int = 8
    steps: int = 1000
    learning_rate: float = 4e-3
    final_learning_rate: float = 0.05
    warmup: float = 0.1
    weight_decay: float = 0.05
    seed: int = 0
    dtype: str = "float32"
    jit_compile: bool = False
    interval: int = 25
    validation_every: int = 4
    validation_windows: int = 64

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # An int will do for a float; that True is an int is no reason to take it for 1.
            kinds = field.type | int if isinstance(0.5, field.type) else field.type
            kind = getattr(kinds, "__name__", str(kinds))
            holds = isinstance(value, kinds) and isinstance(value, bool) == (field.type is bool)
            self._require(field.name, holds, f"must be of type {kind}")
            if isinstance(value, float):
                self._require(field.name, math.isfinite(value), "must be finite")
        for name in _AT_LEAST_ONE:
            require_count(name, getattr(self, name))
        for name in ("learning_rate", "longer_memory", "smaller_steps"):
            require_positive(name, getattr(self, name))
        for name in ("seed", "validation_windows", "weight_decay"):
            require_not_negative(name, getattr(self, name))
        for name in ("warmup", "final_learning_rate"):
            self._require(name, 0 <= getattr(self, name) <= 1, "must be between 0 and 1")
        for name, choices in _CHOICES.items():
            one_of = f"must be one of {', '.join(choices)}"
            self._require(name, getattr(self, name) in choices, one_of)
        self._require(
            "vocab_size",
            self.vocab_size >= MIN_VOCAB_SIZE,
            f"must be at least {MIN_VOCAB_SIZE}, for 256 ids are bytes",
        )
        self._require("length", self.length >= 2, "must be at least 2: one token predicts another")
        if self.segment_length is not None:
            require_count("segment_length", self.segment_length)
        if self.initial_step_size is not None:
            require_positive("initial_step_size", self.initial_step_size)
        self._require(
            "width",
            self.width % (2 * self.heads) == 0,
            f"must be a multiple of 2 * heads = {2 * self.heads}, for rotary positions",
        )

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"`{name}` {what}; received {getattr(self, name)!r}.")

    @classmethod
    def from_preset(cls, preset: str, **changes) -> "RunConfig":
        """Return a preset's configuration with some values changed.

        Args:
            preset: a name in `PRESETS`.
            **changes: attributes; those that are None keep the preset's value.

        Returns:
            The configuration.

        Raises:
            ValueError: if there is no such preset, or a value is out of its range.
        """
        if preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}; received {preset!r}.")
        given = {name: value for name, value in changes.items() if value is not None}
        return cls(**{**PRESETS[preset], **given})

    @property
    def carry_context(self) -> bool:
        """Whether the body goes on from window to window, too."""
        return self.carry_state and BODIES[self.body].carries_context

    def replace(self, **changes) -> "RunConfig":
        """Return a copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Return the configuration as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "RunConfig":
        """Read what `to_json` wrote.

        Args:
            path: a file.

        Returns:
            The configuration.

        Raises:
            ValueError: if the file cannot be read, or has values that this version does not know.
        """
        try:
            values = read_json_object(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`{path}` cannot be read as a run's configuration: {reason(error)}."
            ) from error
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"`{path}` has {', '.join(unknown)}, which this version of fwl_keras does not "
                "know; use the version that wrote it."
            )
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"`{path}`: {error}") from error
