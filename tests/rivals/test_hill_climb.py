"""The search finds the bottom of a bowl, does nothing twice, and survives what is no number."""

import itertools
import math

import pytest

from benchmarks.rivals.hill_climb import Trial, hill_climb, logarithmic_scale

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
    assert again[0] == whole[0]
    assert len(count) == len(again) - 4 and set(map(str, kept)) <= set(map(str, again))


def test_a_search_goes_on_from_the_best_that_is_known():
    found = {"rate": 1e-3, "decay": 0.01, "length": 128}
    # The best one is not on the scales any more.
    earlier = [{**found, "rate": 2e-3}, found, {**found, "rate": 1.0}]
    trials = [Trial(settings, bowl(**settings)) for settings in earlier]
    trials[0] = Trial(earlier[0], -1.0)
    new = []
    hill_climb(lambda s: new.append(s) or bowl(**s), START, SCALES, rounds=1, trials=trials)
    # One scale at a time, one step from what was found, not from the start.
    assert new[0] == {**found, "rate": 3.2e-3}
    assert START not in new


def test_settings_that_make_up_for_each_other_are_moved_together():
    def valley(rate, decay, length):
        return abs(math.log10(rate) + length / 32) + 1 / length

    scales = {**SCALES, "rate": [1e-4, 1e-3, 1e-2, 1e-1], "length": [128, 96, 64, 32]}
    start = {"rate": 1e-3, "decay": 0.0, "length": 96}
    alone = hill_climb(lambda s: valley(**s), start, scales)
    assert alone[0].settings == start
    found = hill_climb(lambda s: valley(**s), start, scales, together=[("rate", "length")])
    assert found[0].settings == {**start, "rate": 1e-4, "length": 128}


def test_scales_and_errors():
    assert logarithmic_scale(0.01, 1.0) == [0.01, 0.032, 0.1, 0.32, 1.0]
    with pytest.raises(ValueError, match=r"`start\['rate'\]` must be one of"):
        hill_climb(lambda s: 0.0, {"rate": 5.0}, {"rate": [1.0]})
