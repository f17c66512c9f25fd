"""Reading and scoring in pieces against one ordinary call of the model on the whole."""

import keras
import numpy as np
import pytest
from keras import ops
from lm_helpers import (
    WIDTH,
    V,
    all_log_probabilities,
    assert_same_state,
    chosen,
    language_model,
    random_ids,
)

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.backbones import RecurrentBackbone
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.models import TextPreprocessor

pytestmark = pytest.mark.eager

T = 24


@pytest.fixture(autouse=True)
def _seed():
    """None for single tests: one makes TensorFlow prepare every graph again."""


@pytest.fixture(scope="module")
def models():
    """Models by body, made once: compiling is what takes time here."""
    made = {}

    def get(body):
        if body not in made:
            keras.utils.set_random_seed(1)
            made[body] = language_model(body)
        return made[body]

    return get


@pytest.fixture(scope="module")
def text_model():
    keras.utils.set_random_seed(1)
    tokenizer = SentencePieceTokenizer.train(["to be or not to be, that is the question\n"], 300)
    size = tokenizer.vocab_size
    body = RecurrentBackbone([keras.layers.Embedding(size, WIDTH), keras.layers.GRU(WIDTH)])
    block = FWLBlock(WIDTH, size, segment_length=5, initial_step_size=0.3)
    return FWLCausalLM(body, block, preprocessor=TextPreprocessor(tokenizer))


def read_in_pieces(lm, ids, pieces, state):
    """Log-probabilities [B, T] from calls with so many tokens of each row: pieces [calls, B]."""
    found = [[] for _ in ids]
    done = np.zeros(len(ids), int)
    for counts in pieces:
        rows = [row[d : d + n] for row, d, n in zip(ids, done, counts, strict=True)]
        result = lm.score(rows, state=state)
        state = result.state
        for row, values, n in zip(found, result.log_probabilities, counts, strict=True):
            assert np.isnan(values[n:]).all()
            row.extend(values[:n])
        done += counts
    assert (done == ids.shape[1]).all()
    return np.array(found), state


def ragged_pieces(rows, total, rng, widths=(1, 8)):
    """Random counts, some of them 0, that add up to `total` in every row."""
    done, pieces = np.zeros(rows, int), []
    while (done < total).any():
        width = rng.choice(widths)
        counts = np.minimum(rng.integers(0, width + 1, size=rows), total - done)
        counts[rng.integers(rows)] = width
        counts = np.minimum(counts, total - done)
        pieces.append(counts)
        done += counts
    return pieces


@pytest.mark.parametrize("body", ["recurrent", "gemma", "gpt2", "plain"])
def test_score_is_that_of_one_call(models, body):
    ids = random_ids(3, 24)
    lm = models(body)
    score = lm.score(ids)
    expected = chosen(all_log_probabilities(lm, ids), ids[:, 1:])
    assert np.isnan(score.log_probabilities[:, 0]).all()
    np.testing.assert_allclose(score.log_probabilities[:, 1:], expected, atol=1e-4)
    np.testing.assert_allclose(score.perplexity, np.exp(-expected.mean(axis=1)), rtol=1e-4)


def test_trained_weights_are_those_without_a_step(models):
    lm, ids = models("gemma"), random_ids(2, 24)
    score = lm.score(ids, use_fast_weights=False)
    logits = lm.block(lm.body.features(ops.convert_to_tensor(ids[:, :-1]), None))
    expected = ops.convert_to_numpy(ops.log_softmax(logits))
    np.testing.assert_allclose(
        score.log_probabilities[:, 1:], chosen(expected, ids[:, 1:]), atol=1e-4
    )
    assert not any(np.asarray(v).any() for n, v in score.state.items() if n.startswith("running"))


@pytest.mark.graph  # many calls of one shape
@pytest.mark.slow
def test_50_ragged_streams_on_a_body_with_a_state_per_row(models):
    """Rows read 0 to 8 tokens a call, each at its own places; the body's states are carried."""
    lm, rng = models("recurrent"), np.random.default_rng(0)
    for seed in range(5):
        ids = random_ids(10, T, seed=seed)
        whole = lm.score(ids)
        state = lm.initial_state(10, carry_context=True)
        found, state = read_in_pieces(lm, ids, ragged_pieces(10, T, rng), state)
        np.testing.assert_allclose(found, whole.log_probabilities, atol=1e-4)
        carried = {n: v for n, v in state.items() if not n.startswith("context_")}
        assert_same_state(carried, whole.state)


@pytest.mark.graph  # many calls of one shape
@pytest.mark.slow
@pytest.mark.parametrize("body", ["gemma", "gpt2"])
def test_streams_on_a_key_value_cache(models, body):
    """Rows advance together, as the cache needs it."""
    lm, rng = models(body), np.random.default_rng(0)
    for seed in range(10):
        ids = random_ids(5, 18, seed=seed)
        state = lm.initial_state(5, carry_context=True, context_length=20)
        pieces = [np.repeat(n, 5) for n in _cuts(18, rng)]
        found, _ = read_in_pieces(lm, ids, pieces, state)
        np.testing.assert_allclose(found, lm.score(ids).log_probabilities, atol=1e-4)


def _cuts(total, rng):
    counts = []
    while sum(counts) < total:
        counts.append(min(rng.choice([1, 6]), total - sum(counts)))
    return counts


@pytest.mark.parametrize("body", [pytest.param("recurrent", marks=pytest.mark.slow), "gemma"])
def test_half_precision(body):
    lm = language_model(body, dtype="mixed_bfloat16", initial_step_size=0.03)
    ids = random_ids(10, 30)
    state = lm.initial_state(10, carry_context=True, context_length=32)
    found, state = read_in_pieces(lm, ids, [np.repeat(n, 10) for n in (8, 1, 8, 1, 4, 8)], state)
    whole = lm.score(ids).log_probabilities
    np.testing.assert_allclose(np.nanmean(found), np.nanmean(whole), rtol=5e-3)
    for name, value in state.items():
        if name.startswith(("anchor", "running", "pending_features")):
            assert keras.backend.standardize_dtype(value.dtype) == "float32"


def test_a_new_context_with_every_call_is_a_window(models):
    """Without the body's context a piece is read as the block with carried state reads a window."""
    lm, ids = models("gemma"), random_ids(2, 24)
    pieces = [np.repeat(8, 2)] * 3
    found, state = read_in_pieces(lm, ids, pieces, None)
    block_state, expected = lm.block.initial_state(2), []
    for start in (0, 8, 16):
        window, labels = ids[:, start : start + 8], ids[:, start + 1 : start + 9]
        x = lm.body.features(ops.convert_to_tensor(window), None)[:, : labels.shape[1]]
        logits, block_state = lm.block(x, labels, state=block_state, return_state=True)
        expected.append(chosen(ops.convert_to_numpy(ops.log_softmax(logits)), labels))
    np.testing.assert_allclose(found[:, 1:], np.concatenate(expected, axis=1), atol=1e-4)
    block_names = {n: state[n] for n in block_state}
    assert_same_state(block_names, block_state)


def test_texts_longer_than_the_context_are_read_in_windows(models):
    lm, ids = models("gemma"), random_ids(2, 24)
    by_hand, state = read_in_pieces(lm, ids, [np.repeat(8, 2)] * 3, None)
    lm.context_length = 8
    try:
        score = lm.score([*ids, ids[0, :11]])
    finally:
        lm.context_length = None
    np.testing.assert_allclose(score.log_probabilities[:2], by_hand, atol=1e-5)
    np.testing.assert_allclose(score.log_probabilities[2, :11], by_hand[0, :11], atol=1e-5)
    assert_same_state({n: v[:2] for n, v in score.state.items()}, state, atol=1e-5)


def test_the_future_and_the_neighbours_change_no_bit(models):
    lm, ids = models("gemma"), random_ids(4, 24)
    other = ids.copy()
    other[0, 15:] = other[0, 15:][::-1]
    other[1:] = random_ids(3, 24, seed=9)
    one, two = lm.score(ids), lm.score(other)
    np.testing.assert_array_equal(one.log_probabilities[0, :15], two.log_probabilities[0, :15])
    assert (one.log_probabilities[0, 15:] != two.log_probabilities[0, 15:]).any()


def test_an_empty_row_leaves_its_state_as_it_was(models):
    lm = models("recurrent")
    before = lm.read(random_ids(2, 7))
    after = lm.read([[], [5, 6, 7]], state=before)
    for name in before:
        np.testing.assert_array_equal(before[name][0], after[name][0], err_msg=name)
    assert (np.asarray(before["pending_features"]) != np.asarray(after["pending_features"])).any()
    fresh = lm.read([[], [1]])
    assert not any(np.asarray(value)[0].any() for value in fresh.values())


def test_passes_read_again_from_the_beginning(models):
    lm, ids = models("recurrent"), random_ids(2, 9)
    state = lm.read(ids)
    state["pending_valid"] = np.zeros(2, bool)
    assert_same_state(lm.read(ids, passes=2), lm.read(ids, state=state), atol=1e-6)
    carried = lm.read(ids, state=lm.initial_state(2, carry_context=True), passes=2)
    for name, value in lm.read(ids, passes=2).items():
        np.testing.assert_allclose(carried[name], value, atol=1e-5, err_msg=name)


def test_reading_teaches(models):
    """What was read is likelier afterwards than before."""
    lm, ids = models("recurrent"), random_ids(1, 9)
    state = lm.read(ids, passes=3)
    before, after = lm.score(ids), lm.score(ids, state=state)
    assert after.perplexity[0] < before.perplexity[0]


def test_start_and_end_tokens(text_model):
    lm = text_model
    tokenizer = lm.preprocessor.tokenizer
    text = "to be or not to be"
    ids = tokenizer.encode(text)
    start, end = tokenizer.bos_id, tokenizer.eos_id
    whole = lm.score([[start, *ids, end]])
    carried = lm.initial_state(1, carry_context=True)
    found = []
    for piece, final in (("to be", False), ("", False), (" or not", False), (" to be", True)):
        result = lm.score([piece], state=carried, final=final)
        carried = result.state
        found.extend(result.log_probabilities[0])
    # Cut at spaces, where the tokeniser cuts too: the same ids.
    assert [i for p in ("to be", " or not", " to be") for i in tokenizer.encode(p)] == ids
    assert len(found) == len(ids) + 2 and np.isnan(found[0])
    np.testing.assert_allclose(found[1:], whole.log_probabilities[0, 1:], atol=1e-4)


def test_saved_models_read_texts(text_model, tmp_path):
    text_model.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras")
    texts = ["to be", "or not to be\n"]
    one, two = text_model.score(texts), loaded.score(texts)
    np.testing.assert_allclose(one.log_probabilities, two.log_probabilities, atol=1e-6)
    assert loaded.context_length == text_model.context_length


def test_new_weights_are_used_at_once(models):
    lm, ids = language_model(), random_ids(2, 9)
    before = lm.score(ids).perplexity
    lm.compile("sgd")
    lm.fit(ids, verbose=0)
    after = lm.score(ids)
    expected = chosen(all_log_probabilities(lm, ids), ids[:, 1:])
    np.testing.assert_allclose(after.log_probabilities[:, 1:], expected, atol=1e-4)
    assert (after.perplexity != before).all()


def test_the_state_is_as_large_as_it_says(models):
    lm = models("gemma")
    weights = WIDTH * 4 * WIDTH + 4 * WIDTH + 4 * WIDTH * WIDTH + 3 * WIDTH
    expected = 8 * weights + 4 * WIDTH + 5
    for state in (lm.initial_state(2), lm.read(random_ids(2, 24))):
        assert sum(np.asarray(v).nbytes for v in state.values()) == 2 * expected


def test_a_model_that_diverges_says_so():
    """A loss that is no number is a loss, and no missing token."""
    lm = language_model(segment_length=None, initial_step_size=1e30)
    score = lm.score(random_ids(1, 24))
    assert not np.isfinite(score.perplexity[0])


def test_inputs_in_every_form(models):
    lm, ids = models("recurrent"), random_ids(2, 6)
    expected = lm.score(ids).log_probabilities
    padded = {"token_ids": np.pad(ids, ((0, 0), (0, 2))), "padding_mask": np.ones((2, 8), bool)}
    padded["padding_mask"][:, 6:] = False
    for given in (ids.tolist(), list(ids), ops.convert_to_tensor(ids), padded):
        np.testing.assert_array_equal(lm.score(given).log_probabilities, expected)
    np.testing.assert_allclose(lm.score(ids[0]).log_probabilities, expected[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.score(["text"]), "preprocessor"),
        (lambda lm: lm.score([]), "`inputs` is empty"),
        (lambda lm: lm.score(7), "texts or token ids"),
        (lambda lm: lm.score([[1, V]]), rf"id {V}, which is outside \[0, {V}\)"),
        (lambda lm: lm.score([[1.5, 2.0]]), "integer ids"),
        (lambda lm: lm.score([[1, 2]], final=True), "append the end token"),
        (lambda lm: lm.score({"token_ids": [[1]]}), "padding_mask"),
        (
            lambda lm: lm.score({"token_ids": [[1, 2, 3]], "padding_mask": [[1, 0, 1]]}),
            "mask with holes",
        ),
        (lambda lm: lm.read([[1]], passes=0), "`passes`"),
        (
            lambda lm: lm.read([[1]], state=lm.block.initial_state(1)),
            "must be a dict with the keys",
        ),
        (lambda lm: lm.read([[1]], state=lm.initial_state(2)), "does not fit 1 rows"),
        (lambda lm: lm.initial_state(1, carry_context=True), "`context_length` must be given"),
        (
            lambda lm: lm.read(
                [[1, 2], [3]], state=lm.initial_state(2, carry_context=True, context_length=8)
            ),
            "rows advance together",
        ),
        (
            lambda lm: lm.read(
                [[1, 2, 3]], state=lm.initial_state(1, carry_context=True, context_length=2)
            ),
            "room for 2 more tokens, not for 3",
        ),
    ],
)
def test_errors(models, call, message):
    with pytest.raises(ValueError, match=message):
        call(models("gemma"))


def test_a_body_without_context_says_so(models):
    with pytest.raises(ValueError, match="keeps no context"):
        models("plain").initial_state(1, carry_context=True, context_length=8)
