import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fwl_keras.cli import app
from fwl_keras.inference.divergence_policies import POLICIES
from fwl_keras.runs.config import BODIES, DTYPES, PRESETS, SPLITS, RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.samplers import SAMPLERS
from fwl_keras.serving import options


@pytest.fixture
def invoke(monkeypatch):
    # Nothing may be cut at the width of a terminal that a test does not have.
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(
    "command",
    [(), ("quickstart",), ("train",), ("evaluate",), ("generate",), ("score",), ("export",)],
)
def test_help(invoke, command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    commands = ("quickstart", "train", "evaluate", "generate", "score", "export")
    for word in ("--debug",) if command else commands:
        assert word in result.output


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [
        ("train", "--preset", PRESETS),
        ("train", "--body", BODIES),
        ("train", "--dtype", DTYPES),
        ("evaluate", "--split", SPLITS),
        ("evaluate", "--on-divergence", POLICIES),
        ("generate", "--sampler", SAMPLERS),
        ("export", "--dtype", options.DTYPES),
    ],
)
def test_the_choices_of_the_command_are_those_of_the_package(invoke, command, option, choices):
    result = invoke(command, "mine", option, "none_of_them")
    assert result.exit_code == 2
    assert f"'none_of_them' is not one of {', '.join(map(repr, choices))}." in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train",), "my_book.txt"),
        (("train", "no_such_book.txt", "--to", "{tmp}/run"), "neither a corpus nor"),
        (("train", "python-stdlib", "--width", "30", "--to", "{tmp}/run"), "`width` must be"),
        (("train", "python-stdlib", "--to", "{tmp}"), "not empty"),
        (("train", "--resume", "{tmp}"), "is not a run"),
        (("train", "--resume", "{tmp}", "--steps", "3"), "leave out `--steps`."),
        (("train", "--resume", "{tmp}", "--no-jit", "x", "--debug"), "out `CORPUS`, `--jit`."),
        (("train", "python-stdlib", "--resume", "{tmp}"), "leave out `CORPUS`"),
        (("train", "--resume", "{tmp}", "--carry-state"), "leave out `--carry-state`"),
        (("train", "--resume", "{tmp}", "--one-segment"), "leave out `--one-segment`"),
        (
            ("train", "python-stdlib", "--one-segment", "--segment-length", "8"),
            "leave one of them out",
        ),
        (("evaluate", "{tmp}"), "is not a run"),
        (("generate", "{tmp}"), "nothing to begin with"),
        (("generate", "{tmp}", "--prompt", "x"), "is not a run"),
        (("generate", "{tmp}", "--read", "{tmp}/none.txt"), "does not exist"),
        (("generate", "{tmp}", "--prompt", "x", "--max-tokens", "0"), "`max_tokens` must be"),
        (("generate", "{tmp}", "--prompt", "x", "--top-p", "2"), "`top_p` must be"),
        (("score", "{tmp}", "{tmp}/mine.txt"), "is not a run"),
        (("score", "{tmp}", "{tmp}/none.txt"), "does not exist"),
        (("score", "{tmp}", "{tmp}/mine.txt", "--html", "{tmp}"), "is a directory"),
        (("score", "{tmp}", "{tmp}/mine.txt", "--html", "{tmp}/no/x.html"), "not a directory"),
        (("train", "--from", "{tmp}", "--to", "{tmp}/run"), "is not a run"),
        (("train", "--from", "{tmp}", "--preset", "tiny"), "leave out `--preset`"),
        (("train", "x", "--longer-memory", "8"), "name it with `--from`"),
        (("train", "--resume", "{tmp}", "--from", "{tmp}"), "leave out `--from`"),
        (("quickstart", "--resume", "{tmp}"), "no quickstart to continue"),
        (("quickstart", "--to", "{tmp}"), "not empty"),
        (("quickstart", "--minutes", "0", "--to", "{tmp}/run"), "`minutes` must be"),
    ],
)
def test_errors_are_one_line(invoke, tmp_path, words, message):
    (tmp_path / "mine.txt").write_text("something")
    result = invoke(*(word.format(tmp=tmp_path) for word in words))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("Error:")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback(invoke, tmp_path):
    result = invoke("evaluate", str(tmp_path), "--debug")
    assert isinstance(result.exception, ValueError)


def test_help_imports_no_framework():
    # The package itself may import one; the command's own modules must not.
    code = (
        "import sys, types, importlib.machinery as m, pathlib\n"
        "package = types.ModuleType('fwl_keras')\n"
        "package.__path__ = [sys.argv.pop()]\n"
        "sys.modules['fwl_keras'] = package\n"
        "from fwl_keras.cli import main\n"
        "sys.argv = ['fwl-keras', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as leave:\n    assert leave.code == 0\n"
        "assert not {'keras', 'tensorflow', 'matplotlib'} & set(sys.modules)\n"
    )
    package = os.path.dirname(sys.modules["fwl_keras"].__file__)
    result = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "quickstart" in result.stdout


def test_train_hands_its_choices_on(invoke, tmp_path, monkeypatch):
    configs = []

    def remember(path, config, console, **options):
        configs.append(config)
        raise ValueError("enough")

    monkeypatch.setattr("fwl_keras.runs.train.start_run", remember)
    for number, words in enumerate(((), ("--carry-state",), ("--one-segment",))):
        invoke("train", "python-stdlib", "--to", str(tmp_path / str(number)), *words)
    assert [config.carry_state for config in configs] == [False, True, False]
    assert [config.segment_length for config in configs] == [64, 64, None]


def test_train_goes_on_from_a_finished_run(invoke, tmp_path, monkeypatch):
    configs = []
    monkeypatch.setattr(
        "fwl_keras.runs.train.start_run", lambda path, config, *_, **__: configs.append(config)
    )
    run = RunDirectory(tmp_path / "first")
    run.path.mkdir()
    first = RunConfig(width=64, steps=5, trained_part="block", smaller_steps=3.0, corpus="mine")
    run.config.write_text(first.to_json())
    words = ("train", "--from", str(run.path), "--to", str(tmp_path / "second"))
    assert "is not finished" in invoke(*words).stderr
    run.model.write_text("")
    more = ("--carry-state", "--carry-groups", "4", "--longer-memory", "8", "--steps", "9")
    invoke(*words)
    invoke(*words, *more, "--smaller-steps", "2")
    on = first.replace(initial_model=str(run.path), trained_part="all", smaller_steps=1.0)
    documents = {"carry_state": True, "carry_groups": 4, "longer_memory": 8.0, "smaller_steps": 2.0}
    assert configs == [on, on.replace(**documents, steps=9)]


@pytest.mark.parametrize("carried", [{}, {"perplexity_per_token": 20.5, "bits_per_byte": None}])
def test_evaluate_prints_both_ways_of_reading(invoke, tmp_path, monkeypatch, carried):
    result = {
        "corpus": "book",
        "split": "valid",
        "documents": 3,
        "tokens": 4567,
        "window_tokens": 256,
        "perplexity_per_token": 40.25,
        "bits_per_byte": 2.5,
        "adaptation_gain": 0.1,
        "total_gain": 0.2,
    }
    asked = []

    def evaluate_run(path, *, stream, **options):
        asked.append(stream)
        return {**result, "carried": carried} if stream else result

    monkeypatch.setattr("fwl_keras.runs.evaluate.evaluate_run", evaluate_run)
    output = invoke("evaluate", str(tmp_path), *["--stream"] * bool(carried)).output
    assert asked == [bool(carried)]
    for word in ("4,567", "40.25", "2.500", "256"):
        assert word in output
    for word in ("20.50", "diverged", "carried to the document's end"):
        assert (word in output) == bool(carried)


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_says_how_to_go_on(invoke, tmp_path, monkeypatch, begun):
    directory = tmp_path / "run"

    def interrupt(*arguments, **options):
        if begun:
            directory.mkdir()
            (directory / "config.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("fwl_keras.runs.train.start_run", interrupt)
    result = invoke("train", "python-stdlib", "--to", str(directory))
    assert result.exit_code == 130
    assert (f"fwl-keras train --resume {directory}" in result.output) == begun
    assert ("nothing was written" in result.output) != begun
