"""What is done about fast weights that diverge, and what is said."""

import warnings

import numpy as np
from keras import ops

from fwl_keras.inference.divergence_policies import POLICIES
from fwl_keras.inference.state import split_context
from fwl_keras.ops._types import Tensor
from fwl_keras.ops.divergence import LIMIT
from fwl_keras.ops.reset_rows import reset_rows, select_rows


class Watch:
    """What becomes of rows that diverge while one call reads.

    Args:
        on_divergence: one of `POLICIES`.

    Raises:
        ValueError: if there is no such policy.
    """

    def __init__(self, on_divergence: str):
        if not isinstance(on_divergence, str) or on_divergence not in POLICIES:
            raise ValueError(
                f"`on_divergence` must be one of {', '.join(POLICIES)}; received {on_divergence!r}."
            )
        self.on_divergence = on_divergence
        self._diverged = None

    def after(
        self, diverged: Tensor, state: dict, before: dict, frozen: np.ndarray
    ) -> tuple[dict, np.ndarray]:
        """What to go on with after a window.

        Args:
            diverged: bool tensor [B], rows that did in this window.
            state: the model's state after it.
            before: the model's state before it.
            frozen: bool array [B], rows that took no steps in it.

        Returns:
            The state, and the rows that are to take no steps from now on.
        """
        rows = ops.convert_to_numpy(diverged) & ~frozen
        if rows.any():
            self._diverged = rows if self._diverged is None else self._diverged | rows
        if self.on_divergence == "reset" and rows.any():
            fresh = reset_rows(_learned(state), ops.convert_to_tensor(rows))
            return {**state, **fresh}, frozen
        if self.on_divergence == "freeze":
            frozen = frozen | rows
            if frozen.any():
                kept = _learned(before)
                kept = select_rows(ops.convert_to_tensor(frozen), kept, _learned(state))
                return {**state, **kept}, frozen
        return state, frozen

    def add(self, others: list["Watch"]) -> None:
        """Take over what was seen in rows that were read one by one."""
        if any(one._diverged is not None for one in others):
            self._diverged = np.array([one._diverged is not None for one in others])

    def report(self) -> None:
        """Warn, if any row has diverged: which, what was done about it, and what would help."""
        if self._diverged is None:
            return
        done = {
            "ignore": 'They went on (`on_divergence="reset"` or `"freeze"` would not have).',
            "reset": "They went on with a fresh state.",
            "freeze": "They went on with the weights from before, and took no more steps.",
        }
        warnings.warn(
            f"The fast weights of {int(self._diverged.sum())} of {self._diverged.size} texts "
            "diverged: over a segment they predicted worse than the trained weights, by more than "
            f"{LIMIT:g} nat per token. {done[self.on_divergence]} Their step sizes are too large "
            "for this model: make them smaller, as with `lm.block.set_step_sizes({name: step / 10 "
            "for name, step in lm.block.step_sizes().items()})`.",
            RuntimeWarning,
            stacklevel=3,
        )


def _learned(state):
    """The block's part of a model's state."""
    return {n: v for n, v in split_context(state)[0].items() if not n.startswith("pending_")}


def warn_of_lost_tokens(count: int) -> None:
    """Warn that losses are not finite, of so many tokens, and say what that may mean."""
    warnings.warn(
        f"The loss of {count} tokens is not finite: they count as infinitely improbable. The "
        "model's weights are damaged, or its fast weights diverged; `lm.block.set_step_sizes` "
        "makes their steps smaller.",
        RuntimeWarning,
        stacklevel=3,
    )
