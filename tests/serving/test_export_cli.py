"""`fwl-keras export` and `lm.export`; the export itself is the shared one's."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from fwl_keras.cli import app
from fwl_keras.runs import RunConfig, RunDirectory
from fwl_keras.serving.export import ABOUT, SERVER_IMAGE, serve_command
from fwl_keras.serving.options import ServingOptions


@pytest.fixture
def calls(exported, monkeypatch):
    """What an export was asked for; the shared one is copied in its place."""
    made = []

    def copy(lm, path, options=None, *, about=None, progress=False):
        made.append((lm, path, options, about, progress))
        path = shutil.copytree(exported(), path)
        file = path / ABOUT
        file.write_text(json.dumps({**json.loads(file.read_text()), **(about or {})}))
        return path

    for module in ("runs", "serving"):
        monkeypatch.setattr(f"fwl_keras.{module}.export.export_model", copy)
    return made


@pytest.fixture
def run(models, tmp_path, monkeypatch):
    config = RunConfig(corpus="some/where/book.txt", steps=1234)
    run = RunDirectory.create(tmp_path / "run", config, models().preprocessor.tokenizer, {})
    run.model.touch()
    monkeypatch.setattr("fwl_keras.runs.export.load_run_model", lambda path: models())
    return run


@pytest.fixture
def invoke(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, ["export", *map(str, words)])


def test_export_takes_the_next_version_and_tells_what_it_is(invoke, run, calls, tmp_path):
    measured = {"corpus": "book", "split": "valid", "perplexity_per_token": 40.25, "tokens": 9}
    run.evaluation.write_text(json.dumps(measured))
    to = tmp_path / "models" / "my_lm"
    (to / "9").mkdir(parents=True)
    (to / ".11.0a1b2c3d").mkdir()
    result = invoke(run.path, "--to", to, "--max-tokens", 64, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    (call,) = calls
    assert call[1:3] == (to / "10", ServingOptions(64, 512, "bfloat16"))
    about = json.loads((to / "10" / ABOUT).read_text())
    assert about["corpus"] == "book.txt" and about["training_steps"] == 1234
    assert about["evaluation"] == {k: v for k, v in measured.items() if k != "tokens"}
    assert about["bytes"]["total"] == sum(about["bytes"][k] for k in ("weights", "graph", "assets"))
    for word in ("my_lm, version 10", "40.25 ", "1,234", f"{about['state_bytes_per_row']:,}"):
        assert word in result.output
    assert result.output.splitlines()[-1].endswith(serve_command(to / "10"))


def test_export_says_when_there_are_no_warm_up_requests(invoke, run, calls, exported, tmp_path):
    about = json.loads((exported() / ABOUT).read_text())
    result = invoke(run.path, "--to", tmp_path / "lm", "--version", 3)
    assert (tmp_path / "lm" / "3").is_dir()
    assert ("fwl_keras[serving]" in result.output) == (not about["warmup_requests"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--version", "0"), "`version` must be"),
        (("--version", "1"), "exists already"),
        (("--max-tokens", "0"), "`max_tokens` must be"),
    ],
)
def test_errors_are_one_line(invoke, run, calls, tmp_path, words, message):
    (tmp_path / "lm" / "1").mkdir(parents=True)
    result = invoke(run.path, "--to", tmp_path / "lm", *words)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and message in result.stderr
    assert not calls


def test_a_directory_that_is_no_run(invoke, tmp_path):
    result = invoke(tmp_path, "--to", tmp_path / "lm")
    assert result.exit_code == 2 and "is not a run" in result.stderr
    assert not (tmp_path / "lm").exists()


def test_without_tensorflow(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr("fwl_keras.cli.importlib.util.find_spec", lambda name: None)
    result = invoke(tmp_path, "--to", tmp_path / "lm")
    assert result.exit_code == 2 and "pip install tensorflow" in result.stderr


def test_the_model_exports_itself(models, calls, tmp_path, capsys):
    path = tmp_path / "lm" / "1"
    models().export(path, max_tokens=32, max_new_tokens=16, dtype="bfloat16", verbose=False)
    assert calls[0][1:] == (path, ServingOptions(32, 16, "bfloat16"), None, False)
    assert capsys.readouterr().out == ""
    models().export(tmp_path / "lm" / "2")
    assert calls[1][2:] == (ServingOptions(), None, True)
    out = capsys.readouterr().out
    assert out.endswith(f"{serve_command(tmp_path / 'lm' / '2')}\n")
    assert SERVER_IMAGE in out


@pytest.mark.parametrize("given", [{"input_signature": []}, {"opset_version": 3}])
def test_arguments_of_other_formats_are_refused(models, calls, tmp_path, given):
    with pytest.raises(ValueError, match=next(iter(given))):
        models().export(tmp_path / "lm" / "1", **given)
    assert not calls


def test_other_formats_are_those_of_keras(models, calls, tmp_path):
    with pytest.raises(ValueError, match="no_such"):
        models().export(tmp_path / "lm", format="no_such")
    assert not calls
