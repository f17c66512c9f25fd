import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from run_helpers import eagerly, tiny_config, write_book

from fwl_keras.evaluation.token_analysis import gain_by_position
from fwl_keras.runs.quickstart import choose_steps, quickstart, verdict


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    whole = write_book(directory.parent, 60_000).read_text("utf-8")
    for number in range(30):
        (directory / f"{number}.txt").write_text(whole[number * 2000 : (number + 1) * 2000])
    return directory


@pytest.mark.slow
def test_the_quickstart_from_beginning_to_end(corpus, tmp_path):
    console = Console(record=True, width=120, file=io.StringIO())
    path = tmp_path / "quick"
    config = tiny_config(corpus, validation_windows=0)
    with eagerly(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fwl_keras.runs.quickstart.gain_by_position",
            lambda *arguments: gain_by_position(*arguments, min_documents=1),
        )
        patch.setattr("fwl_keras.runs.quickstart._MAX_WINDOWS", 3)
        result = quickstart(path, config, console, minutes=6)
        output = console.export_text()
        for word in ("parameters", "perplexity per token", "tokens/s", "step sizes", "minutes"):
            assert word in output
        assert result["fast_weights"]["parameters"] == result["baseline"]["parameters"]
        assert json.loads((path / "quickstart.json").read_text())["steps"] == 12
        for name in ("learning_curves.png", "gain_by_position.png"):
            assert (path / name).read_bytes().startswith(b"\x89PNG")
        # Finished: continuing it measures again, and finds the same.
        again = quickstart(path, config)
    perplexity = result["fast_weights"]["perplexity_per_token"]
    assert again["fast_weights"]["perplexity_per_token"] == pytest.approx(perplexity, rel=1e-5)


def test_another_directory_is_refused(corpus, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="not empty"):
        quickstart(tmp_path, tiny_config(corpus))


@pytest.mark.parametrize(
    ("wanted", "seconds_per_step", "left", "steps"),
    [(600, 0.1, 300, 600), (600, 1.0, 300, 300), (600, 10.0, 100, 20), (10, 10.0, 1, 10)],
)
def test_steps_fit_into_the_time(wanted, seconds_per_step, left, steps):
    assert choose_steps(wanted, seconds_per_step, left) == steps


@pytest.mark.parametrize(
    ("fast", "words"),
    [
        (90.0, "lowered the perplexity by 10.0 %"),
        (100.1, "no difference"),
        (110.0, "10.0 % higher"),
    ],
)
def test_the_verdict_tells_the_truth(fast, words):
    assert words in verdict(fast, 100.0, Path("runs/x"), 60.0)


def test_gain_by_position():
    positions = np.broadcast_to(np.arange(1, 9), (20, 8))
    gain = np.where(positions >= 4, 0.5, 0.1) * np.ones((20, 8))
    gain[:, 7] = np.nan
    result = gain_by_position(gain, positions, np.arange(20))
    np.testing.assert_allclose(result["position"], [math.sqrt(2), math.sqrt(8), math.sqrt(32)])
    np.testing.assert_allclose(result["mean"], [0.1, 0.1, 0.5])
    np.testing.assert_allclose(result["low"], result["high"])
    np.testing.assert_array_equal(result["tokens"], [20, 40, 80])


def test_the_band_is_about_documents():
    """A thousand tokens of one document are no thousand samples."""
    effect = np.repeat([0.0, 1.0], 10)[:, np.newaxis]
    positions = np.ones((20, 100), int)
    result = gain_by_position(effect * np.ones((20, 100)), positions, np.arange(20))
    assert result["high"][0] - result["low"][0] > 0.3
    with pytest.raises(ValueError, match="min_documents"):
        gain_by_position(np.ones((1, 4)), np.ones((1, 4), int), np.zeros(1, int))
