"""What a KerasHub sampler asks for, as numbers."""

from dataclasses import dataclass

import keras_hub


@dataclass(frozen=True, order=True)
class Sampling:
    """How the next token is drawn; see fwl_keras.ops.sample_tokens.

    Attributes:
        temperature: divides the logits; 0 for the likeliest token.
        top_k: tokens that are kept at most, or None.
        top_p: tokens are kept while those before them have no more probability, or None.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    @property
    def most(self) -> int | None:
        """Tokens that a draw looks at, or None for all."""
        return 1 if self.temperature == 0 else self.top_k


def get_sampler(sampler) -> keras_hub.samplers.Sampler:
    """A KerasHub sampler by name, or the sampler itself; None for KerasHub's usual top-k.

    Raises:
        ValueError: if there is no such sampler, or generation does not know how to use it.
    """
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


def sampling_of(sampler: keras_hub.samplers.Sampler) -> Sampling:
    """The numbers of any sampler of `get_sampler` but beam search."""
    if isinstance(sampler, keras_hub.samplers.GreedySampler):
        return Sampling(temperature=0.0)
    k, p = getattr(sampler, "k", None), getattr(sampler, "p", None)
    return Sampling(float(sampler.temperature), k, p)
