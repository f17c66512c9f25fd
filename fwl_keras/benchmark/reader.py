"""A trained model that is to read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from fwl_keras.models import FWLCausalLM
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.load import load_run_model


@dataclass
class Reader:
    """A model that is to read, and what it need not compute twice.

    Attributes:
        lm: The model.
        length: Tokens of a window, the model's context.
        batch_size: Documents read side by side, where a method can; no result depends on it.
        training_windows: int32 [N, length + 1], for statistics of training gradients.
        progress: Whether to draw progress bars.
        jit_compile: Whether XLA compiles steps on weights, as it compiled those of training.
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
        """Loads a finished run's model.

        Args:
            path: The run's directory.
            training_windows: See above.
            fast_weights: Whether to read with fast weights; None: as the model was trained.
            progress: Whether to draw progress bars.
        """
        lm = load_run_model(path)
        if fast_weights is not None:
            lm.block.use_fast_weights = fast_weights
        config = RunConfig.load(Path(path) / "config.json")
        return cls(
            lm, config.length, config.batch_size, training_windows, progress, config.jit_compile
        )

    def kept(self, name: str, compute: Callable[[], Any]) -> Any:
        """Returns what is computed once for the model, however often it reads.

        Args:
            name: What it is.
            compute: Called the first time.
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
