"""`python -m benchmarks.rivals`, before anything is trained."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_fuzz import ARGUMENTS, check, ends_well_or_with_a_line, few_or, place  # noqa: F401
from typer.testing import CliRunner

from benchmarks.rivals.command import app

ROOT = Path(__file__).parents[2]
RECORDS = '{"body": "Some words of text."}\n' * 400


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, list(words))


def test_help(invoke):
    result = invoke("--help")
    assert result.exit_code == 0
    assert "--row" in result.output and "--debug" in result.output
    assert "Missing argument" in invoke().stderr


def test_a_backend_that_is_not_there_is_one_line(tmp_path):
    """Also for the module itself, which imports no framework before it can say so."""
    environment = {**os.environ, "KERAS_BACKEND": "nonsense", "KERAS_HOME": str(tmp_path)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    words = [sys.executable, "-m", "benchmarks.rivals", "python-stdlib"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: KERAS_BACKEND='nonsense'")
    assert done.stderr.count("\n") == 1


def test_records_field(invoke, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise ValueError("stopped before training")

    # What comes after the text was read.
    monkeypatch.setattr("benchmarks.rivals.workspace.new_directory", stop)
    (tmp_path / "a.jsonl").write_text(RECORDS)
    words = ("a.jsonl", "--preset", "tiny", "--to", "new")
    result = invoke(*words)
    assert result.exit_code == 2
    assert "a.jsonl, line 1: text_field='text' is not a field" in result.stderr
    assert "['body']" in result.stderr and "--text-field" in result.stderr
    assert result.stderr.count("\n") == 1
    result = invoke(*words, "--text-field", "body")
    assert result.exit_code == 2
    assert "stopped before training" in result.stderr


def test_what_it_measures(invoke, tmp_path, monkeypatch):
    """The configuration, and the command as the results name it: without a path."""
    called = {}

    def measure(directory, config, console, **options):
        called.update(options, directory=directory, config=config)

    monkeypatch.setattr("benchmarks.rivals.run.run_benchmark", measure)
    (tmp_path / "a.jsonl").write_text(RECORDS)
    words = ("./a.jsonl", "--preset", "tiny", "--text-field", "body", "--row", "baseline.*")
    assert invoke(*words, "--seeds", "1", "--no-costs", "--steps", "7").exit_code == 0
    assert str(called["directory"]) == "runs/a-tiny"
    assert called["config"].corpus == str((tmp_path / "a.jsonl").resolve())
    assert called["config"].steps == 7
    assert (called["seeds"], called["rows"], called["costs"]) == (1, ["baseline.*"], False)
    assert called["command"] == ("python -m benchmarks.rivals a --preset tiny --text-field body")


def test_an_interruption_says_how_to_go_on(invoke, tmp_path, monkeypatch):
    def interrupt(directory, *arguments, **options):
        (directory / "models").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.rivals.run.run_benchmark", interrupt)
    result = invoke("python-stdlib", "--preset", "tiny")
    assert result.exit_code == 130
    assert "Continue with: the same command" in result.stdout


@few_or(100)
def test_it_ends_well_or_with_a_line(place, examples, monkeypatch):  # noqa: F811
    monkeypatch.setattr("benchmarks.rivals.run.run_benchmark", lambda *_, **__: None)
    check(examples, ARGUMENTS, lambda words: ends_well_or_with_a_line(app, words))
