"""`--text-field`, wherever the command reads records, and paths to them that can be none."""

import pytest
from typer.testing import CliRunner

from fwl_keras.cli import app
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.run_text import prepare_text, reload_text


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"body": "Text {n} of some words."}}\n' for n in range(400)))
    return path


def stop(*arguments, **options):
    raise ValueError("stopped before training")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "{file}", "--preset", "tiny", "--to", "new"),
        ("evaluate", "run", "--corpus", "{file}"),
        ("score", "run", "{file}"),
        ("generate", "run", "--read", "{file}"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_reads_records_takes_their_field(
    invoke, records, tmp_path, monkeypatch, words
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(RunConfig().to_json())
    # What comes after the text was read.
    monkeypatch.setattr("fwl_keras.runs.train.train", stop)
    monkeypatch.setattr("fwl_keras.runs.evaluate.held_out", stop)
    for module in ("score", "generate"):
        monkeypatch.setattr(f"fwl_keras.runs.{module}.load_run_model", stop)
    monkeypatch.setattr("fwl_keras.runs.evaluate.load_run_model", _Model)
    words = [word.format(file=records) for word in words]
    result = invoke(*words)
    assert result.exit_code == 2
    assert "a.jsonl, line 1: `text_field`='text' is not a field" in result.stderr
    assert "['body']" in result.stderr and "--text-field" in result.stderr
    assert result.stderr.count("\n") == 1
    result = invoke(*words, "--text-field", "body")
    assert result.exit_code == 2
    assert "stopped before training" in result.stderr


class _Model:
    def __init__(self, path):
        self.preprocessor = self
        self.tokenizer = None


def test_a_prompt_that_is_no_text_is_one_line(invoke, tmp_path, monkeypatch):
    given = {"input": "a prompt".encode("utf-16")}
    result = CliRunner().invoke(app, ["generate", str(tmp_path), "--prompt", "-"], **given)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: standard input is UTF-16, by its byte order mark")
    result = CliRunner().invoke(app, ["generate", str(tmp_path), "--prompt", "-"], input="fine")
    assert "is not a run" in result.stderr


def test_a_run_remembers_its_field(invoke, records, tmp_path, monkeypatch):
    monkeypatch.setattr("fwl_keras.runs.train.train", stop)
    words = ("train", records, "--text-field", "body", "--preset", "tiny", "--to", "run")
    assert "stopped before training" in invoke(*words).stderr
    run = RunDirectory.open(tmp_path / "run")
    assert RunConfig.load(run.config).text_field == "body"
    assert "stopped before training" in invoke("train", "--resume", "run").stderr
    assert "leave out `--text-field`" in invoke("train", "--resume", "run", *words[2:4]).stderr
    run.model.write_text("")
    assert run.next_config(steps=5).text_field == "body"
    # And when it is evaluated, on another text too.
    monkeypatch.setattr("fwl_keras.runs.evaluate.load_run_model", _Model)
    monkeypatch.setattr("fwl_keras.runs.evaluate.held_out", stop)
    for corpus in ((), ("--corpus", records)):
        assert "stopped before training" in invoke("evaluate", "run", *corpus).stderr


def test_configurations_from_before_have_the_usual_field(tmp_path):
    (tmp_path / "config.json").write_text('{"corpus": "mine.jsonl", "steps": 5}')
    assert RunConfig.load(tmp_path / "config.json").text_field == "text"


def test_a_corpus_of_signs_is_prepared_and_found_unchanged(tmp_path):
    path = tmp_path / "book.txt"
    text = "A bar \u2581\u2582\u2583\u2584\u2585\u2586 of blocks, and <|eos|>.\n" * 200
    path.write_text(text)
    config, ready = prepare_text(RunConfig(corpus=str(path), length=64), lambda said: None)
    again = reload_text(config, ready.tokenizer, ready.description())
    assert "".join(ready.tokenizer.decode(ids) for ids in again.documents_ids()) == "".join(
        document.text for document in ready.corpus.train
    )
    assert text.startswith(ready.corpus.train[0].text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", ""), "`name_or_path`='' is neither"),
        (("train", "~no_such_user_at_all/book.txt"), "corpus='~no_such_user_at_all/book.txt'"),
        (("train", "loop.txt"), "`corpus`='loop.txt' cannot be read"),
        (("train", "x" * 4000), "too long"),
        (("evaluate", "run", "--corpus", ""), "`name_or_path`='' is neither"),
        (
            ("score", "run", "~no_such_user_at_all/book.txt"),
            "`path`='~no_such_user_at_all/book.txt'",
        ),
        (("score", "run", "loop.txt"), "`path`='loop.txt' cannot be read"),
    ],
)
def test_paths_that_can_be_none_are_one_line(invoke, tmp_path, monkeypatch, words, message):
    (tmp_path / "book.txt").write_text("some text\n" * 99)
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(RunConfig().to_json())
    monkeypatch.setattr("fwl_keras.runs.train.train", stop)
    monkeypatch.setattr("fwl_keras.runs.evaluate.load_run_model", _Model)
    result = invoke(*words)
    assert result.exit_code == 2, result.exception
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
