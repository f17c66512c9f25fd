"""A finished run put to use: loaded, read with, scored with, written with."""

import functools
import re

import keras
import numpy as np
import pytest
from run_helpers import eagerly, tiny_config, write_book
from typer.testing import CliRunner

from fwl_keras.cli import app
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.runs import RunDirectory, generate, score
from fwl_keras.runs.build_model import build_model
from fwl_keras.runs.generate import GeneratedText
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.samplers import make_sampler
from fwl_keras.runs.score import score_texts
from fwl_keras.runs.train import start_run


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Every command loads its run; here what a model has compiled is kept from test to test."""
    load = functools.cache(load_run_model)
    with pytest.MonkeyPatch.context() as patch:
        for module in (generate, score):
            patch.setattr(module, "load_run_model", lambda path: load(str(path)))
        yield load


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write_book(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def run(book, tmp_path_factory):
    with eagerly():
        return start_run(tmp_path_factory.mktemp("runs") / "fast", tiny_config(book))


@pytest.fixture(scope="module")
def lm(run, loaded_once):
    return loaded_once(str(run.path))


@pytest.fixture(scope="module")
def tokenizer(lm):
    return lm.preprocessor.tokenizer


@pytest.fixture(scope="module")
def baseline(book, run, tokenizer):
    """A run that is finished without having been trained."""
    config = tiny_config(book, fast_weights=False, seed=1)
    other = RunDirectory.create(run.path.parent / "baseline", config, tokenizer, {})
    build_model(config, tokenizer).save(other.model)
    return other


@pytest.fixture
def files(tmp_path, book, tokenizer):
    """Two texts, of 5 and 2 windows: the fewer lengths of windows, the less is to be compiled."""
    text = book.read_text("utf-8")
    (tmp_path / "one.py").write_text(
        beginning(" \N{SNOWMAN}\r\n" + text, tokenizer, 159), "utf-8", newline=""
    )
    (tmp_path / "two.txt").write_text(beginning(text[900:], tokenizer, 63), "utf-8")
    return [tmp_path / "one.py", tmp_path / "two.txt"]


def beginning(text, tokenizer, tokens):
    return next(text[:n] for n in range(len(text)) if len(tokenizer.encode(text[:n])) == tokens)


@pytest.fixture
def invoke(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words, **options: CliRunner().invoke(app, list(map(str, words)), **options)


def test_a_run_keeps_its_tokeniser_in_the_model(run, lm, tokenizer):
    assert tokenizer.proto == run.tokenizer.read_bytes()
    loaded = keras.saving.load_model(run.model)
    assert loaded.preprocessor.start_token_id == tokenizer.eos_id
    assert loaded.context_length == 32
    assert 1 < loaded.score("def f(x):").perplexity[0] < 400


def test_a_run_that_did_not_yet_keep_it(book, tokenizer, tmp_path):
    config = tiny_config(book)
    old = RunDirectory.create(tmp_path / "old", config, tokenizer, {})
    model = build_model(config)
    model.context_length = None
    model.save(old.model)
    loaded = load_run_model(old.path)
    assert loaded.preprocessor.start_token_id == tokenizer.eos_id
    assert loaded.context_length == 32


def test_runs_that_cannot_be_loaded(book, tokenizer, tmp_path):
    broken = RunDirectory.create(tmp_path / "broken", tiny_config(book), tokenizer, {})
    with pytest.raises(ValueError, match=r"not finished.*--resume"):
        load_run_model(broken.path)
    broken.model.write_bytes(b"no model")
    with pytest.raises(ValueError, match="cannot be read"):
        load_run_model(broken.path)


def perplexities(lm, tokenizer, text, **options):
    """Of one text on its own, with the fast and the trained weights."""
    ids = [tokenizer.eos_id, *tokenizer.encode(text)]
    return [
        float(lm.score(ids, use_fast_weights=fast, **options).perplexity[0])
        for fast in (True, False)
    ]


def test_score(invoke, run, lm, tokenizer, files):
    result = invoke("score", run.path, *files)
    assert result.exit_code == 0, result.stderr
    assert "its own trained weights, without adaptation" in result.stdout
    assert "fresh state" in result.stdout
    for file in files:
        (line,) = [line for line in result.stdout.splitlines() if str(file) in line]
        text = file.read_bytes().decode()
        fast, trained = perplexities(lm, tokenizer, text)
        for number in (
            f"{len(tokenizer.encode(text)):,}",
            f"{fast:,.2f}",
            f"{trained:,.2f}",
            f"{np.log(trained / fast):+.3f}",
        ):
            assert re.search(rf" {re.escape(number)} ", line), (number, line)
    assert re.search(r"│ all +│", result.stdout)


def test_score_as_one_stream(run, lm, tokenizer, files):
    one, two = score_texts(run.path, files, carry=True).documents
    fresh = score_texts(run.path, files).documents[1]
    texts = [tokenizer.encode(file.read_bytes().decode()) for file in files]
    state = lm.read([tokenizer.eos_id, *texts[0]])
    expected = lm.score([tokenizer.eos_id, *texts[1]], state).log_probabilities[0, 1:]
    assert two.totals().tokens == len(texts[1])
    np.testing.assert_allclose(two.log_probabilities, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(two.log_probabilities, fresh.log_probabilities, atol=1e-3)
    assert one.totals().tokens == len(texts[0])


def test_score_against_another_run(invoke, run, baseline, files, tmp_path, loaded_once):
    page = tmp_path / "page.html"
    result = invoke(
        "score", run.path, files[0], "--against", baseline.path, "--html", page, "--debug"
    )
    assert result.exit_code == 0, result.stderr
    text = page.read_text("utf-8")
    against = f"against the model in {baseline.path} (without fast weights)"
    assert against in text
    assert f"{page} shows" in result.stdout
    assert against in result.stdout.splitlines()[-1]
    assert [file.name for file in tmp_path.glob(".*")] == []
    (document,) = score_texts(run.path, files[:1], against=baseline.path).documents
    expected = loaded_once(str(baseline.path)).score(files[0].read_bytes().decode())
    np.testing.assert_allclose(
        document.reference, expected.log_probabilities[0, 1:], rtol=1e-4, atol=1e-4
    )


def test_a_baseline_is_compared_with_nothing(invoke, baseline, files, tmp_path):
    result = invoke("score", baseline.path, files[0])
    assert result.exit_code == 0, result.stderr
    assert "gain" not in result.stdout
    assert "perplexity per token" in result.stdout
    page = tmp_path / "page.html"
    result = invoke("score", baseline.path, files[0], "--html", page)
    assert result.exit_code == 2
    assert "--against" in result.stderr
    assert not page.exists()


def test_another_tokeniser_is_refused(invoke, run, book, files, tmp_path):
    tokenizer = SentencePieceTokenizer.train(["another text altogether\n" * 9], 300)
    other = RunDirectory.create(tmp_path / "other", tiny_config(book), tokenizer, {})
    build_model(tiny_config(book, vocab_size=tokenizer.vocab_size), tokenizer).save(other.model)
    result = invoke("score", run.path, files[0], "--against", other.path)
    assert result.exit_code == 2
    assert "another tokeniser" in result.stderr


def test_generate(invoke, run, lm, tokenizer):
    words = ("generate", run.path, "--prompt", "def f(", "--max-tokens", "40", "--seed", "5")
    result = invoke(*words, "--sampler", "random")
    assert result.exit_code == 0, result.stderr
    assert invoke(*words, "--sampler", "random").stdout == result.stdout
    assert invoke(*words[:-1], "6", "--sampler", "random").stdout != result.stdout
    # The same bytes as generate's, though in pieces: half a character may never be printed.
    lm.compile(sampler=make_sampler("random"))
    ids = np.array([tokenizer.eos_id, *tokenizer.encode("def f(")])
    whole = lm.generate(ids, max_length=len(ids) + 40, seed=5)["token_ids"][0]
    expected = b"".join(tokenizer.token_bytes(whole)).decode("utf-8", "replace")
    assert result.stdout.removesuffix("\n") == expected.removesuffix("\n")
    assert "\ufffd" in expected
    assert re.search(r"Wrote 40 tokens at [\d,.]+ tokens/s; seed 5\.\n$", result.stderr)


def test_generate_after_reading(invoke, run, lm, tokenizer, files):
    words = ("generate", run.path, "--max-tokens", "8", "--sampler", "greedy")
    result = invoke(*words, "--read", files[0], "--read", files[1], "--passes", "2", "--freeze")
    assert result.exit_code == 0, result.stderr
    texts = [[tokenizer.eos_id, *tokenizer.encode(f.read_bytes().decode())] for f in files]
    ids = np.array(2 * (texts[0] + texts[1]))
    assert f"2 times ({len(ids):,} tokens), without adapting" in result.stderr
    # Half a window is read as the prompt: the body remembers only what is in its window.
    state = lm.read(ids[:-16])
    lm.compile(sampler="greedy")
    row = lm.generate(
        ids[-16:], max_length=24, state=state, adapt_while_generating=False, strip_prompt=True
    )
    pieces = tokenizer.token_bytes(row["token_ids"][0])
    assert result.stdout.removesuffix("\n") == b"".join(pieces).decode().removesuffix("\n")


def test_the_prompt_from_standard_input(invoke, run):
    words = ("generate", run.path, "--max-tokens", "40", "--seed", "1", "--sampler", "random")
    from_stdin = invoke(*words, "--prompt", "-", input="def f(")
    assert from_stdin.exit_code == 0, from_stdin.stderr
    assert from_stdin.stdout == invoke(*words, "--prompt", "def f(").stdout
    assert from_stdin.stdout.startswith("def f(")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("beam", {}, "`sampler` must be one of"),
        ("greedy", {"temperature": 0.5}, "no use for `temperature`"),
        ("random", {"top_k": 5}, "no use for `top_k`"),
        ("top_k", {"top_p": 0.5}, "no use for `top_p`"),
        ("random", {"temperature": 0.0}, "`temperature` must be above 0"),
        ("top_k", {"top_k": 0}, "`top_k` must be at least 1"),
        ("top_p", {"top_p": 0.0}, "`top_p` must be above 0"),
    ],
)
def test_samplers(name, values, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(name, **values)


@pytest.mark.parametrize(
    "values", [{}, {"prompt": "x", "passes": 0}, {"prompt": "x", "seed": -1}], ids=str
)
def test_writing_checks_its_arguments(values):
    with pytest.raises(ValueError, match=list(values)[-1] if values else "nothing to begin with"):
        GeneratedText("run", **values)


@pytest.mark.parametrize("command", ["score", "generate", "evaluate"])
@pytest.mark.slow
def test_fast_weights_that_diverge_are_told_of(run, lm, files, command, monkeypatch):
    from fwl_keras.runs import evaluate

    monkeypatch.setattr(evaluate, "load_run_model", lambda path: lm)
    steps = lm.block.step_sizes()
    words = {
        "score": ["score", run.path, files[0]],
        "generate": ["generate", run.path, "--read", files[0], "--max-tokens", "2"],
        "evaluate": ["evaluate", run.path, "--stream"],
    }[command]
    lm.block.set_step_sizes(dict.fromkeys(steps, 10.0))
    try:
        result = CliRunner().invoke(app, [*map(str, words), "--on-divergence", "reset"])
    finally:
        lm.block.set_step_sizes({name: float(np.max(step)) for name, step in steps.items()})
    assert result.exit_code == 0, result.output
    told = [line for line in result.output.splitlines() if line.startswith("Warning: The fast")]
    assert len(told) == 1
    assert "They went on with a fresh state" in told[0] and "set_step_sizes" in told[0]
    refused = CliRunner().invoke(app, [*map(str, words), "--on-divergence", "stop"])
    assert refused.exit_code == 2
