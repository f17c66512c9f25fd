"""How the next token may be drawn, by name; KerasHub is imported when one is made."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras_hub

# By name: KerasHub's class, and what it takes, with the values where none are given.
SAMPLERS = {
    "greedy": ("GreedySampler", {}),
    "random": ("RandomSampler", {"temperature": 0.8}),
    "top_k": ("TopKSampler", {"temperature": 0.8, "top_k": 40}),
    "top_p": ("TopPSampler", {"temperature": 0.8, "top_k": None, "top_p": 0.9}),
}
_KERAS_HUB_NAMES = {"temperature": "temperature", "top_k": "k", "top_p": "p"}


def make_sampler(
    name: str = "top_p",
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> "keras_hub.samplers.Sampler":
    """Return a KerasHub sampler.

    Args:
        name: one of `SAMPLERS`.
        temperature: divides the logits; None for 0.8.
        top_k: likeliest tokens that are kept, of `"top_k"` and `"top_p"`; None for 40 and for all.
        top_p: probability of the likeliest tokens that are kept, of `"top_p"`; None for 0.9.

    Returns:
        The sampler.

    Raises:
        ValueError: if a value is out of its range, or the sampler does not use it.
    """
    if name not in SAMPLERS:
        raise ValueError(f"`sampler` must be one of {', '.join(SAMPLERS)}; received {name!r}.")
    kind, values = SAMPLERS[name]
    choices = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    given = {argument: value for argument, value in choices.items() if value is not None}
    for argument in given:
        if argument not in values:
            raise ValueError(f"The sampler {name!r} has no use for `{argument}`; leave it out.")
    if temperature is not None and temperature <= 0:
        raise ValueError(
            f"`temperature` must be above 0; received {temperature:g}; for the likeliest token "
            "every time use the sampler greedy."
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"`top_k` must be at least 1; received {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must be above 0 and at most 1; received {top_p:g}.")
    import keras_hub

    values = {_KERAS_HUB_NAMES[argument]: value for argument, value in {**values, **given}.items()}
    return getattr(keras_hub.samplers, kind)(**values)
