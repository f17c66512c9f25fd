"""What a run is: every number that its result depends on."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from fwl_keras.data.sentencepiece_tokenizer import MIN_VOCAB_SIZE

# What differs from RunConfig's defaults, preset by preset.
PRESETS: dict[str, dict] = {
    # Two of these within six minutes on two cores.
    "quickstart": {
        "layers": 2,
        "width": 128,
        "heads": 4,
        "length": 256,
        "steps": 300,
        "segment_length": 64,
        "jit_compile": True,
        # Its learning curves are on text read for the first time: no need for held-out text too.
        "validation_windows": 0,
    },
    # Three minutes on two cores.
    "tiny": {
        "layers": 3,
        "width": 128,
        "heads": 4,
        "length": 256,
        "steps": 400,
        "segment_length": 64,
        "jit_compile": True,
    },
    # A quarter of an hour on two cores.
    "small": {
        "layers": 3,
        "width": 128,
        "heads": 4,
        "length": 512,
        "steps": 800,
        "segment_length": 64,
        "jit_compile": True,
    },
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

DTYPES = ("float32", "mixed_bfloat16")
BODIES = ("gemma", "transformer-xl")
TRAINED_PARTS = ("all", "block")

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
        corpus: A corpus's name or the path of a user's own texts.
        text_field: The field of a `.jsonl` record that has the text.
        vocab_size: The tokeniser's ids, at least 300.
        body: `"gemma"`, or `"transformer-xl"` (needs tf-models-official), whose memory goes on from
            window to window where the state does, and holds as many tokens as a window.
        layers: Transformer layers of the body.
        width: Width of the body's features and of the fast weight block.
        heads: Attention heads; `width / heads` is even, for rotary positions.
        segment_length: Tokens in a segment of the block; None for one segment.
        carry_state: Whether rows of batches walk through whole documents, the block's state carried
            from window to window; else windows are drawn at random, each with a fresh state.
        carry_groups: Groups of rows that take turns where the state is carried, so that batches are
            of more documents than they have rows.
        fast_weights: False trains the baseline: the same parameters, no steps while reading.
        initial_step_size: Of the fast weights at the start; None for the block's own default.
        learn_step_sizes: Whether step sizes and decays are learned.
        initial_model: Directory of a finished run whose weights this one begins with and whose
            tokeniser it uses; None for random weights.
        longer_memory: How many times as long as `initial_model` the fast weights remember at the
            start: its decays are raised to the power 1 / longer_memory. Decays that were learned
            in windows are too short for documents, and learned too slowly to become long.
        smaller_steps: What `initial_model`'s step sizes are divided by at the start: what is
            remembered for longer adds up to more.
        trained_part: `"all"`, or `"block"` to leave the body as it is.
        length: Tokens in a training window.
        batch_size: Windows in a batch.
        steps: Optimizer steps.
        learning_rate: The highest learning rate.
        final_learning_rate: The last one, as a part of the highest.
        warmup: Part of the steps in which the learning rate rises.
        weight_decay: AdamW's, per unit of learning rate.
        seed: Seed of the weights and of the order of the text.
        dtype: `"float32"` or `"mixed_bfloat16"`.
        jit_compile: Whether XLA compiles the training step.
        interval: Steps between two lines of metrics, which are also checkpoints.
        validation_every: Intervals between two looks at held-out text.
        validation_windows: At most so many windows of it; 0 for none.

    Raises:
        ValueError: A value is out of its range.

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
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("seed", "validation_windows", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "must not be negative")
        self._require("learning_rate", self.learning_rate > 0, "must be above 0")
        for name in ("warmup", "final_learning_rate"):
            self._require(name, 0 <= getattr(self, name) <= 1, "must be between 0 and 1")
        self._require(
            "vocab_size",
            self.vocab_size >= MIN_VOCAB_SIZE,
            f"must be at least {MIN_VOCAB_SIZE}, for 256 ids are bytes",
        )
        self._require("length", self.length >= 2, "must be at least 2: one token predicts another")
        self._require(
            "segment_length",
            self.segment_length is None or self.segment_length >= 1,
            "must be at least 1, or None",
        )
        self._require(
            "width",
            self.width % (2 * self.heads) == 0,
            f"must be a multiple of 2 * heads = {2 * self.heads}, for rotary positions",
        )
        self._require("body", self.body in BODIES, f"must be one of {', '.join(BODIES)}")
        self._require(
            "initial_step_size",
            self.initial_step_size is None or self.initial_step_size > 0,
            "must be above 0, or None",
        )
        self._require(
            "trained_part",
            self.trained_part in TRAINED_PARTS,
            f"must be one of {', '.join(TRAINED_PARTS)}",
        )
        for name in ("longer_memory", "smaller_steps"):
            self._require(name, getattr(self, name) > 0, "must be above 0")
        self._require("dtype", self.dtype in DTYPES, f"must be one of {', '.join(DTYPES)}")

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{name} {what}; received {name}={getattr(self, name)!r}")

    @classmethod
    def from_preset(cls, preset: str, **changes) -> "RunConfig":
        """Returns a preset's configuration with some values changed.

        Args:
            preset: A name in `PRESETS`.
            **changes: Attributes; those that are None keep the preset's value.

        Returns:
            The configuration.

        Raises:
            ValueError: There is no such preset, or a value is out of its range.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}; received {preset!r}")
        given = {name: value for name, value in changes.items() if value is not None}
        return cls(**{**PRESETS[preset], **given})

    @property
    def carry_context(self) -> bool:
        """Whether the body goes on from window to window, too."""
        return self.carry_state and self.body == "transformer-xl"

    def replace(self, **changes) -> "RunConfig":
        """Returns a copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Returns the configuration as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "RunConfig":
        """Reads what `to_json` wrote.

        Args:
            path: A file.

        Returns:
            The configuration.

        Raises:
            ValueError: The file cannot be read, or has values that this version does not know.
        """
        try:
            values = json.loads(Path(path).read_text("utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"it has {type(values).__name__} where an object is needed")
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a run's configuration: {error}") from error
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"{path} has {', '.join(unknown)}, which this version of fwl_keras does not know; "
                "use the version that wrote it"
            )
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
