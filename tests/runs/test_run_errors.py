"""Files of a run that are whole and say something else, and text that is not there."""

import json

import keras
import pytest
from run_helpers import tiny_config, write_book

from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.models import TextPreprocessor
from fwl_keras.runs import RunDirectory, evaluate
from fwl_keras.runs.checksums import Checksums
from fwl_keras.saving import check_model_file


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write_book(tmp_path_factory.mktemp("book"), 6000)


@pytest.fixture(scope="module")
def tokenizer(book):
    return SentencePieceTokenizer.train([book.read_text("utf-8")], 300)


@pytest.fixture
def run(book, tokenizer, tmp_path):
    corpus = {"fingerprint": "of the text", "training_tokens": 5}
    return RunDirectory.create(tmp_path / "run", tiny_config(book), tokenizer, corpus)


def test_a_corpus_file_that_was_edited(run):
    assert run.read_corpus()["training_tokens"] == 5
    run.corpus.write_text(json.dumps({**run.read_corpus(), "training_tokens": 6}))
    with pytest.raises(ValueError, match=r"corpus\.json` is not what the run wrote; put it back"):
        run.read_corpus()
    run.corpus.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"corpus\.json` cannot be read: It has list where an obj"):
        run.read_corpus()
    # Of a run from when there were no checksums.
    run.checksums.unlink()
    run.corpus.write_text(json.dumps({"fingerprint": "of the text"}))
    with pytest.raises(ValueError, match="has no 'training_tokens'; put it back, or begin a new"):
        run.read_corpus()


def test_checksums_that_were_edited(run):
    values = json.loads(run.checksums.read_text())
    values["corpus"]["training_tokens"] = 6
    run.checksums.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"is damaged .Its own checksum is another.; remove it"):
        Checksums.load(run.checksums)


def test_an_archive_without_a_model(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("something", "else")
    with pytest.raises(ValueError, match=r"has no `config\.json`"):
        check_model_file(tmp_path / "model.keras")


def test_evaluating_text_that_is_not_there(run, book, tokenizer, monkeypatch):
    with pytest.raises(ValueError, match="`split` must be one of valid, test; received 'train'"):
        evaluate.evaluate_run(run.path, split="train")

    class Unused(keras.Model):
        preprocessor = TextPreprocessor(tokenizer)

    corpus = evaluate.load_corpus(str(book))
    for name in ("valid", "test"):
        object.__setattr__(corpus, name, [])
    monkeypatch.setattr(evaluate, "load_run_model", lambda path: Unused())
    monkeypatch.setattr(evaluate, "load_corpus", lambda *_, **__: corpus)
    with pytest.raises(ValueError, match="has no text in its test split"):
        evaluate.evaluate_run(run.path, split="test")
