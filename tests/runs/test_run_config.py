import dataclasses
import json

import pytest

from fwl_keras.runs import PRESETS, RunConfig


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid(preset):
    assert RunConfig.from_preset(preset, seed=3).seed == 3


def test_preset_keeps_what_is_not_given():
    config = RunConfig.from_preset("tiny", steps=None, width=64)
    assert config.steps == RunConfig.from_preset("tiny").steps
    assert config.width == 64


def test_round_trip(tmp_path):
    config = RunConfig(segment_length=None, fast_weights=False, learning_rate=1e-4)
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert RunConfig.load(path) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"vocab_size": 299},
        {"width": 30, "heads": 4},
        {"learning_rate": 0.0},
        {"warmup": 1.5},
        {"dtype": "float16"},
        {"seed": -1},
        {"length": 1},
        {"segment_length": 0},
        {"initial_step_size": 0.0},
    ],
)
def test_values_out_of_range(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        RunConfig(**changes)


def test_unknown_preset():
    with pytest.raises(ValueError, match="huge"):
        RunConfig.from_preset("huge")


def test_runs_from_before_the_state_was_carried_still_load(tmp_path):
    path = tmp_path / "config.json"
    values = json.loads(RunConfig(steps=7).to_json())
    del values["carry_state"]
    path.write_text(json.dumps(values))
    assert RunConfig.load(path) == RunConfig(steps=7)


def test_unknown_values_are_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"steps": 3, "from_the_future": 1}')
    with pytest.raises(ValueError, match="from_the_future"):
        RunConfig.load(path)


def test_every_value_is_documented():
    for field in dataclasses.fields(RunConfig):
        assert f"{field.name}:" in RunConfig.__doc__ or field.name == "corpus"
