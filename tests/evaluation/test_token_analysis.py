"""Gains by properties of tokens, against texts whose gains are known."""

import numpy as np
import pytest

from fwl_keras.evaluation.token_analysis import (
    TokenTable,
    doubling_edges,
    gain_by,
    gain_by_document,
    gain_by_word,
)


def test_token_table_against_counting():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 9, size=n) for n in (20, 1, 0, 33)]
    stream = rng.integers(0, 7, size=100)
    table = TokenTable.make(documents, stream, vocab_size=9)
    place = 0
    for number, ids in enumerate(documents):
        for t, id_ in enumerate(ids):
            assert table.ids[place] == id_
            assert table.documents[place] == number
            assert table.positions[place] == t + 1
            assert table.frequencies[place] == (stream == id_).sum()
            assert table.occurrences[place] == (ids[:t] == id_).sum()
            place += 1
    assert place == len(table.ids)
    with pytest.raises(ValueError, match="holds no token"):
        TokenTable.make([np.zeros(0, int)], stream, 9)


def test_edges():
    assert doubling_edges(7).tolist() == [1, 2, 4, 8]
    assert doubling_edges(8).tolist() == [1, 2, 4, 8, 16]
    assert doubling_edges(0, zero=True).tolist() == [0, 1, 2]
    assert len(doubling_edges(1000, per_doubling=2)) == 21


def test_gain_by_bins():
    documents = np.repeat(np.arange(20), 4)
    values = np.tile([0, 1, 5, 7], 20)
    gain = np.where(values >= 4, 0.5, np.where(values == 0, -0.25, 0.125))
    gain[3::4] += 0.25
    found = gain_by(gain, values, documents, doubling_edges(7, zero=True))
    np.testing.assert_array_equal(found["from"], [0, 1, 4])
    np.testing.assert_array_equal(found["below"], [1, 2, 8])
    np.testing.assert_allclose(found["value"], [0, 1, 6])
    np.testing.assert_allclose(found["mean"], [-0.25, 0.125, 0.625])
    np.testing.assert_allclose(found["low"], found["high"])
    np.testing.assert_array_equal(found["tokens"], [20, 20, 40])


def test_bins_of_few_documents_are_left_out():
    documents = np.array([0, 1, 2, 3, 0])
    values = np.array([1, 1, 1, 1, 9])
    found = gain_by(np.ones(5), values, documents, doubling_edges(9), min_documents=2)
    np.testing.assert_array_equal(found["from"], [1])
    with pytest.raises(ValueError, match="`min_documents`=5"):
        gain_by(np.ones(5), values, documents, doubling_edges(9))


def test_the_band_covers_the_truth_as_often_as_it_says():
    """Documents with effects of their own; the mean effect is 0.3."""
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        effects = rng.normal(0.3, 0.5, size=40)
        documents = np.repeat(np.arange(40), 25)
        gain = effects[documents] + rng.normal(size=documents.size)
        found = gain_by(
            gain,
            np.ones(documents.size),
            documents,
            np.array([1.0, 2.0]),
            resamples=300,
            seed=trial,
        )
        covered += found["low"][0] < 0.3 < found["high"][0]
    assert 85 <= covered <= 100


def test_gain_by_word_and_document():
    token_bytes = [b"", b" the", b" ca", b"t", b"\n", b" ", b"dog", b"."]
    documents = [np.array([1, 2, 3, 4, 6, 7]), np.array([2, 3, 5, 6])]
    gain = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0])
    words = gain_by_word(gain, documents, token_bytes)
    assert words == {"the": (1.0, 1), "cat": (198.0, 2), "dog.": (48.0, 1), "dog": (512.0, 1)}
    totals, tokens = gain_by_document(gain, np.repeat([0, 1], [6, 4]))
    assert totals.tolist() == [63.0, 960.0]
    assert tokens.tolist() == [6, 4]
