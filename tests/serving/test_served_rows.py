"""What a row of a request is answered does not depend on the rows it is batched with."""

import numpy as np
import pytest
import tensorflow as tf
from served_models import SIGNATURES, TEXTS, each_body, rows_of, token_inputs

each_signature = pytest.mark.parametrize("name", SIGNATURES)

ROWS = 4
TEXT_ONLY = ("score", "tokenize", "initial_state")


def request(served, name, seed, mine=1, rows=ROWS, tokens=30):
    """Inputs of a signature, by chance but for one row.

    Every text has so many tokens; what is not the same in all requests differs in length, too.
    """
    rng = np.random.default_rng(seed)
    # Row `mine` is always the same: a generator of its own.
    own = np.random.default_rng(0)
    of = [own if row == mine else rng for row in range(rows)]
    inputs = {}
    if name in ("score_tokens", "detokenize"):
        inputs = token_inputs([one.integers(4, 340, tokens) for one in of])
        inputs["lengths"] = [int(one.integers(1, tokens + 1)) for one in of]
    else:
        inputs["text"] = [text_of(one, tokens) for one in of]
    if name.startswith("generate"):
        inputs |= {
            "seed": [int(one.integers(2**32)) for one in of],
            "temperature": [float(one.uniform(0.5, 2)) for one in of],
            "top_k": [int(one.integers(0, 50)) for one in of],
            "top_p": [float(one.uniform(0.1, 1)) for one in of],
            "max_new_tokens": [9] * rows,
        }
    if name in ("read", "score_from", "generate_from"):
        # Positions in the segment differ from row to row.
        # Read one by one, so that the state of `mine` is the same to the bit.
        before = [served.read([text_of(one, int(one.integers(1, 20)))]) for one in of]
        inputs |= {key: np.concatenate([one[key] for one in before]) for key in before[0]}
    return inputs


def text_of(rng, tokens):
    """A text of so many tokens: of letters that no piece of the vocabulary joins."""
    return "".join("#QZ@"[i] for i in rng.integers(4, size=tokens))


@each_body
@each_signature
def test_other_neighbours_do_not_change_a_bit(served, kind, name):
    served = served(kind)
    one, other = (served(name, **request(served, name, seed)) for seed in (1, 2))
    assert (one["status"] == 0).all()
    if name != "initial_state":
        assert any(not np.array_equal(one[key][0], other[key][0]) for key in one)
    for key in one:
        np.testing.assert_array_equal(one[key][1], other[key][1], err_msg=key)


@each_body
@each_signature
def test_a_row_by_itself_is_answered_the_same(served, kind, name):
    served = served(kind)
    inputs = request(served, name, 1)
    together = rows_of(served(name, **inputs), slice(1, 2))
    alone = served(name, **{key: np.asarray(value)[1:2] for key, value in inputs.items()})
    assert_close(alone, together)


@each_body
@each_signature
def test_longer_neighbours_and_more_of_them_change_nothing(served, kind, name):
    served = served(kind)
    inputs = request(served, name, 1)
    expected = rows_of(served(name, **inputs), slice(1, 2))
    longer = request(served, name, 3, mine=-1, rows=7, tokens=77)
    joined = {}
    for key, value in longer.items():
        value = np.asarray(value, object if key == "text" else None)
        mine = np.asarray(inputs[key])[1:2]
        if key == "token_ids":
            mine = np.pad(mine, [[0, 0], [0, 77 - mine.shape[1]]])
        joined[key] = np.concatenate([value[:3], mine, value[3:]])
    joined["text"] = joined["text"].tolist() if "text" in joined else None
    joined = {key: value for key, value in joined.items() if value is not None}
    assert_close(expected, rows_of(served(name, **joined), slice(3, 4)))


def assert_close(one, other):
    """Compare rows, of which either may be padded with zeros."""
    assert set(one) == set(other)
    for key in one:
        a, b = one[key], other[key]
        if a.dtype.kind == "f":
            if a.ndim == 2 and a.shape != b.shape:
                width = max(a.shape[1], b.shape[1])
                a, b = (np.pad(x, [[0, 0], [0, width - x.shape[1]]]) for x in (a, b))
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=key)
        elif key == "token_ids":
            width = min(a.shape[1], b.shape[1])
            np.testing.assert_array_equal(a[:, :width], b[:, :width])
            assert not a[:, width:].any() and not b[:, width:].any()
        else:
            np.testing.assert_array_equal(a, b, err_msg=key)


@each_signature
def test_a_request_without_rows_is_an_error_that_says_so(served, name):
    inputs = request(served(), name, 1)
    none = {key: np.asarray(value)[:0] for key, value in inputs.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="same number of rows, at least one"):
        served()(name, **none)
    # And nothing else suffers.
    assert (served()(name, **inputs)["status"] == 0).all()


@pytest.mark.parametrize("name", [name for name in SIGNATURES if name not in TEXT_ONLY])
def test_inputs_of_different_numbers_of_rows_are_an_error(served, name):
    inputs = request(served(), name, 1)
    for key in inputs:
        for rows in (slice(1), [0, 1, 2, 3, 3]):
            some = {**inputs, key: np.asarray(inputs[key])[rows]}
            with pytest.raises(tf.errors.InvalidArgumentError, match="same number of rows"):
                served()(name, **some)


def test_texts_have_the_tokens_that_these_tests_rely_on(served):
    rng = np.random.default_rng(0)
    lengths = served()("tokenize", text=[text_of(rng, n) for n in (1, 30, 77)])["lengths"]
    assert lengths.tolist() == [1, 30, 77]
    assert max(served()("tokenize", text=TEXTS)["lengths"]) < 77
