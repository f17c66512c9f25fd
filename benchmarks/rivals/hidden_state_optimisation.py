"""Hidden-state optimisation: gradient steps on what a body remembers of the text so far."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops

from fwl_keras._arguments import require_count, require_not_negative
from fwl_keras._progress import track
from fwl_keras.backend.compiled import Compiled
from fwl_keras.backend.gradients import value_and_gradients
from fwl_keras.data import DocumentPass
from fwl_keras.inference.bodies import KerasHubBody
from fwl_keras.ops.reset_rows import reset_rows

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class HiddenStateOptimisation:
    """Score a piece of the text, then take a step on the keys and values of what was before it.

    Of a body's context of `context_length` tokens every piece of `length` is read with the cached
    keys and values of those before it; then Adam takes a step on these, for the piece's mean loss,
    with moments and a number of steps for each of them. The weights are never touched (Yoshida and
    Gimpel 2021, arXiv 2112.08653). A new context begins with an empty cache.

    Args:
        learning_rate: size of the steps, not negative.
        length: tokens between two steps.
        context_length: tokens that the body reads at once, a multiple of `length`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> losses = HiddenStateOptimisation(3e-3, length=32).losses(lm, documents_ids, eos_id=1)
    """

    learning_rate: float = 3e-3
    length: int = 32
    context_length: int = 256

    def __post_init__(self):
        require_count("length", self.length)
        require_count("context_length", self.context_length)
        require_not_negative("learning_rate", self.learning_rate)
        if self.context_length % self.length:
            raise ValueError(
                f"`context_length`={self.context_length} must be a multiple of `length`="
                f"{self.length}."
            )

    def losses(
        self,
        lm,
        documents_ids: Sequence[Sequence[int]],
        *,
        eos_id: int,
        batch_size: int = 8,
        compiled: dict | None = None,
        progress: bool = False,
    ) -> list[np.ndarray]:
        """Return the negative log-likelihood of every token of every document.

        Args:
            lm: FWLCausalLM with a KerasHub body that has a cache of keys and values; its fast
                weights, if it uses them, adapt besides, to the document's end.
            documents_ids: token ids of each document.
            eos_id: id that stands before every document; its own place is not predicted.
            batch_size: documents read side by side; no result depends on it.
            compiled: dict in which to keep what was compiled for this model and these settings, to
                be given again; None: nothing is kept.
            progress: whether to draw a progress bar.

        Returns:
            For each document a float32 array [tokens] in nats.

        Raises:
            ValueError: if the body has no such cache, or there is no token in the documents.
        """
        if not isinstance(lm.body, KerasHubBody):
            raise ValueError(
                "Hidden-state optimisation needs a KerasHub body with a cache of keys and values; "
                f"received {type(lm.backbone).__name__}."
            )
        batches = DocumentPass(
            documents_ids, self.context_length, batch_size, eos_id=eos_id, pad_id=eos_id
        )
        compiled = {} if compiled is None else compiled
        if self not in compiled:
            compiled[self] = Compiled(lm, lambda *tensors: self._step(lm, *tensors))
        result = [np.zeros(len(ids), "float32") for ids in documents_ids]
        state = lm.block.initial_state(batch_size)
        for i in track(range(len(batches)), "hidden states", shown=progress):
            inputs, labels = batches[i]
            state = reset_rows(state, ops.convert_to_tensor(inputs["starts"]))
            arrays = inputs["token_ids"], labels, inputs["padding_mask"]
            losses, state = self._context(lm, compiled[self], arrays, state)
            batches.scatter(i, losses, result)
        return result

    def _context(self, lm, step, arrays, state):
        """Return losses [B, context_length] of a context of every row, and the block's state."""
        rows = len(arrays[0])
        context = lm.body.initial_context(rows, self.context_length)
        zeros = ops.zeros_like(context["cache"])
        moments = {"first": zeros, "second": zeros, "steps": zeros}
        found = np.zeros(arrays[0].shape, "float32")
        for start in range(0, self.context_length, self.length):
            part = slice(start, start + self.length)
            if not arrays[-1][:, part].any():
                break
            tensors = [ops.convert_to_tensor(array[:, part]) for array in arrays]
            losses, context, moments, state = step(*tensors, context, moments, state)
            found[:, part] = ops.convert_to_numpy(losses)
        return found, state

    def _step(self, lm, token_ids, labels, there, context, moments, state):
        """Return a piece's losses, the cache after the step on it, moments, the block's state."""

        def loss_of(cache):
            features, after = lm.body.advance(token_ids, there, {**context, "cache": cache})
            losses, block_state = lm.block(
                features, labels, state=state, x_mask=there, return_state=True, output="loss"
            )
            counts = ops.maximum(ops.sum(ops.cast(there, "float32"), axis=1), 1.0)
            # Every row's own mean: rows do not know of each other.
            means = ops.sum(ops.where(there, losses["loss"], 0.0), axis=1) / counts
            return ops.sum(means), (losses["loss"], after, block_state)

        (losses, after, block_state), gradient = value_and_gradients(loss_of, context["cache"])
        # What was there before; a place that nothing has been written to has no moments yet.
        places = ops.arange(self.context_length) < context["position"][0]
        old = ops.reshape(places, (1, 1, 1, -1) + (1,) * (len(gradient.shape) - 4))
        gradient = ops.where(old, ops.cast(gradient, "float32"), 0.0)
        steps = moments["steps"] + ops.cast(old, "float32")
        first = BETAS[0] * moments["first"] + (1 - BETAS[0]) * gradient
        second = BETAS[1] * moments["second"] + (1 - BETAS[1]) * ops.square(gradient)
        age = ops.maximum(steps, 1.0)
        change = first / (1 - BETAS[0] ** age)
        change = change / (ops.sqrt(second / (1 - BETAS[1] ** age)) + EPSILON)
        change = ops.where(old, self.learning_rate * change, 0.0)
        cache = after["cache"] - ops.cast(change, after["cache"].dtype)
        moments = {"first": first, "second": second, "steps": steps}
        # All rows go on together, also from a piece within which the first one's text ends.
        position = context["position"] + token_ids.shape[1]
        return losses, {**after, "cache": cache, "position": position}, moments, block_state
