"""Thousands of inputs that nobody would write: each gives a result or one clear line.

The same ones every time; a few by default, ten thousand in all with `-m slow`.
"""

import gzip
import json
import os

import keras
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fwl_keras.cli import app
from fwl_keras.data import SentencePieceTokenizer, load_corpus, load_documents

CODE = "def f(x):\n    return x + 1234\n\n\tself.y = 'é'\r\n" * 5
SIGNS = ["\u2581", "\u2585", "\0", "\x1f", "\t", "\n", " ", "<|eos|>", "\ufeff", "\ufb01", "\ud7ff"]
SCALARS = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(st.sampled_from(SIGNS) | st.text(SCALARS, max_size=8), max_size=6).map("".join)
KEYS = st.sampled_from(["text", "id", "a b", "\u2581", ""])


def few_or(many):
    """A sample in the default suite, all of them with `-m slow`."""
    return pytest.mark.parametrize("examples", [25, pytest.param(many, marks=pytest.mark.slow)])


def check(examples, strategy, holds, *known):
    """Lets a property hold for so many examples, always the same, and for known ones."""
    for one in known:
        holds = example(one)(holds)
    settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )(given(strategy)(holds))()


def result_or_line(function, *names):
    """What a function returns, or None after an error that is one short line with the names."""
    try:
        return function()
    except ValueError as error:
        assert type(error) is ValueError
        line = str(error)
        assert line and "\n" not in line and len(line) < 4000, line
        assert all(name in line for name in names), line
        line.encode("utf-8")
        return None


@st.composite
def mutated(draw, originals, most=4):
    """Bytes with some of them changed, taken out, put in or put in twice."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(0, most))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 20))
        kind = draw(st.sampled_from(["flip", "cut", "put", "repeat", "end"]))
        if kind == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "put":
            data[place:place] = draw(st.binary(min_size=1, max_size=length))
        elif kind == "repeat":
            data[place:place] = data[place : place + length]
        elif kind == "end":
            del data[place:]
    return bytes(data)


# --- files

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=3,
)
RECORDS = st.builds(
    lambda other, text: {**other, "text": text}, st.dictionaries(KEYS, VALUES, max_size=2), TEXT
)
LINES = st.one_of(
    RECORDS.map(json.dumps),
    RECORDS.map(lambda record: json.dumps(record, ensure_ascii=False)),
    VALUES.map(json.dumps),
    st.sampled_from(
        ["", " ", "{}", '{"text": null}', r'{"text": "\ud800"}', "[" * 99_999, "9" * 5000, "{"]
    ),
    TEXT,
)
LINED = st.lists(LINES, max_size=6).map("\n".join)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be", "gb18030"]
DATA = st.one_of(
    st.binary(max_size=200),
    st.builds(str.encode, LINED, st.sampled_from(ENCODINGS)),
    mutated(st.builds(str.encode, LINED)),
)
PACKED = mutated(st.builds(lambda data: gzip.compress(data, mtime=0), DATA), most=2)
SUFFIXES = [".txt", ".jsonl", ".txt.gz", ".jsonl.gz", ".TXT", ".py"]
FILES = st.tuples(st.sampled_from(SUFFIXES), DATA | PACKED)


@few_or(3600)
def test_a_file_is_read_or_refused_in_a_line(tmp_path, examples):
    def holds(file):
        suffix, data = file
        path = tmp_path / f"a{suffix}"
        path.write_bytes(data)
        documents = result_or_line(lambda: load_documents(path), str(path))
        result_or_line(lambda: load_corpus(path), path.name)
        for document in documents or ():
            assert document.text.strip()
        if documents and suffix in (".txt", ".py", ".TXT"):
            assert documents[0].text == data.decode("utf-8-sig")

    check(examples, FILES, holds, (".jsonl", b'{"text": "a"}\n' + b"[" * 200_000))


@few_or(500)
def test_no_record_is_left_out(tmp_path, examples):
    def holds(records):
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        texts = [record["text"] for record in records if record["text"].strip()]
        found = result_or_line(lambda: load_documents(path), str(path))
        assert [document.text for document in found or ()] == texts

    check(examples, st.lists(RECORDS, max_size=5), holds)


NAMES = ["train.txt", "valid.txt", "test.txt", "train.jsonl", "valid.jsonl", "test.jsonl"]
NAMES += ["wiki.train.tokens", "wiki.valid.tokens", "b.txt.gz", "deep/c.jsonl", "README.md"]


@few_or(500)
def test_a_directory_is_read_or_refused_in_a_line(tmp_path, examples):
    def holds(files):
        for name in NAMES:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
            if name in files:
                path.write_bytes(files[name])
        result_or_line(lambda: load_corpus(tmp_path), tmp_path.name)
        result_or_line(lambda: load_documents(tmp_path), tmp_path.name)

    check(examples, st.dictionaries(st.sampled_from(NAMES), DATA, max_size=5), holds)


# --- the tokeniser


@few_or(2600)
def test_a_text_comes_back_or_is_refused_in_a_line(examples):
    tokenizer = SentencePieceTokenizer.train([CODE], 400)

    def holds(text):
        ids = result_or_line(lambda: tokenizer.encode(text))
        if any(0xD800 <= ord(character) < 0xE000 for character in text):
            assert ids is None
        else:
            assert tokenizer.decode(ids) == text
            assert b"".join(tokenizer.token_bytes(ids)) == text.encode()
            assert all(tokenizer.eos_id < one < tokenizer.vocab_size for one in ids)

    check(examples, TEXT | st.text(st.characters()), holds)


@few_or(100)
def test_whatever_was_trained_on_comes_back(examples):
    def holds(texts):
        tokenizer = result_or_line(lambda: SentencePieceTokenizer.train(texts, 300))
        if any(text.strip() for text in texts):
            ids = tokenizer.encode(texts)
            assert [tokenizer.decode(one) for one in ids] == texts
            again = SentencePieceTokenizer(tokenizer.proto)
            assert again.encode(texts) == ids
        else:
            assert tokenizer is None

    check(examples, st.lists(TEXT, max_size=4), holds)


@few_or(2000)
def test_a_damaged_tokeniser_is_refused_or_gives_texts_back(examples):
    proto = SentencePieceTokenizer.train([CODE], 400).proto

    def holds(damaged):
        tokenizer = result_or_line(lambda: SentencePieceTokenizer(damaged), "proto")
        if tokenizer is not None:
            for text in (CODE, "".join(SIGNS), "  ab\N{SNOWMAN}  "):
                ids = tokenizer.encode(text)
                assert tokenizer.decode(ids) == text
                assert b"".join(tokenizer.token_bytes(ids)) == text.encode()
            assert not any(tokenizer.token_bytes(range(4)))

    # The end, where the settings are, as often as the pieces.
    ends = st.integers(1, 200).map(lambda length: (proto[:-length], proto[-length:]))
    in_the_end = ends.flatmap(lambda two: mutated(st.just(two[1])).map(lambda end: two[0] + end))
    check(examples, mutated(st.just(proto)) | in_the_end | st.binary(max_size=99), holds)


# --- the command line

PATHS = ["book.txt", "a.jsonl", "wide.txt", "texts", "run", "none", "", "\0", "x" * 300, "loop.txt"]
PATHS += ["python-stdlib", "~no_such_user_at_all", "caf\udce9.txt", "empty.txt", "a.gz", "[/red]"]
WORDS = st.sampled_from(PATHS) | st.text(SCALARS).filter(lambda word: not {*"/.~"} & {*word})
NUMBERS = st.sampled_from(
    ["0", "1", "-1", "7", "64", "1e3", "nan", "inf", "-inf", "1" * 30, "1" * 5000, "0.5", "x", ""]
)
PLACES = st.sampled_from(["new", "new/deep", "book.txt", "run", "", "\0", "x" * 300, "loop.txt/a"])
CHOICES = st.sampled_from(["tiny", "small", "greedy", "top_p", "valid", "gemma", "float32", "no"])
NUMBERED = ["--steps", "--seed", "--vocab-size", "--length", "--segment-length", "--batch-size"]
NUMBERED += ["--layers", "--width", "--heads", "--learning-rate", "--interval", "--carry-groups"]
NUMBERED += ["--longer-memory", "--smaller-steps", "--passes", "--max-tokens", "--temperature"]
NUMBERED += ["--top-k", "--top-p", "--minutes", "--seeds", "--version", "--max-new-tokens"]
FLAGS = ["--baseline", "--one-segment", "--carry-state", "--jit", "--freeze", "--carry", "--stream"]
OPTIONS = st.one_of(
    st.tuples(st.sampled_from(NUMBERED), NUMBERS),
    st.tuples(st.sampled_from(["--to", "--html"]), PLACES),
    st.tuples(st.sampled_from(["--resume", "--from", "--against", "--corpus", "--read"]), WORDS),
    st.tuples(st.sampled_from(["--text-field", "--prompt"]), TEXT | st.sampled_from(["body", "-"])),
    st.tuples(st.sampled_from(["--preset", "--sampler", "--split", "--dtype", "--body"]), CHOICES),
    st.tuples(st.sampled_from(FLAGS)),
    st.tuples(WORDS),
)
COMMANDS = st.sampled_from(["train", "evaluate", "score", "generate", "export"])
ARGUMENTS = st.builds(
    lambda words, options: (*words, *(w for option in options for w in option)),
    st.lists(WORDS, max_size=2),
    st.lists(OPTIONS, max_size=4),
)
LINES_OF_COMMANDS = st.builds(
    lambda command, arguments: (command, *arguments),
    COMMANDS | st.sampled_from(["train", "quickstart", "", "none"]),
    ARGUMENTS,
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with files and something like a run; nothing is trained in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    for function in ("train.train", "quickstart.quickstart"):
        monkeypatch.setattr(f"fwl_keras.runs.{function}", lambda *_, **__: None)
    (tmp_path / "book.txt").write_text("A short book: \u2581\u2585 of it.\n" * 300)
    (tmp_path / "a.jsonl").write_text('{"body": "some words of text"}\n' * 300)
    (tmp_path / "wide.txt").write_bytes("wide\n".encode("utf-16") * 9)
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b\x08\0")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"caf\xe9")
    for name in ("texts", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("words " * 500)
    (tmp_path / "run" / "config.json").write_text('{"steps": 5}')
    return tmp_path


def ends_well_or_with_a_line(app, words):
    result = CliRunner().invoke(app, list(words))
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code in (0, 1, 2), words
    assert "Traceback" not in result.output
    if result.exit_code == 2 and not result.stderr.startswith("Usage:"):
        assert result.stderr.startswith("Error:"), result.stderr
        assert result.stderr.count("\n") == 1, result.stderr


@few_or(600)
def test_a_command_ends_well_or_with_a_line(place, examples):
    check(examples, LINES_OF_COMMANDS, lambda words: ends_well_or_with_a_line(app, words))
