"""A search for the best of several settings, each on a scale of its own."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fwl_keras._arguments import require_count, require_positive


@dataclass(frozen=True)
class Trial:
    """One point of a search.

    Attributes:
        settings: values by name.
        value: what the objective found; infinite where that was no number.
    """

    settings: dict
    value: float


def hill_climb(
    objective: Callable[[dict], float],
    start: Mapping[str, float],
    scales: Mapping[str, Sequence[float]],
    *,
    together: Sequence[tuple[str, ...]] = (),
    rounds: int = 3,
    on_trial: Callable[[Trial], None] | None = None,
    trials: Sequence[Trial] = (),
) -> list[Trial]:
    """Minimise a function by going up and down one scale after the other.

    On each scale the search goes on in the better direction for as long as that helps, so a best
    value is never the last one that was tried, unless its scale ends there.

    Args:
        objective: from settings to a number; smaller is better, NaN is worst.
        start: settings to begin with, each a value of its scale.
        scales: possible values by name, in order. The scales are searched in this order.
        together: names of settings that are also moved up together, and down together, after the
            scales: where one makes up for another, neither can be moved alone.
        rounds: how often to go through all scales; ends earlier where nothing changes.
        on_trial: called with every new trial, e.g. to keep it.
        trials: trials of an earlier search, which are not repeated; the search goes on from the
            best of those that are on the scales.

    Returns:
        All trials, the best first.

    Raises:
        ValueError: if a start is not on its scale.

    Example:
        >>> scales = {"x": [0, 1, 2, 3], "y": [1, 10, 100]}
        >>> hill_climb(lambda s: (s["x"] - 2) ** 2 + s["y"], {"x": 0, "y": 100}, scales)[0]
        Trial(settings={'x': 2, 'y': 1}, value=1)
    """
    for name, scale in scales.items():
        if start.get(name) not in scale:
            raise ValueError(
                f"`start[{name!r}]` must be one of {list(scale)}; received {start.get(name)!r}."
            )
    require_count("rounds", rounds)
    unknown = [name for names in together for name in names if name not in scales]
    if unknown:
        raise ValueError(f"`together` names {unknown[0]!r}, which has no scale in {list(scales)}.")
    known = {_key(trial.settings): trial for trial in trials}

    def measured(settings):
        key = _key(settings)
        if key not in known:
            value = objective(dict(settings))
            known[key] = Trial(dict(settings), value if math.isfinite(value) else math.inf)
            if on_trial is not None:
                on_trial(known[key])
        return known[key].value

    best = dict(start)
    on_scales = [
        trial
        for trial in trials
        if all(trial.settings.get(name) in scale for name, scale in scales.items())
    ]
    if on_scales:
        best = dict(min(on_scales, key=lambda trial: trial.value).settings)
    for _ in range(rounds):
        before = dict(best)
        for names in [*((name,) for name in scales), *together]:
            for direction in (1, -1):
                best = _climb(measured, best, {name: scales[name] for name in names}, direction)
        if best == before:
            break
    return sorted(known.values(), key=lambda trial: trial.value)


def _climb(measured, settings, scales, direction):
    """Return the best settings in one direction, all of these scales moved together."""
    while True:
        places = {name: scale.index(settings[name]) + direction for name, scale in scales.items()}
        if not all(0 <= place < len(scales[name]) for name, place in places.items()):
            return settings
        moved = {**settings, **{name: scales[name][place] for name, place in places.items()}}
        if not measured(moved) < measured(settings):
            return settings
        settings = moved


def _key(settings):
    return tuple(sorted(settings.items()))


def logarithmic_scale(low: float, high: float, per_decade: int = 2) -> list[float]:
    """Return values at equal ratios, rounded to two digits, e.g. 0.1, 0.32, 1.0.

    Args:
        low: the first value, above 0.
        high: about the last one.
        per_decade: values for each factor of ten.

    Returns:
        The values in order.

    Raises:
        ValueError: if a number is not positive, or `high` is below `low`.
    """
    require_positive("low", low)
    require_positive("high", high)
    require_count("per_decade", per_decade)
    if high < low:
        raise ValueError(f"`high`={high} must not be below `low`={low}.")
    count = round(math.log10(high / low) * per_decade) + 1
    values = low * 10.0 ** (np.arange(count) / per_decade)
    return [float(f"{value:.2g}") for value in values]
