"""Every argument of the model's methods is checked at the door."""

from types import SimpleNamespace

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from lm_helpers import WIDTH, V, language_model, random_ids

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.backbones import RecurrentBackbone
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.evaluation import document_losses
from fwl_keras.models import TextPreprocessor

pytestmark = pytest.mark.eager


@pytest.fixture(scope="module")
def lm():
    keras.utils.set_random_seed(1)
    lm = language_model("recurrent")
    lm.compile(sampler="greedy", run_eagerly=True)
    return lm


@pytest.fixture(scope="module")
def text_lm():
    keras.utils.set_random_seed(1)
    tokenizer = SentencePieceTokenizer.train(["the man and the dog saw the man\n"] * 9, 300)
    size = tokenizer.vocab_size
    body = RecurrentBackbone([keras.layers.Embedding(size, WIDTH), keras.layers.GRU(WIDTH)])
    lm = FWLCausalLM(
        body, FWLBlock(WIDTH, size, segment_length=5), preprocessor=TextPreprocessor(tokenizer)
    )
    lm.compile(sampler="greedy", run_eagerly=True)
    return lm


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop_token_ids": 3}, "`stop_token_ids` must be"),
        ({"stop_token_ids": "end"}, "`stop_token_ids` must be"),
        ({"stop_token_ids": (5.7,)}, "`stop_token_ids` must be"),
        ({"stop_token_ids": (True,)}, "`stop_token_ids` must be"),
        ({"stop_token_ids": np.array([1.0])}, "`stop_token_ids` must be"),
        ({"stop_token_ids": (V,)}, rf"`stop_token_ids` has the id {V}, which is outside"),
        ({"stop_token_ids": [-1]}, "`stop_token_ids` has the id -1"),
        ({"seed": 1.5}, "`seed` must be"),
        ({"seed": "1"}, "`seed` must be"),
        ({"seed": True}, "`seed` must be"),
        ({"seed": 2**32}, "`seed` must be"),
        ({"seed": [1.5]}, r"`seed\[0\]` must be"),
        ({"seed": [-1]}, r"`seed\[0\]` must be"),
        ({"max_length": True}, "`max_length` must be"),
        ({"max_length": 8.0}, "`max_length` must be"),
        ({"strip_prompt": "no"}, "`strip_prompt` must be"),
        ({"return_state": 1}, "`return_state` must be"),
        ({"use_cache": None}, "`use_cache` must be"),
        ({"adapt_while_generating": "yes"}, "`adapt_while_generating` must be"),
    ],
)
def test_generate(lm, settings, message):
    arguments = {"prompts": [[1, 2, 3]], "max_length": 8, "stop_token_ids": None, **settings}
    with pytest.raises(ValueError, match=message):
        lm.generate(**arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens_at_once": 0}, "`tokens_at_once` must be"),
        ({"tokens_at_once": 1.5}, "`tokens_at_once` must be"),
        ({"prompt": [[1], [2]]}, "`prompt` must be one text"),
        ({"seed": 1.5}, "`seed` must be"),
    ],
)
def test_stream(lm, settings, message):
    arguments = {"prompt": [1, 2], "max_length": 8, "stop_token_ids": None, **settings}
    with pytest.raises(ValueError, match=message):
        lm.stream(**arguments)


def test_stop_tokens_of_any_kind_stop(lm):
    free = lm.generate([[1, 2]], 8, stop_token_ids=None)["token_ids"][0]
    stop = int(free[4])
    end = 3 + int(np.flatnonzero(free[2:] == stop)[0])
    kinds = ((stop,), [stop], {stop}, np.array([stop]), tf.constant([stop]), [np.int32(stop)])
    for kind in kinds:
        mask = lm.generate([[1, 2]], 8, stop_token_ids=kind)["padding_mask"]
        assert mask.sum() == end, kind
    # The id 0 is one like any other.
    lm.block.unembedding.bias.assign(np.where(np.arange(V) == 0, 50.0, 0.0).astype("float32"))
    try:
        found = lm.generate([[1, 2]], 8, stop_token_ids=np.array([0]))
        assert found["padding_mask"].sum() == 3
    finally:
        lm.block.unembedding.bias.assign(np.zeros(V, "float32"))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("read", {"passes": 0}, "`passes` must be"),
        ("read", {"passes": True}, "`passes` must be"),
        ("read", {"final": 1}, "`final` must be"),
        ("read", {"progress": "no"}, "`progress` must be"),
        ("read", {"final": True}, "append the end token"),
        ("score", {"use_fast_weights": "no"}, "`use_fast_weights` must be"),
        ("score", {"final": None}, "`final` must be"),
        ("score", {"state": {}}, "`state` must be a dict"),
        ("initial_state", {"batch_size": 0}, "`batch_size` must be"),
        ("initial_state", {"batch_size": 1.5}, "`batch_size` must be"),
        ("initial_state", {"batch_size": 1, "carry_context": 1}, "`carry_context` must be"),
        ("initial_state", {"batch_size": 1, "context_length": 0}, "`context_length` must be"),
        ("carry_state", {"batch_size": 0}, "`batch_size` must be"),
        ("carry_state", {"batch_size": 2, "groups": 0}, "`groups` must be"),
        ("carry_state", {"batch_size": 2, "carry_context": 1}, "`carry_context` must be"),
        ("document_state", {"batch_size": 0, "carry_context": False}, "`batch_size` must be"),
    ],
)
def test_read_score_and_states(lm, method, settings, message):
    inputs = {"inputs": [[1, 2, 3]]} if method in ("read", "score") else {}
    with pytest.raises(ValueError, match=message):
        getattr(lm, method)(**inputs, **settings)


def test_the_constructor():
    body, block = keras.layers.Embedding(V, WIDTH), FWLBlock(WIDTH, V)
    for settings, message in (
        ({"context_length": 0}, "`context_length` must be"),
        ({"pad_token_id": 1.5}, "`pad_token_id` must be"),
        ({"pad_token_id": -1}, "`pad_token_id` must be"),
        ({"block": "block"}, "`block` must be"),
        ({"backbone": len}, "`backbone` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            FWLCausalLM(**{"backbone": body, "block": block, **settings})


@pytest.mark.parametrize("samples", [[], np.zeros((0, 3), "int32")])
def test_nothing(lm, samples):
    with pytest.raises(ValueError, match="`inputs` is empty"):
        lm.score(samples)


@pytest.mark.parametrize(
    "wrong",
    [
        [[1.5, 2.0]],
        np.array([1.5, 2.0]),
        np.array([[1.5, 2.0]]),
        [True, False],
        np.array([True, False]),
        np.array(3),
        np.zeros((1, 2, 3), "int32"),
        5,
        {"token_ids": np.array([[1.5]]), "padding_mask": np.ones((1, 1), bool)},
        {"token_ids": np.array([[1]])},
        {"token_ids": np.array([[1]]), "padding_mask": np.ones((1, 2), bool)},
        {"token_ids": np.array([[1, 2]]), "padding_mask": np.array([[False, True]])},
        [[1, V]],
        np.array([["a", "b"]]),
    ],
)
def test_what_are_no_inputs(lm, wrong):
    with pytest.raises(ValueError, match="`inputs"):
        lm.codec.rows(wrong, "inputs")


def test_the_end_of_a_text_needs_a_token(lm, monkeypatch):
    bytes_alone = SimpleNamespace(tokenizer=keras_hub.tokenizers.ByteTokenizer())
    monkeypatch.setattr(lm, "preprocessor", bytes_alone)
    with pytest.raises(ValueError, match="needs a tokeniser with an end token"):
        lm.read("\x01\x02", final=True)


def test_bytes_that_are_no_text(text_lm):
    with pytest.raises(ValueError, match="`prompts` is not UTF-8 in row 1"):
        text_lm.generate(["a", b"\xff"], 8)


def test_texts_of_every_kind(text_lm):
    texts = ["the man", "dog"]
    expected = [ids.tolist() for ids in text_lm.codec.rows(texts, "x").ids]
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    for kind in (
        tuple(texts),
        [one.encode() for one in texts],
        np.array(texts),
        np.array(texts, object),
        tf.constant(texts),
        dataset.batch(1),
        dataset.batch(2),
    ):
        rows = text_lm.codec.rows(kind, "x")
        assert rows.is_text and not rows.is_single
        assert [ids.tolist() for ids in rows.ids] == expected
    for one in (tf.constant("dog"), np.array("dog"), np.str_("dog"), b"dog"):
        rows = text_lm.codec.rows(one, "x")
        assert rows.is_single and rows.ids[0].tolist() == expected[1]


def test_ids_of_every_kind(lm):
    expected = [[1, 2, 3], [4, 5]]
    padded = {"token_ids": [[1, 2, 3], [4, 5, 0]], "padding_mask": [[1, 1, 1], [1, 1, 0]]}
    arrays = {name: np.array(value) for name, value in padded.items()}
    dataset = tf.data.Dataset.from_tensor_slices(arrays)
    ragged = tf.ragged.constant(expected)
    for kind in (
        expected,
        [np.array(row) for row in expected],
        arrays,
        {name: tf.constant(value) for name, value in padded.items()},
        dataset.batch(1),
        dataset.batch(2),
        ragged,
        tf.data.Dataset.from_tensors(ragged),
    ):
        rows = lm.codec.rows(kind, "x")
        assert not rows.is_text and [ids.tolist() for ids in rows.ids] == expected


def test_a_dataset_is_written_on_and_scored(text_lm):
    texts = ["the man", "dog", "the"]
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(2)
    assert text_lm.generate(dataset, 8, seed=1) == text_lm.generate(texts, 8, seed=1)
    assert text_lm.generate(tf.constant("dog"), 8) == text_lm.generate("dog", 8)
    np.testing.assert_array_equal(
        text_lm.score(dataset).log_probabilities, text_lm.score(texts).log_probabilities
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d, "single rows"),
        (lambda d: d.batch(2).repeat(), "without an end"),
        (lambda d: d.batch(2).map(lambda x: (x, x)), "tuples"),
        (lambda d: d.take(0).batch(2), "without a batch"),
        (lambda d: tf.data.Dataset.from_tensor_slices(np.zeros((3, 4), "int32")), "single rows"),
    ],
)
def test_datasets_that_are_none_of_batches(text_lm, make, message):
    with pytest.raises(ValueError, match=rf"`inputs` is a dataset.*{message}|{message}"):
        text_lm.read(make(tf.data.Dataset.from_tensor_slices(["a", "b"])))


# What Keras would do silently, or with a warning.


def train_once(lm, **settings):
    return lm.fit(random_ids(2, 6), batch_size=2, verbose=0, **settings)


def test_frozen_after_compile():
    lm = language_model("plain", segment_length=8)
    lm.compile("sgd", run_eagerly=True)
    lm.trainable = False
    before = [np.array(v) for v in lm.weights]
    for train in (lm.fit, lm.train_on_batch):
        with pytest.raises(ValueError, match="nothing to train"):
            train(random_ids(2, 6))
    assert not lm.optimizer.built
    lm.trainable = True
    lm.backbone.trainable = False
    with pytest.raises(ValueError, match="compile"):
        train_once(lm)
    for value, weight in zip(before, lm.weights, strict=True):
        np.testing.assert_array_equal(value, weight)
    lm.compile("sgd", run_eagerly=True)
    body = [np.array(v) for v in lm.backbone.weights]
    kernel = np.array(lm.block.expand.kernel)
    train_once(lm)
    for value, weight in zip(body, lm.backbone.weights, strict=True):
        np.testing.assert_array_equal(value, weight)
    assert (kernel != np.array(lm.block.expand.kernel)).any()


def test_not_compiled():
    with pytest.raises(ValueError, match="compile"):
        train_once(language_model("plain"))


@pytest.mark.parametrize(
    ("monitor", "better"),
    [
        ("val_perplexity", "less"),
        ("perplexity", "less"),
        ("val_adaptation_gain", "greater"),
        ("val_total_gain", "greater"),
        ("val_loss", "less"),
    ],
)
def test_callbacks_know_the_direction(lm, monitor, better, tmp_path):
    callbacks = [
        keras.callbacks.EarlyStopping(monitor),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "a.weights.h5", monitor, save_best_only=True, save_weights_only=True
        ),
    ]
    train_once(lm, validation_data=(random_ids(2, 6),), callbacks=callbacks)
    assert [one.monitor_op.__name__ for one in callbacks] == [better, better]
    assert (tmp_path / "a.weights.h5").exists()


def test_a_mode_that_is_given_stays(lm):
    early = keras.callbacks.EarlyStopping("val_perplexity", mode="max")
    train_once(lm, validation_data=(random_ids(2, 6),), callbacks=[early])
    assert early.monitor_op.__name__ == "greater"


@pytest.mark.parametrize("name", ["lm.h5", "lm.hdf5"])
def test_hdf5_is_refused(lm, tmp_path, name):
    with pytest.raises(ValueError, match="cannot be loaded"):
        lm.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_quantize_is_refused_before_anything_is_changed(lm):
    before = [(v.path, v.dtype) for v in lm.variables]
    with pytest.raises(ValueError, match="cannot be quantized"):
        lm.quantize("int8")
    assert [(v.path, v.dtype) for v in lm.variables] == before


def test_a_quantized_backbone(tmp_path):
    """What the error proposes instead."""
    layers = [keras.layers.Embedding(V, WIDTH), keras.layers.Dense(WIDTH)]
    body = keras.Sequential(layers)
    body.build((None, None))
    ids = random_ids(2, 6)
    exact = FWLCausalLM(body, FWLBlock(WIDTH, V))
    exact.compile(run_eagerly=True)
    expected = exact.score(ids).log_probabilities
    body.quantize("int8")
    lm = FWLCausalLM(body, exact.block)
    lm.compile(run_eagerly=True)
    np.testing.assert_allclose(lm.score(ids).log_probabilities, expected, atol=0.02)
    lm.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras")
    np.testing.assert_allclose(
        loaded.score(ids).log_probabilities, lm.score(ids).log_probabilities, atol=1e-5
    )


def test_a_quantized_unembedding_is_refused():
    embedding = keras.layers.ReversibleEmbedding(V, WIDTH)
    embedding.build(None)
    embedding.quantize("int8")
    with pytest.raises(ValueError, match="`unembedding` is quantized"):
        FWLBlock(WIDTH, V, unembedding=embedding)
    later = keras.layers.ReversibleEmbedding(V, WIDTH)
    block = FWLBlock(WIDTH, V, unembedding=later)
    block.build((None, None, WIDTH))
    later.quantize("int8")
    with pytest.raises(ValueError, match="`unembedding` is quantized"):
        block(np.zeros((1, 2, WIDTH), "float32"))


def test_recurrent_backbones():
    with pytest.raises(ValueError, match="`layers` is empty"):
        RecurrentBackbone([])
    with pytest.raises(ValueError, match="reads backwards"):
        RecurrentBackbone([keras.layers.Embedding(V, 2), keras.layers.GRU(2, go_backwards=True)])


def test_samplers_without_a_name():
    lm = language_model("plain")
    lm.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=2), run_eagerly=True)
    with pytest.raises(ValueError, match="cannot be streamed"):
        lm.stream([1, 2], 8, stop_token_ids=None)


def test_a_tied_embedding_that_is_not_there():
    parts = {
        "backbone": keras.layers.Embedding(V, WIDTH),
        "block": FWLBlock(WIDTH, V, unembedding="lost"),
    }
    with pytest.raises(ValueError, match="'lost', which is not a layer of the backbone"):
        FWLCausalLM.from_config(parts)


def test_beam_search_in_one_context():
    lm = language_model("plain", context_length=4)
    lm.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=2), run_eagerly=True)
    with pytest.raises(ValueError, match="Beam search cannot begin a new context"):
        lm.generate([[1, 2]], 8, stop_token_ids=None)


def test_a_context_without_a_state(lm):
    marks = {"eos_id": 1, "pad_id": 0}
    with pytest.raises(ValueError, match="`carry_context=True` needs `carry=True`"):
        document_losses(lm, [[1, 2]], length=2, carry=False, carry_context=True, **marks)


def test_a_cache_is_not_carried_for_rows_one_by_one():
    with pytest.raises(ValueError, match=r"backbone whose rows go on one by one.*GemmaBackbone"):
        language_model("gemma").carry_state(2, carry_context=True)


def test_a_saved_model_is_tensorflows(monkeypatch):
    lm = language_model()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="needs the TensorFlow backend; Keras uses 'jax'"):
        lm.export("models/never/1")


def test_a_task_that_reads_more_than_text():
    from unittest import mock

    import keras_hub

    from fwl_keras.models import from_causal_lm

    task = mock.Mock(spec=keras_hub.models.CausalLM)
    task.backbone = mock.Mock(input={"token_ids": 0, "padding_mask": 0, "images": 0})
    with pytest.raises(ValueError, match=r"must read text alone .*images"):
        from_causal_lm(task)
