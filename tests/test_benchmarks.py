"""What is measured is not stale: every module's options, and what the published results say."""

import importlib
import json
import os
import sys
from argparse import Namespace
from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks.common import make_parser, perplexity, read_results, write_json
from benchmarks.environment import environment, peak_resident_bytes, resident_bytes
from fwl_keras import FWLBlock

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = {"__init__", "common", "environment", "published"}
MEASUREMENTS = sorted({path.stem for path in BENCHMARKS.glob("*.py")} - SHARED)
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_help(name, monkeypatch, capsys):
    before = dict(os.environ)
    module = importlib.import_module(f"benchmarks.{name}")
    # Other tests' child processes would inherit a change.
    assert dict(os.environ) == before
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as leave:
        module.main()
    assert leave.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert module.__doc__.partition("\n")[0] in said
    assert f"python -m benchmarks.{name}" in module.__doc__


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_name_a_command_that_there_is(path):
    python, option, module = json.loads(path.read_text())["command"].split()[:3]
    assert (python, option) == ("python", "-m")
    assert path.stem.startswith(module.removeprefix("benchmarks.")) or module.endswith("rivals")
    assert importlib.util.find_spec(module) is not None


def test_results_are_filled_in(tmp_path):
    path = tmp_path / "deep" / "figures.json"
    new = {"settings": {"steps": 3}, "rows": {}}
    args = Namespace(results=path, show=False)
    assert read_results(args, new) is new
    write_json(path, {**new, "rows": {"one": 1.5}})
    assert read_results(args, new)["rows"] == {"one": 1.5}
    other = {**new, "settings": {"steps": 4}}
    with pytest.raises(SystemExit, match="other settings"):
        read_results(args, other)
    # A table is shown whatever it is of.
    assert read_results(Namespace(results=path, show=True), other)["settings"] == {"steps": 3}
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_common_options():
    parser = make_parser("/somewhere/step_sizes.py", "First line.\n\nMore.", resumable=True)
    args = parser.parse_args(["--show"])
    assert args.command == "python -m benchmarks.step_sizes" and args.show
    assert args.results == BENCHMARKS / "results" / "step_sizes.json"
    assert parser.description == "First line."


def test_perplexity():
    assert perplexity(np.log([2.0, 8.0]), 3) == 4.0
    assert perplexity(np.array([1.0, np.nan]), 3) is None
    assert perplexity(np.array([1e4]), 3) is None


def test_environment():
    assert {"machine", "python", "backend", "keras"} <= set(environment())
    before = resident_bytes()
    there = np.ones(1 << 23)
    assert resident_bytes() > before + there.nbytes / 2
    assert peak_resident_bytes() >= resident_bytes()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="written in TensorFlow")
def test_the_published_algorithm_is_the_block_in_one_segment():
    from benchmarks.published import published_logits
    from benchmarks.speed import named_weights

    rng = np.random.default_rng(0)
    block = FWLBlock(6, 11, segment_length=None, initial_step_size=0.1)
    x = rng.normal(size=(2, 8, 5)).astype("float32")
    labels = rng.integers(0, 11, (2, 8)).astype("int32")
    expected = block(x, labels=labels)
    weights = named_weights(block)
    steps = dict.fromkeys(weights, 0.1)
    found = published_logits(weights, steps, x, labels, 2, epsilon=block.normalization.epsilon)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - block(x)).max() > 0.1
