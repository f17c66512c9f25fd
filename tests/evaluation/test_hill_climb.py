"""The search finds the bottom of a bowl, does nothing twice, and survives what is no number."""

import itertools
import math

import pytest

from fwl_keras.evaluation.hill_climb import Trial, hill_climb, logarithmic_scale

SCALES = {"rate": logarithmic_scale(1e-4, 1.0), "decay": [0.0, 0.01, 0.1], "length": [32, 64, 128]}
START = {"rate": 1e-2, "decay": 0.0, "length": 64}


def bowl(rate, decay, length):
    tilt = math.log10(rate / 1e-3) - math.log2(length / 128)
    return tilt**2 + (decay - 0.01) ** 2 + 0.1 * math.log2(length / 32)


def test_the_bottom_of_a_bowl():
    seen = []
    trials = hill_climb(lambda s: seen.append(s) or bowl(**s), START, SCALES, rounds=20)
    everything = itertools.product(*SCALES.values())
    best = min(everything, key=lambda values: bowl(*values))
    # Coordinate by coordinate: nothing next to it is better.
    found = trials[0].settings
    for name, scale in SCALES.items():
        for value in scale:
            assert bowl(**{**found, name: value}) >= trials[0].value
    assert trials[0].value <= 3 * bowl(*best) + 0.2
    assert len(seen) == len({tuple(s.items()) for s in seen}) == len(trials)
    assert [t.value for t in trials] == sorted(t.value for t in trials)


def test_what_is_no_number_is_avoided():
    def objective(settings):
        return math.nan if settings["rate"] > 3e-3 else bowl(**settings)

    trials = hill_climb(objective, {**START, "rate": 1e-3}, SCALES)
    assert math.isfinite(trials[0].value)
    assert trials[-1].value == math.inf


def test_a_search_goes_on_where_it_stopped():
    kept = []

    def objective(settings):
        if len(kept) == 4:
            raise KeyboardInterrupt
        return bowl(**settings)

    with pytest.raises(KeyboardInterrupt):
        hill_climb(objective, START, SCALES, on_trial=kept.append)
    assert len(kept) == 4 and isinstance(kept[0], Trial)
    count = []
    again = hill_climb(lambda s: count.append(s) or bowl(**s), START, SCALES, trials=kept)
    whole = hill_climb(lambda s: bowl(**s), START, SCALES)
    assert again == whole
    assert len(count) == len(whole) - 4


def test_scales_and_errors():
    assert logarithmic_scale(0.01, 1.0) == [0.01, 0.032, 0.1, 0.32, 1.0]
    with pytest.raises(ValueError, match=r"`start\['rate'\]` must be one of"):
        hill_climb(lambda s: 0.0, {"rate": 5.0}, {"rate": [1.0]})
