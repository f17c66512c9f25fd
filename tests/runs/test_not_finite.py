"""Numbers that are not finite: training stops at them, and no measure leaves them out."""

import json
import math
from collections import namedtuple

import keras
import numpy as np
import pytest
from run_helpers import as_options, tiny_config, write_book
from typer.testing import CliRunner

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.cli import app
from fwl_keras.evaluation import document_losses, stream_losses, token_losses
from fwl_keras.evaluation.scored_document import ScoredDocument, ScoreTotals
from fwl_keras.evaluation.token_page import token_page
from fwl_keras.runs import RunDirectory, quickstart
from fwl_keras.runs import score as scoring
from fwl_keras.runs.evaluate import measure, measure_carried, number
from fwl_keras.runs.held_out import HeldOut
from fwl_keras.runs.json_files import strict_json
from fwl_keras.runs.progress import windows_with_bar

V, WIDTH, T, POISON, EOS, PAD = 12, 4, 6, 7, 1, 0


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture(scope="module")
def lm():
    """A model that knows nothing any more as soon as it reads a certain token."""
    keras.utils.set_random_seed(1)
    embedding = keras.layers.Embedding(V, WIDTH)
    body = keras.Sequential([embedding, keras.layers.GRU(WIDTH, return_sequences=True)])
    block = FWLBlock(WIDTH, V, segment_length=3, use_fast_weights=False)
    result = FWLCausalLM(body, block)
    result.compile(run_eagerly=True)
    table = np.array(embedding.embeddings)
    table[POISON] = np.nan
    embedding.embeddings.assign(table)
    return result


WINDOWS = np.array(
    [
        [EOS, 2, 3, 4, 5, 6, 8],
        [EOS, 2, POISON, 4, 5, PAD, PAD],  # 4 and 5 come after it
        [EOS, 2, 3, 4, 5, 6, POISON],  # nothing comes after it
    ],
    "int32",
)
LOST, TOKENS = 2, 6 + 4 + 6


def test_no_loss_is_left_out_of_a_mean(lm):
    losses = token_losses(lm, WINDOWS, pad_token_id=PAD)
    np.testing.assert_array_equal(np.isnan(losses), WINDOWS[:, 1:] == PAD)
    assert np.isinf(losses).sum() == LOST
    assert np.isinf(losses[1, 2:4]).all()
    assert np.nanmean(losses) == np.inf
    stream = stream_losses(lm, WINDOWS[1:2, :5])
    np.testing.assert_array_equal(np.isinf(stream), [[False, False, True, True]])
    documents = [[2, POISON, 4, 5], [2, 3]]
    found = document_losses(lm, documents, length=T, batch_size=2, eos_id=EOS, pad_id=PAD)
    np.testing.assert_array_equal(np.isinf(found[0]), [False, False, True, True])
    assert np.isfinite(found[1]).all()


def test_measures_say_how_many_there_are(lm):
    documents = np.arange(3, dtype="int32")
    data = HeldOut(WINDOWS, documents, np.zeros(3, "int32"), ("a", "b", "c"), PAD)
    carried = measure_carried(lm, data, EOS, 2)
    for measures in (measure(lm, data, PAD, 2), carried):
        assert measures["tokens_not_finite"] == LOST
        for name in ("total_nll_nats", "perplexity_per_token", "bits_per_byte"):
            assert measures[name] == math.inf
        assert json.loads(strict_json(measures), parse_constant=refuse)["bits_per_byte"] is None
    assert measure(lm, data, PAD, 2)["tokens"] == TOKENS
    fine = HeldOut(WINDOWS[:1], documents[:1], np.zeros(1, "int32"), ("a",), PAD)
    measures = measure(lm, fine, PAD, 2)
    assert measures["tokens_not_finite"] == 0
    losses = token_losses(lm, WINDOWS[:1])
    assert measures["perplexity_per_token"] == pytest.approx(np.exp(losses.mean()))


def test_the_command_prints_them(monkeypatch, tmp_path):
    result = {
        "corpus": "book",
        "split": "valid",
        "documents": 3,
        "tokens": 16,
        "tokens_not_finite": 4_321,
        "window_tokens": 6,
        "perplexity_per_token": math.inf,
        "bits_per_byte": math.inf,
        "adaptation_gain": math.nan,
        "total_gain": 0.0,
    }
    monkeypatch.setattr("fwl_keras.runs.evaluate.evaluate_run", lambda *a, **o: result)
    monkeypatch.setenv("COLUMNS", "200")
    output = CliRunner().invoke(app, ["evaluate", str(tmp_path)]).output
    assert "tokens whose loss is not finite" in output
    assert "4,321" in output
    assert output.count("infinite") == 2
    assert (number(None, 2), number(1234.5, 1)) == ("diverged", "1,234.5")


def test_scores_of_a_broken_model():
    Score = namedtuple("Score", "log_probabilities state")

    class Broken:
        context_length = 4

        def score(self, window, state, **options):
            found = np.where(window == POISON, -np.inf, -1.0)
            # The first token of all is not predicted.
            found[0] = found[0] if state else np.nan
            return Score(found[np.newaxis], "state")

    texts = [np.array([EOS, 2, POISON, 3, POISON, 4]), np.array([EOS, 2])]
    with windows_with_bar(None, 8) as windows:
        mine = scoring._score(Broken(), texts, False, windows)
    np.testing.assert_array_equal(mine[0], [-1, -np.inf, -1, -np.inf, -1])
    assert "2 of 6 tokens is not finite" in scoring._not_finite(mine, [None, None])
    assert scoring._not_finite(mine[1:], mine[1:]) == ""
    documents = [
        ScoredDocument(str(i), ids[1:], (b"x",) * (len(ids) - 1), one, np.full(len(one), -2.0))
        for i, (ids, one) in enumerate(zip(texts, mine, strict=True))
    ]
    totals = [document.totals() for document in documents]
    assert [total.tokens for total in totals] == [5, 1]
    assert totals[0].perplexity == math.inf
    assert totals[1].perplexity == pytest.approx(math.e)
    assert ScoreTotals.sum(totals).perplexity == math.inf
    labels = {"model": "one", "against": "other", "labels": ("1", "2"), "note": ""}
    page = token_page(documents, **labels)
    for not_finite in ('"nan"', '"inf"', '"-inf"', '="NaN'):
        assert not_finite not in page


def test_the_quickstart_does_not_hide_them(tmp_path):
    words = quickstart.verdict(math.inf, 80.0, tmp_path, 60.0)
    assert "not finite" in words and "inf with" in words
    losses = np.array([[1.0, np.inf, np.nan]], "float32")
    measured = quickstart.Measured(1, losses, 1.0, None, [])
    assert measured.perplexity == math.inf
    assert quickstart.Measured(1, np.array([[900.0]]), 1.0, None, []).perplexity == math.inf


def test_metrics_are_json(tmp_path):
    run = RunDirectory(tmp_path)
    values = {"step": 3, "loss": math.nan, "sizes": {"kernel": math.inf, "bias": 0.5}}
    run.append_metrics({**values, "several": [1, -math.inf]})
    line = run.metrics.read_text()
    assert json.loads(line, parse_constant=refuse) == {
        "step": 3,
        "loss": None,
        "sizes": {"kernel": None, "bias": 0.5},
        "several": [1, None],
    }
    assert line.count("\n") == 1


@pytest.mark.eager
def test_a_run_stops_at_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    """A learning rate that nothing survives: huge weights after one step, NaN after two."""
    monkeypatch.setenv("COLUMNS", "500")
    book = write_book(tmp_path, 10_000)
    config = tiny_config(book, width=8, length=16, segment_length=8, interval=1)
    words = [*as_options(config), "--learning-rate", "1e30", "--no-jit"]
    path = tmp_path / "run"
    result = CliRunner().invoke(app, ["train", config.corpus, "--to", str(path), *words])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: The loss is not finite")
    for word in (
        "at step 2 (batch 0 of epoch 1",
        "learning_rate=1e+30",
        "float32",
        "learning rate",
    ):
        assert word in result.stderr
    assert "checkpoint.weights.h5 in" in result.stderr
    assert result.stderr.count("\n") == 1
    run = RunDirectory(path)
    assert not run.finished
    assert run.damage(run.checkpoint) is None
    assert not run.previous_checkpoint.exists()
    (line,) = run.metrics.read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["step"] == 1
