"""What works with which body, on this backend; tests/support_table.py makes a table of it."""

import importlib.util

import keras
import numpy as np
import pytest
from bodies import BODIES, MODEL_GARDEN, WIDTH
from lm_helpers import all_log_probabilities

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.models import TextPreprocessor

LENGTH = 14
BACKEND = keras.backend.backend()
TEXTS = ["def first(x):\n    return x[0]\n\n", "the quick brown fox jumps over the lazy dog\n"] * 8
# The others come with the slow tests; all of them make the table.
FAST = ("Keras: functional transformer", "`RecurrentBackbone` of LSTM, GRU")

tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's")


def names():
    for name in BODIES:
        marks = [] if name in FAST else [pytest.mark.slow]
        if name in MODEL_GARDEN:
            there = BACKEND == "tensorflow" and importlib.util.find_spec("official") is not None
            marks.append(pytest.mark.skipif(not there, reason="needs tf-models-official"))
        yield pytest.param(name, marks=marks, id=name)


@pytest.fixture(autouse=True)
def _seed():
    """Not between calls of one model: TensorFlow would prepare its graphs again."""


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(TEXTS, 330)


@pytest.fixture(scope="module", params=names())
def lm(request, tokenizer):
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    vocab_size = tokenizer.vocab_size
    body = BODIES[request.param](vocab_size)
    unembedding = getattr(body, "token_embedding", None)
    capped = getattr(body, "final_logit_soft_cap", None)
    # Steps are large, so that one too many or too few shows.
    block = FWLBlock(
        WIDTH, vocab_size, unembedding=unembedding, segment_length=8, initial_step_size=0.1
    )
    lm = FWLCausalLM(body, block, preprocessor=TextPreprocessor(tokenizer))
    if capped is not None:
        assert lm.block.unembedding.soft_cap == capped
    for v in lm.trainable_variables:
        if v.path.endswith("embeddings"):
            v.assign(keras.random.normal(v.shape, stddev=0.7, seed=1))
    # Compiling would take most of the time on TensorFlow; JAX is slow without.
    eager = BACKEND == "tensorflow"
    lm.compile(keras.optimizers.Adam(1e-2), sampler="greedy", run_eagerly=eager)
    return lm


@pytest.fixture(scope="module")
def ids(tokenizer):
    return np.random.default_rng(0).integers(
        4, tokenizer.vocab_size, size=(4, LENGTH), dtype="int32"
    )


@tensorflow_only
def test_keras_lists_every_variable(lm, ids):
    """What a tape sees being read is what Keras lists: nothing is left out."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss, _ = lm.compute_loss_and_counts(ids)
    watched = tape.watched_variables()
    listed = {id(getattr(v.value, "_variable", v.value)) for v in lm.trainable_variables}
    seen = {id(getattr(v, "_variable", v)) for v in watched}
    assert seen == listed
    assert np.isfinite(float(loss))


def test_training(lm, ids):
    paths = [v.path for v in lm.trainable_variables]
    assert len(set(paths)) == len(paths)
    before = {v.path: keras.ops.convert_to_numpy(v) for v in lm.trainable_variables}
    before = {path: np.array(value) for path, value in before.items()}
    losses = [float(lm.train_on_batch(ids, return_dict=True)["loss"]) for _ in range(4)]
    assert losses[3] < losses[2] < losses[1] < losses[0]
    unchanged = {
        v.path
        for v in lm.trainable_variables
        if np.array_equal(before[v.path], keras.ops.convert_to_numpy(v))
    }
    assert not unchanged


def test_saving(lm, ids, tmp_path):
    lm.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras")
    expected = lm.score(ids).log_probabilities
    np.testing.assert_allclose(loaded.score(ids).log_probabilities, expected, atol=1e-5)


def test_streaming(lm, ids, record_property):
    """Pieces are one call: exactly, or where the body begins anew with each of them."""
    if lm.body.keeps_context:
        record_property("support", "exact")
        state = lm.initial_state(len(ids), carry_context=True, context_length=16)
        expected = lm.score(ids).log_probabilities
    else:
        record_property("support", "by window")
        state = lm.initial_state(len(ids))
        lm.context_length = LENGTH // 2
        expected = lm.score(ids).log_probabilities
        lm.context_length = None
        with pytest.raises(ValueError, match="keeps no context"):
            lm.initial_state(1, carry_context=True, context_length=16)
    found = []
    for start in (0, LENGTH // 2):
        score = lm.score(ids[:, start : start + LENGTH // 2], state=state)
        state = score.state
        found.append(score.log_probabilities)
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-4)


def test_generation(lm, ids, record_property):
    """Each token is the likeliest for `score`, and the cache changes nothing."""
    prompts = [ids[0, :3], ids[1, :5]]
    settings = {"max_length": 10, "stop_token_ids": None}
    texts = lm.generate(prompts, use_cache=True, **settings)["token_ids"]
    best = all_log_probabilities(lm, texts).max(axis=-1)
    scores = lm.score(texts).log_probabilities
    np.testing.assert_allclose(scores[0, 3:], best[0, 2:], atol=1e-4)
    np.testing.assert_allclose(scores[1, 5:], best[1, 4:], atol=1e-4)
    record_property("support", "yes" if lm.body.keeps_context else "no")
    if lm.body.keeps_context:
        again = lm.generate(prompts, use_cache=False, **settings)["token_ids"]
        np.testing.assert_array_equal(texts, again)


@pytest.mark.slow
@tensorflow_only
def test_export(lm, tmp_path, monkeypatch, record_property):
    """Two of the signatures: all are tested on two bodies in tests/serving."""
    import tensorflow as tf

    from fwl_keras.serving import export

    whole = export.Signatures.all
    some = ("score", "generate")
    monkeypatch.setattr(
        export.Signatures, "all", lambda self: {name: whole(self)[name] for name in some}
    )
    options = export.ServingOptions(max_tokens=64, max_new_tokens=8)
    path = export.export_model(lm, tmp_path / "1", options)
    served = tf.saved_model.load(str(path)).signatures
    texts = ["def first", "the quick brown fox"]
    scores = served["score"](text=tf.constant(texts))
    expected = lm.score(texts, final=False)
    for i, row in enumerate(expected.log_probabilities):
        there = row[np.isfinite(row)]
        found = scores["log_probabilities"].numpy()[i]
        found = found[np.isfinite(found)][: len(there)]
        np.testing.assert_allclose(found, there, atol=1e-4)
    record_property("support", "yes")
