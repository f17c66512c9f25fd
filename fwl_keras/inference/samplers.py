"""What a KerasHub sampler asks for, as numbers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras_hub

from fwl_keras.ops._types import Tensor


@dataclass(frozen=True, order=True)
class Sampling:
    """How the next token is drawn; see fwl_keras.ops.sample_tokens.

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


def get_sampler(sampler) -> "keras_hub.samplers.Sampler":
    """A KerasHub sampler by name, or the sampler itself; None for KerasHub's usual top-k.

    Raises:
        ValueError: if there is no such sampler, or generation does not know how to use it.
    """
    # Slow to import, and not needed before.
    import keras_hub

    samplers = keras_hub.samplers
    known = (
        samplers.GreedySampler,
        samplers.RandomSampler,
        samplers.TopKSampler,
        samplers.TopPSampler,
        samplers.BeamSampler,
    )
    sampler = samplers.get("top_k" if sampler is None else sampler)
    if type(sampler) not in known:
        names = ", ".join(one.__name__ for one in known)
        raise ValueError(
            f"`sampler`={sampler!r} cannot be used with fast weights; use one of {names}."
        )
    if getattr(sampler, "return_all_beams", False):
        raise ValueError(
            "`sampler`=BeamSampler(return_all_beams=True) is not supported: `generate` gives one "
            "text a prompt. Leave `return_all_beams` out."
        )
    return sampler


def sampling_of(sampler: "keras_hub.samplers.Sampler") -> Sampling:
    """The numbers of any sampler of `get_sampler` but beam search."""
    import keras_hub

    if isinstance(sampler, keras_hub.samplers.GreedySampler):
        return Sampling(temperature=0.0, most=1)
    k, p = getattr(sampler, "k", None), getattr(sampler, "p", None)
    return Sampling(float(sampler.temperature), k, p, most=k)
