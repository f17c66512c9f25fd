import numpy as np
import pytest
from run_helpers import tiny_config, write_book

from fwl_keras.data import Document, SentencePieceTokenizer
from fwl_keras.runs import RunConfig
from fwl_keras.runs.held_out import held_out
from fwl_keras.runs.run_text import fit_to_tokens, prepare_text, reload_text


def test_a_small_book_shrinks_vocabulary_windows_and_steps(tmp_path):
    said = []
    config = RunConfig(corpus=str(write_book(tmp_path, 4_000)), length=1024, steps=1000)
    fitted, text = prepare_text(config, said.append)
    assert fitted.vocab_size == text.tokenizer.vocab_size <= 300
    assert fitted.length == text.stream.size // 4 < 1024
    assert fitted.steps < 1000
    assert sum("instead of" in sentence for sentence in said) == 3
    assert len(text.batches(fitted)) == fitted.steps


def test_chosen_steps_are_kept():
    assert fit_to_tokens(RunConfig(steps=10_000), 5000, lambda _: None, True).steps == 10_000


def test_too_small_a_text():
    with pytest.raises(ValueError, match=r"too small.*63 tokens"):
        fit_to_tokens(RunConfig(), 63, lambda _: None)


def test_a_changed_corpus_is_noticed(tmp_path):
    book = write_book(tmp_path)
    config, text = prepare_text(tiny_config(book), lambda _: None)
    again = reload_text(config, text.tokenizer, text.description())
    np.testing.assert_array_equal(again.stream, text.stream)
    book.write_text("An insertion. " + book.read_text())
    with pytest.raises(ValueError, match="has changed"):
        reload_text(config, text.tokenizer, text.description())


def test_carried_runs_read_the_documents_of_the_corpus(tmp_path):
    for number, size in enumerate((4_000, 900, 2_500, 6_000, 3_000)):
        book = write_book(tmp_path, size)
        book.rename(tmp_path / f"{number}.txt")
    config, text = prepare_text(tiny_config(tmp_path, carry_state=True), lambda _: None)
    texts = [document.text for document in text.corpus.train]
    documents = text.documents_ids()
    assert [text.tokenizer.decode(ids) for ids in documents] == texts
    batches = text.batches(config)
    counts = []
    for x, y in batches:
        assert x["token_ids"].shape == y.shape == (2, 32)
        counts.append(x["padding_mask"].sum())
    assert batches.tokens_per_step == np.mean(counts) <= 64
    assert text.batches(config.replace(carry_state=False)).tokens_per_step == 64


def test_validation_windows(tmp_path):
    config, text = prepare_text(tiny_config(write_book(tmp_path)), lambda _: None)
    assert text.validation_windows(config).shape == (4, 32)
    assert text.validation_windows(config.replace(validation_windows=0)) is None
    assert len(text.validation_windows(config.replace(length=4096))) == 1


def test_every_held_out_token_is_predicted_once_and_knows_its_place():
    texts = ["def f(x):\n    return x\n" * 5, "x = 1\n"]
    tokenizer = SentencePieceTokenizer.train(texts, 300)
    data = held_out([Document(str(i), t) for i, t in enumerate(texts)], tokenizer, 8)
    for number, text in enumerate(texts):
        of_document = data.documents == number
        labels = data.windows[of_document, 1:].ravel()
        there = labels != tokenizer.pad_id
        assert tokenizer.decode(labels[there]) == text
        np.testing.assert_array_equal(
            data.positions[of_document].ravel()[there], np.arange(1, there.sum() + 1)
        )
    assert data.text_bytes() == sum(len(text) for text in texts)
    assert [tokenizer.decode(ids) for ids in data.documents_ids()] == texts


def test_held_out_beginnings_only():
    text = "def f(x):\n    return x\n" * 50
    tokenizer = SentencePieceTokenizer.train([text], 300)
    data = held_out([Document("a", text)], tokenizer, 8, max_windows=2)
    assert data.windows.shape == (2, 9)
    assert text.startswith(data.texts[0])


def test_no_held_out_text():
    tokenizer = SentencePieceTokenizer.train(["some text"], 300)
    with pytest.raises(ValueError, match="no text"):
        held_out([], tokenizer, 8)
