"""How the next token is drawn: with a key for every row and place, or as a sampler does it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
from keras import ops

from fwl_keras.ops import random_uniform, sample_tokens
from fwl_keras.ops._types import Tensor

if TYPE_CHECKING:
    import keras_hub

# KerasHub's names for the samplers whose tokens are drawn here, with keys for every row, and for
# the one that searches instead of drawing; and their classes.
DRAWING = {
    "greedy": "GreedySampler",
    "random": "RandomSampler",
    "top_k": "TopKSampler",
    "top_p": "TopPSampler",
}
SEARCHING = {"beam": "BeamSampler"}


@dataclass(frozen=True)
class Sampling:
    """Tokens drawn with a key for every row and place; see `fwl_keras.ops.sample_tokens`.

    Attributes:
        temperature: divides the logits; 0 for the likeliest token. A number, or a tensor [B].
        top_k: tokens that are kept at most, or None; or an int tensor [B].
        top_p: tokens are kept while those before them have no more probability, or None; or a
            tensor [B].
        most: tokens that a draw looks at in any row, or None for all.
    """

    temperature: float | Tensor = 1.0
    top_k: int | Tensor | None = None
    top_p: float | Tensor | None = None
    most: int | None = None

    def draw(self, logits: Tensor, place: Tensor, randomness: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a token for every row.

        Args:
            logits: float32 tensor [B, V].
            place: int32 tensor [B], number of the token in what is written in the row.
            randomness: uint32 tensor [B, 2], the rows' keys.

        Returns:
            int32 tensor [B]; and the randomness for the next token.
        """
        token = sample_tokens(
            logits,
            random_uniform(randomness[:, 0], randomness[:, 1], place),
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            most=self.most,
        )
        return token, randomness


@dataclass(frozen=True, eq=False)
class CustomSampling:
    """Tokens drawn by a sampler's own `get_next_token`, for all rows together.

    Attributes:
        sampler: the sampler. Its random state is handed through the loop of tensors that writes,
            and comes back by `keep`.
    """

    sampler: "keras_hub.samplers.Sampler"

    def __eq__(self, other) -> bool:
        return isinstance(other, CustomSampling) and self.sampler is other.sampler

    def __hash__(self) -> int:
        return id(self.sampler)

    @property
    def randomness(self) -> list[Tensor]:
        """The state of the sampler's seed generators."""
        return [ops.convert_to_tensor(v.value) for v in self.sampler.variables]

    def draw(self, logits: Tensor, place: Tensor, randomness: list) -> tuple[Tensor, list]:
        """Draw a token for every row; as `Sampling.draw`."""
        variables = self.sampler.variables
        mapping = zip(variables, randomness, strict=True)
        with keras.StatelessScope(state_mapping=mapping) as scope:
            probabilities = self.sampler.compute_probabilities(logits)
            token = ops.cast(self.sampler.get_next_token(probabilities), "int32")
        return token, [scope.get_current_value(v) for v in variables]

    def keep(self, randomness: list) -> None:
        """Set the sampler's seed generators to what a loop has left."""
        for variable, value in zip(self.sampler.variables, randomness, strict=True):
            variable.assign(value)


def get_sampler(sampler) -> "keras_hub.samplers.Sampler":
    """Return a KerasHub sampler by name, or the sampler itself; None for KerasHub's usual top-k.

    Raises:
        ValueError: if there is no such sampler, or generation does not know how to use it.
    """
    # Slow to import, and not needed before.
    import keras_hub

    sampler = keras_hub.samplers.get("top_k" if sampler is None else sampler)
    if draws_by_itself(sampler) and not _draws_tokens(sampler):
        names = ", ".join(DRAWING | SEARCHING)
        raise ValueError(
            f"`sampler`={sampler!r} cannot be used with fast weights: it runs a loop of its own "
            f"instead of drawing one token after the other. Use one of {names}, or a "
            "`keras_hub.samplers.Sampler` that overrides `get_next_token` and not `__call__`."
        )
    if getattr(sampler, "return_all_beams", False):
        raise ValueError(
            "`sampler`=BeamSampler(return_all_beams=True) is not supported: `generate` gives one "
            "text a prompt. Leave `return_all_beams` out."
        )
    return sampler


def searches(sampler: "keras_hub.samplers.Sampler") -> bool:
    """Whether a sampler of `get_sampler` is beam search, which draws no tokens."""
    return _is_one_of(sampler, SEARCHING)


def draws_by_itself(sampler: "keras_hub.samplers.Sampler") -> bool:
    """Whether a sampler of `get_sampler` is none of KerasHub's."""
    return not _is_one_of(sampler, DRAWING | SEARCHING)


def sampling_of(sampler: "keras_hub.samplers.Sampler") -> Sampling | CustomSampling:
    """Return how any sampler of `get_sampler` but beam search draws."""
    import keras_hub

    if draws_by_itself(sampler):
        return CustomSampling(sampler)
    if isinstance(sampler, keras_hub.samplers.GreedySampler):
        return Sampling(temperature=0.0, most=1)
    k, p = getattr(sampler, "k", None), getattr(sampler, "p", None)
    return Sampling(float(sampler.temperature), k, p, most=k)


def _is_one_of(sampler, classes):
    """Whether it is one of these samplers of KerasHub, and none derived from them."""
    import keras_hub

    return type(sampler) in [getattr(keras_hub.samplers, name) for name in classes.values()]


def _draws_tokens(sampler):
    """Whether a sampler has a `get_next_token` of its own, and no loop of its own."""
    import keras_hub

    base, kind = keras_hub.samplers.Sampler, type(sampler)
    if not isinstance(sampler, base) or kind.get_next_token is base.get_next_token:
        return False
    return kind.__call__ is base.__call__ and kind.run_loop is base.run_loop
