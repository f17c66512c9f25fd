"""Dynamic evaluation: gradient steps on a model's weights while it is being tested."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from fwl_keras._arguments import (
    require_bool,
    require_count,
    require_int,
    require_not_negative,
    require_positive,
)
from fwl_keras._progress import track
from fwl_keras.backend.gradients import WeightGradients

RULES = ("sgd", "rms")
WEIGHTS = ("all", "block")


@dataclass(frozen=True)
class DynamicEvaluation:
    """Score a piece of the text, then take a gradient step on it; and so on (Krause et al.).

    Of a backbone's context of `context_length` tokens every piece of `length` is scored after what
    comes before it in that context, which the backbone reads again with the weights as they are by
    then; so a token has the same context as in plain evaluation. The steps, for a mean loss with
    gradient g of a piece:

        sgd: W <- W - learning_rate * g                         + decay * (W0 - W)
        rms: W <- W - learning_rate * g / (s + epsilon)         + decay * n * (W0 - W)

    with the trained weights W0, `s` the root mean square of training gradients, weight by weight,
    and n = min(s / mean(s), 1 / decay) (Krause et al. 2018, arXiv 1709.07432, equations 5 to 8;
    2019, arXiv 1904.08378). The weights are set back exactly, whatever happens.

    Args:
        rule: `"sgd"` or `"rms"`.
        learning_rate: size of the steps, positive or 0.
        decay: pull towards the trained weights, 0 to 1.
        length: tokens between two steps.
        context_length: tokens that the backbone reads at once, a multiple of `length`.
        weights: `"all"` the trainable weights of the model, or those of the `"block"` alone, its
            step sizes and decays left out.
        per_document: whether every document begins with the trained weights; else all documents
            are one stream.
        epsilon: of the rule `"rms"`, in nats per unit of weight.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> rms = DynamicEvaluation("rms", learning_rate=1e-4, decay=0.01, length=64)
        >>> statistics = rms.statistics(lm, training_windows)
        >>> losses = rms.losses(lm, documents_ids, statistics, eos_id=1)
    """

    rule: str = "sgd"
    learning_rate: float = 0.1
    decay: float = 0.0
    length: int = 64
    context_length: int = 256
    weights: str = "all"
    per_document: bool = True
    epsilon: float = 1e-5

    def __post_init__(self):
        for name, allowed in (("rule", RULES), ("weights", WEIGHTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(allowed)}; received "
                    f"{getattr(self, name)!r}."
                )
        require_count("length", self.length)
        require_count("context_length", self.context_length)
        require_bool("per_document", self.per_document)
        for name in ("learning_rate", "decay"):
            require_not_negative(name, getattr(self, name))
        require_positive("epsilon", self.epsilon)
        if self.context_length % self.length:
            raise ValueError(
                f"`context_length`={self.context_length} must be a multiple of `length`="
                f"{self.length}."
            )
        if self.decay > 1:
            raise ValueError(f"`decay` must lie between 0 and 1; received {self.decay!r}.")

    def variables(self, lm) -> list[keras.Variable]:
        """Return the variables that are adapted."""
        if self.weights == "all":
            return list(lm.trainable_variables)
        settings = {id(v) for v in lm.block.step_size_variables() + lm.block.decay_variables()}
        listed = {id(v) for v in lm.trainable_variables}
        return [
            v for v in lm.block.trainable_variables if id(v) in listed and id(v) not in settings
        ]

    def statistics(self, lm, windows: np.ndarray, *, progress: bool = False) -> list[np.ndarray]:
        """Return root mean squares of training gradients, for the rule `"rms"`.

        Args:
            lm: FWLCausalLM.
            windows: int array [N, T + 1] of training text; gradients are those of pieces of
                `length` tokens, one in each window, at places that follow one another.
            progress: whether to draw a progress bar.

        Returns:
            Arrays of float32, shaped like `variables(lm)`.

        Raises:
            ValueError: if there are no windows, or they are shorter than a piece.
        """
        if len(windows) == 0 or windows.shape[1] <= self.length:
            raise ValueError(
                f"`windows` must be some of more than `length`={self.length} tokens; received "
                f"shape {windows.shape}."
            )
        variables = self.variables(lm)
        gradients = WeightGradients(lm, variables, _loss_function(lm))
        sums = [np.zeros(tuple(v.shape), "float64") for v in variables]
        pieces = (windows.shape[1] - 1) // self.length
        for i, window in enumerate(track(windows, "gradients", shown=progress)):
            stop = (i % pieces + 1) * self.length
            arguments = _arguments(window[: stop + 1], stop - self.length, stop)
            _, found = gradients((*arguments, lm.block.initial_state(1)))
            for total, gradient in zip(sums, found, strict=True):
                total += np.square(ops.convert_to_numpy(gradient), dtype="float64")
        return [np.sqrt(total / len(windows)).astype("float32") for total in sums]

    def losses(
        self,
        lm,
        documents_ids: Sequence[Sequence[int]],
        statistics: list[np.ndarray] | None = None,
        *,
        eos_id: int,
        carry: bool = True,
        jit_compile: bool = False,
        compiled: dict | None = None,
        progress: bool = False,
    ) -> list[np.ndarray]:
        """Return the negative log-likelihood of every token of every document.

        Args:
            lm: FWLCausalLM; one with fast weights takes its own steps besides.
            documents_ids: token ids of each document.
            statistics: what `statistics` returned, for the rule `"rms"`.
            eos_id: id that stands before every document; its own place is not predicted.
            carry: whether the fast weights' state goes on from context to context, to the
                document's end.
            jit_compile: whether XLA compiles the steps: slow to start, then faster. JAX does.
            compiled: dict in which to keep what was compiled for this model, to be given again
                with other settings; None: nothing is kept.
            progress: whether to draw a progress bar.

        Returns:
            For each document a float32 array [tokens] in nats.

        Raises:
            ValueError: if the statistics do not fit.
        """
        require_int("eos_id", eos_id, 0, lm.block.vocab_size)
        variables = self.variables(lm)
        trained = [np.array(ops.convert_to_numpy(v.value)) for v in variables]
        constants = self._constants(trained, statistics)
        compiled = {} if compiled is None else compiled
        kind = self.rule, self.weights, jit_compile
        if kind not in compiled:
            compiled[kind] = WeightGradients(
                lm, variables, _loss_function(lm), _UPDATES[self.rule], jit_compile=jit_compile
            )
        step = compiled[kind]
        result = []
        try:
            for ids in track(documents_ids, "dynamic evaluation", shown=progress):
                if self.per_document and result:
                    _assign(variables, trained)
                tokens = np.concatenate([[eos_id], np.asarray(ids, "int32")]).astype("int32")
                result.append(self._document(lm, step, constants, tokens, carry))
        finally:
            _assign(variables, trained)
        return result

    def _document(self, lm, step, constants, tokens, carry):
        """Return losses of one document's tokens, the first of which is the mark before it."""
        found = [np.zeros(0, "float32")]
        state = lm.block.initial_state(1)
        for begin in range(0, len(tokens) - 1, self.context_length):
            context = tokens[begin : begin + self.context_length + 1]
            for start in range(0, len(context) - 1, self.length):
                stop = start + self.length
                arguments = _arguments(context[: stop + 1], start, stop)
                losses, state = step((*arguments, state), constants)
                found.append(ops.convert_to_numpy(losses)[0, : len(context) - 1 - start])
            if not carry:
                state = lm.block.initial_state(1)
        return np.concatenate(found)

    def _constants(self, trained, statistics):
        """Return the update's tensors: rate, decay, trained weights; two scales."""
        settings = [ops.convert_to_tensor(np.float32(x)) for x in (self.learning_rate, self.decay)]
        settings.append([ops.convert_to_tensor(value) for value in trained])
        if self.rule == "sgd":
            if statistics is not None:
                raise ValueError('`statistics` are for `rule="rms"`; leave them out.')
            return tuple(settings)
        shapes = [tuple(one.shape) for one in statistics or []]
        if shapes != [tuple(value.shape) for value in trained]:
            raise ValueError(
                "`statistics` must be what `statistics(lm, windows)` returned, an array for each "
                f"of {len(trained)} variables; received {len(shapes)} arrays."
            )
        mean = np.sum([one.sum(dtype="float64") for one in statistics])
        mean = float(mean / sum(one.size for one in statistics))
        most = 1.0 / self.decay if self.decay else np.inf
        scales = [np.minimum(one / mean, most).astype("float32") for one in statistics]
        steps = [(1.0 / (one + self.epsilon)).astype("float32") for one in statistics]
        for group in (steps, scales):
            settings.append([ops.convert_to_tensor(one) for one in group])
        return tuple(settings)


def _sgd(values, gradients, learning_rate, decay, trained):
    return [
        value
        - ops.cast(learning_rate * ops.cast(gradient, "float32"), value.dtype)
        + ops.cast(decay, value.dtype) * (first - value)
        for value, gradient, first in zip(values, gradients, trained, strict=True)
    ]


def _rms(values, gradients, learning_rate, decay, trained, steps, pulls):
    scaled = [ops.cast(g, "float32") * one for g, one in zip(gradients, steps, strict=True)]
    return [
        value
        - ops.cast(learning_rate * gradient, value.dtype)
        + ops.cast(decay * pull, value.dtype) * (first - value)
        for value, gradient, first, pull in zip(values, scaled, trained, pulls, strict=True)
    ]


_UPDATES = {"sgd": _sgd, "rms": _rms}


def _loss_function(lm):
    """Make a function of a piece in its context: to its mean loss, all losses, and the state."""

    def function(token_ids, labels, exists, state):
        # The backbone reads the context again, with its new weights; the block goes on.
        x = lm.body.features(token_ids, None)[:, -labels.shape[1] :]
        losses, state = lm.block(
            x, labels, state=state, x_mask=exists, return_state=True, output="loss"
        )
        total = ops.sum(ops.where(exists, losses["loss"], 0.0))
        mean = total / ops.maximum(ops.sum(ops.cast(exists, "float32")), 1.0)
        return mean, (losses["loss"], state)

    return function


def _arguments(tokens, start, stop):
    """Make tensors of a piece, tokens [start + 1, stop + 1), and of the context before it.

    Filled up to `stop` labels at the end, so that few shapes are compiled; what is filled up does
    not exist and comes after everything.
    """
    padded = np.zeros(stop + 1, "int32")
    padded[: len(tokens)] = tokens
    exists = np.arange(start, stop) < len(tokens) - 1
    return tuple(
        ops.convert_to_tensor(array[None]) for array in (padded[:-1], padded[start + 1 :], exists)
    )


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
