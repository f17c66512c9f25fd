import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwl_keras.data import evaluation_windows, pack_documents, pack_stream, token_stream

DOCUMENTS = st.lists(st.lists(st.integers(4, 99), max_size=12), min_size=1, max_size=6)
LENGTHS = st.integers(1, 6)


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, length=LENGTHS, eos_id=st.sampled_from([None, 3]))
def test_stream_windows_are_the_documents_one_after_the_other(documents, length, eos_id):
    expected = [one for ids in documents for one in [*ids, *([] if eos_id is None else [eos_id])]]
    if len(expected) < length:
        with pytest.raises(ValueError, match="documents_ids"):
            pack_stream(documents, length, eos_id=eos_id)
        return
    windows = pack_stream(documents, length, eos_id=eos_id)
    assert windows.dtype == np.int32
    assert windows.shape == (len(expected) // length, length)
    assert windows.ravel().tolist() == expected[: windows.size]
    assert token_stream(documents, eos_id=eos_id).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, length=LENGTHS, data=st.data())
def test_document_windows_never_cross_documents(documents, length, data):
    min_length = data.draw(st.integers(1, length))
    kept = []
    for ids in documents:
        rest = len(ids) % length
        kept.append(ids[: len(ids) - rest if rest < min_length else len(ids)])
    if not any(kept):
        with pytest.raises(ValueError, match="no document of `min_length`"):
            pack_documents(documents, length, pad_id=0, min_length=min_length)
        return
    token_ids, padding_mask, index = pack_documents(
        documents, length, pad_id=0, min_length=min_length
    )
    assert (token_ids.dtype, padding_mask.dtype, index.dtype) == (np.int32, bool, np.int32)
    assert token_ids.shape == padding_mask.shape == (len(index), length)
    for number, ids in enumerate(kept):
        rows = index == number
        assert token_ids[rows][padding_mask[rows]].tolist() == ids
    assert (padding_mask == (token_ids != 0)).all()
    # Tokens come first, padding after them.
    assert (np.diff(padding_mask.astype(int), axis=1) <= 0).all()


def test_document_windows_example():
    token_ids, padding_mask, index = pack_documents(
        [[5], [6, 7, 8], [9, 10, 11, 12, 13]], 4, pad_id=0
    )
    assert token_ids.tolist() == [[6, 7, 8, 0], [9, 10, 11, 12]]
    assert padding_mask.tolist() == [[True, True, True, False], [True] * 4]
    assert index.tolist() == [1, 2]


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, 40), length=LENGTHS)
def test_every_token_but_the_first_is_a_label_once(size, length):
    stream = np.arange(1, size + 1)
    padded = evaluation_windows(stream, length, pad_id=0)
    labels = padded[:, 1:]
    assert labels[labels != 0].tolist() == stream[1:].tolist()
    # Each label's context is the token before it.
    assert (padded[:, :-1][labels != 0] + 1).tolist() == stream[1:].tolist()
    whole = (size - 1) // length
    if whole:
        windows = evaluation_windows(stream, length)
        assert windows.dtype == np.int32
        np.testing.assert_array_equal(windows, padded[:whole])
    else:
        with pytest.raises(ValueError, match=f"`stream` has {size} tokens"):
            evaluation_windows(stream, length)


@pytest.mark.parametrize("length", [0, -1, 2.0, True, None])
def test_bad_length_is_an_error(length):
    for pack in (
        lambda: pack_stream([[1, 2]], length, eos_id=None),
        lambda: pack_documents([[1, 2]], length, pad_id=0),
        lambda: evaluation_windows(np.arange(9), length),
    ):
        with pytest.raises(ValueError, match=f"`length` must be .* received {length}"):
            pack()


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="`documents_ids` holds no tokens"):
        pack_stream([[], []], 4, eos_id=None)
    with pytest.raises(ValueError, match=r"has 3 tokens, too few for one window of `length`=4"):
        pack_stream([[5, 6]], 4, eos_id=3)
    with pytest.raises(ValueError, match=r"`min_length`=2 tokens.*longest of its 2 has 1;"):
        pack_documents([[5], [6]], 4, pad_id=0)
    with pytest.raises(
        ValueError, match=r"`min_length` must be between 1 and `length`=4; received 5"
    ):
        pack_documents([[5, 6]], 4, pad_id=0, min_length=5)
    with pytest.raises(ValueError, match=r"`stream` must be a vector of integers.*\(2, 3\)"):
        evaluation_windows(np.zeros((2, 3), int), 2)
    with pytest.raises(ValueError, match="float64"):
        evaluation_windows(np.zeros(3), 2)
    with pytest.raises(ValueError, match="`pad_id`=2 occurs in `stream`"):
        evaluation_windows(np.arange(5), 2, pad_id=2)
    with pytest.raises(ValueError, match="`stream` has 1 tokens"):
        evaluation_windows(np.arange(1), 2, pad_id=9)
