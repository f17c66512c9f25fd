"""The KerasHub task: presets that hold everything, fitting on texts, KerasHub's own models."""

import io
import os
import subprocess
import sys

import h5py
import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from lm_helpers import gpt2_body, random_ids

from fwl_keras import FWLBlock
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.models import (
    FWLCausalLM,
    KerasHubFWLCausalLM,
    TextPreprocessor,
    from_causal_lm,
    from_preset,
)
from fwl_keras.models.raw_texts import holds_text, tokenized

WIDTH, LENGTH = 8, 12
TEXTS = ["a ba cab", "dad had a bad ad", "a", "fed a bee"]


def gpt2_preprocessor():
    pieces = [*"abcdefgh", "\u0120", "\u0120a", "ad", "<|endoftext|>"]
    tokenizer = keras_hub.models.GPT2Tokenizer(
        {piece: i for i, piece in enumerate(pieces)}, ["\u0120 a", "a d"]
    )
    return keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=LENGTH)


def gpt2():
    backbone = keras_hub.models.GPT2Backbone(12, 1, 2, WIDTH, 16, max_sequence_length=32, dropout=0)
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=gpt2_preprocessor())


def gemma():
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5),
        model_writer=proto,
        vocab_size=24,
        model_type="BPE",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = keras_hub.models.GemmaTokenizer(proto.getvalue())
    backbone = keras_hub.models.GemmaBackbone(
        tokenizer.vocabulary_size(), 1, 2, 1, WIDTH, 16, 4, final_logit_soft_cap=3.0
    )
    preprocessor = keras_hub.models.GemmaCausalLMPreprocessor(tokenizer, sequence_length=LENGTH)
    return keras_hub.models.GemmaCausalLM(backbone=backbone, preprocessor=preprocessor)


def fine_tuned(causal_lm, what):
    """A model with fast weights after some training steps on `what`."""
    lm = from_causal_lm(causal_lm, segment_length=5, initial_step_size=0.1)
    if what == "block":
        lm.backbone.trainable = False
    elif what == "lora":
        lm.backbone.enable_lora(2)
    lm.compile(keras.optimizers.Adam(3e-2), run_eagerly=True, sampler="greedy")
    for _ in range(2):
        lm.train_on_batch(TEXTS)
    return lm


def ids_below(limit, *shape):
    return random_ids(*shape) % limit


def logits_of(lm, ids):
    return np.asarray(keras.ops.cast(lm(ids), "float32"))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (gpt2, "block"),
        (gemma, "all"),
        (gpt2, "lora"),
        pytest.param(gemma, "block", marks=pytest.mark.slow),
        pytest.param(gpt2, "all", marks=pytest.mark.slow),
        pytest.param(gemma, "lora", marks=pytest.mark.slow),
    ],
)
def test_a_preset_holds_everything(make, what, tmp_path):
    causal_lm = make()
    lm = fine_tuned(causal_lm, what)
    ids = ids_below(12, 2, 11)
    expected = logits_of(lm, ids)
    lm.save_to_preset(tmp_path / "preset")

    loaded = from_preset(tmp_path / "preset")
    assert type(loaded) is KerasHubFWLCausalLM
    np.testing.assert_allclose(logits_of(loaded, ids), expected, rtol=0, atol=1e-6)
    # From texts on.
    loaded.compile(run_eagerly=True)
    found, expected = (one.test_on_batch(TEXTS, return_dict=True) for one in (loaded, lm))
    assert found == pytest.approx(expected, abs=1e-6)

    # The unembedding is stored once and tied again.
    embedding = loaded.backbone.token_embedding
    assert loaded.block.unembedding.layer is embedding
    stored = []
    with h5py.File(tmp_path / "preset" / "task.weights.h5") as file:
        file.visititems(lambda _, x: stored.append(getattr(x, "size", 0)))
    own = [v for v in lm.block.variables if v is not lm.backbone.token_embedding.embeddings]
    assert sum(stored) == sum(np.prod(v.shape, dtype=int) for v in own)
    assert len(loaded.variables) == len({id(v) for v in loaded.variables})


@pytest.mark.slow
def test_a_coarse_block_begins_with_clusters_and_is_part_of_a_preset(tmp_path):
    causal_lm = gemma()
    lm = from_causal_lm(causal_lm, segment_length=5, inner_loss="coarse", codebook_size=4)
    embeddings = np.asarray(causal_lm.backbone.token_embedding.embeddings)
    means = np.asarray(lm.block.codebook.vectors)
    nearest = np.linalg.norm(embeddings[:, None] - means, axis=-1).argmin(axis=1)
    sizes = np.bincount(nearest, minlength=4)
    np.testing.assert_allclose(np.exp(lm.block.codebook.bias), sizes, rtol=1e-4)
    ids = ids_below(12, 2, 11)
    lm.save_to_preset(tmp_path / "preset")
    loaded = from_preset(tmp_path / "preset")
    assert loaded.block.inner_loss == "coarse"
    np.testing.assert_allclose(logits_of(loaded, ids), logits_of(lm, ids), atol=1e-5)


def test_kerashub_reads_its_own_part(tmp_path):
    causal_lm = gpt2()
    lm = fine_tuned(causal_lm, "all")
    path = str(tmp_path / "preset")
    lm.save_to_preset(path)
    backbone = keras_hub.models.Backbone.from_preset(path)
    for found, expected in zip(backbone.weights, lm.backbone.weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(path)
    assert tokenizer(TEXTS[1]).tolist() == causal_lm.preprocessor.tokenizer(TEXTS[1]).tolist()
    # A model without the block would be another one.
    for name in ("CausalLM", "GPT2CausalLM"):
        with pytest.raises(ValueError, match=r"fwl_keras\.models\.from_preset"):
            getattr(keras_hub.models, name).from_preset(path)


def test_dtypes_and_random_weights(tmp_path):
    lm = fine_tuned(gpt2(), "all")
    ids = ids_below(12, 2, 11)
    lm.save_to_preset(tmp_path / "float32")

    half = from_preset(tmp_path / "float32", dtype="bfloat16")
    for layer in (half, half.backbone, half.block, half.block.expand):
        assert layer.compute_dtype == "bfloat16"
    assert half.backbone.token_embedding.embeddings.dtype == "bfloat16"
    difference = np.abs(logits_of(half, ids) - logits_of(lm, ids)).max()
    assert 0 < difference < 0.1 * np.abs(logits_of(lm, ids)).max()

    # As KerasHub: weights in one dtype are loaded in Keras' own, a mixed policy stays.
    half.save_to_preset(tmp_path / "bfloat16")
    full = from_preset(tmp_path / "bfloat16")
    assert {v.dtype for v in full.weights} == {"float32"}
    np.testing.assert_allclose(logits_of(full, ids), logits_of(lm, ids), atol=0.1)
    mixed = from_preset(tmp_path / "float32", dtype="mixed_bfloat16")
    mixed.save_to_preset(tmp_path / "mixed")
    again = from_preset(tmp_path / "mixed")
    assert again.block.dtype_policy.name == again.backbone.dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_array_equal(logits_of(again, ids), logits_of(mixed, ids))

    other = from_preset(tmp_path / "float32", load_weights=False)
    for found, trained in (
        (other.backbone.token_embedding.embeddings, lm.backbone.token_embedding.embeddings),
        (other.block.expand.kernel, lm.block.expand.kernel),
    ):
        assert np.abs(np.array(found) - np.array(trained)).max() > 1e-3
    x, _, _ = other.preprocessor(TEXTS)
    np.testing.assert_array_equal(x["token_ids"], lm.preprocessor(TEXTS)[0]["token_ids"])


def test_plain_presets_get_a_block(tmp_path):
    causal_lm = gpt2()
    path = tmp_path / "plain"
    causal_lm.save_to_preset(str(path))
    lm = from_preset(path, segment_length=7, dtype="mixed_bfloat16")
    assert lm.block.segment_length == 7
    assert lm.block.compute_dtype == lm.backbone.compute_dtype == "bfloat16"
    with pytest.raises(ValueError, match="saved without fast weights"):
        KerasHubFWLCausalLM.from_preset(path)


def test_what_is_refused(tmp_path):
    lm = from_causal_lm(gpt2())
    path = tmp_path / "preset"
    lm.save_to_preset(path)
    files = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    with pytest.raises(ValueError, match="not an empty directory"):
        lm.save_to_preset(path)
    assert files == {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    with pytest.raises(ValueError, match="`segment_length` cannot be given for"):
        from_preset(path, segment_length=7)
    with pytest.raises(ValueError, match="`size` cannot be given"):
        from_preset(path, 8)
    with pytest.raises(ValueError, match="`residual` cannot be given"):
        KerasHubFWLCausalLM.from_preset(path, residual=False)
    with pytest.raises(ValueError, match=r"`backbone` must be a keras_hub.models.Backbone"):
        KerasHubFWLCausalLM(keras.layers.Embedding(5, 8), FWLBlock(8, 5))


def test_a_preset_is_whole_or_not_there(tmp_path, monkeypatch):
    lm = from_causal_lm(gpt2())

    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(lm, "save_task_weights", stop)
    with pytest.raises(KeyboardInterrupt):
        lm.save_to_preset(tmp_path / "preset")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_ours_in_a_preset(tmp_path):
    causal_lm = gpt2()
    causal_lm.preprocessor = None
    lm = from_causal_lm(causal_lm)
    tokenizer = SentencePieceTokenizer.train(TEXTS * 20, 300)
    lm = FWLCausalLM(gpt2_body(), FWLBlock(WIDTH, 23), preprocessor=TextPreprocessor(tokenizer))
    lm = KerasHubFWLCausalLM(lm.backbone, lm.block, preprocessor=lm.preprocessor, pad_token_id=0)
    lm.save_to_preset(tmp_path / "preset")
    loaded = from_preset(tmp_path / "preset")
    assert loaded.preprocessor.tokenizer.proto == tokenizer.proto
    assert loaded.pad_token_id == 0
    with pytest.raises(ValueError, match="the model has TextPreprocessor"):
        lm.train_on_batch(TEXTS)


FORMS = {
    "list": TEXTS,
    "array": np.array(TEXTS),
    "objects": np.array(TEXTS, object),
    "bytes": [text.encode() for text in TEXTS],
    "tensor": tf.constant(TEXTS),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_texts(form):
    """The oracle: KerasHub's preprocessor."""
    preprocessor = gpt2_preprocessor()
    expected = preprocessor(TEXTS)
    found = tokenized(preprocessor, FORMS[form])
    keras.tree.map_structure(np.testing.assert_array_equal, found, tuple(expected))
    dataset = tf.data.Dataset.from_tensor_slices(FORMS[form]).batch(3)
    mapped, *nothing = tokenized(preprocessor, dataset)
    assert nothing == [None, None]
    batches = list(mapped.as_numpy_iterator())
    np.testing.assert_array_equal(
        np.concatenate([x["token_ids"] for x, _, _ in batches]), expected[0]["token_ids"]
    )


def test_what_holds_text():
    for form in FORMS.values():
        assert holds_text(form)
        assert holds_text({"x": form})
        assert holds_text(tf.data.Dataset.from_tensor_slices(form))
    ids = random_ids(4, 9)
    for other in (ids, ids.tolist(), tf.constant(ids), None, (ids, ids), {"token_ids": ids}):
        assert not holds_text(other)
    assert not holds_text(tf.data.Dataset.from_tensor_slices(ids))
    assert not holds_text(text for text in TEXTS)


def test_batches_of_texts():
    causal_lm = gpt2()
    lm = from_causal_lm(causal_lm, segment_length=5, initial_step_size=0.1)
    lm.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    x, y, weights = causal_lm.preprocessor(TEXTS)
    # The oracle: KerasHub's preprocessor, then a model that knows nothing of texts.
    plain = FWLCausalLM(lm.backbone, lm.block)
    plain.compile(run_eagerly=True)
    expected = plain.test_on_batch(x, y, weights)
    assert lm.test_on_batch(TEXTS) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(lm.predict_on_batch(TEXTS), plain.predict_on_batch(x), atol=1e-5)
    first = lm.train_on_batch(TEXTS, return_dict=True)["loss"]
    assert lm.train_on_batch(TEXTS, return_dict=True)["loss"] < first


@pytest.mark.slow
def test_fit_on_texts():
    lm = from_causal_lm(gpt2(), segment_length=5, initial_step_size=0.1)
    lm.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    x, y, weights = lm.preprocessor(TEXTS)
    plain = FWLCausalLM(lm.backbone, lm.block)
    plain.compile(jit_compile=False)
    expected = plain.evaluate(x, y, sample_weight=weights, batch_size=2, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS).batch(2)
    for texts, batch_size in ((TEXTS, 2), (dataset, None)):
        found = lm.evaluate(texts, batch_size=batch_size, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert lm.predict(TEXTS, verbose=0).shape == (4, LENGTH, 12)

    history = lm.fit(TEXTS, batch_size=2, epochs=2, verbose=0, validation_data=dataset).history
    assert history["loss"][1] < history["loss"][0]
    assert {"val_loss", "val_perplexity"} <= set(history)
    lm.fit(dataset, verbose=0, validation_data=TEXTS)
    lm.fit(np.array(TEXTS), verbose=0, validation_split=0.5)


def test_token_ids_are_not_preprocessed(monkeypatch):
    lm = from_causal_lm(gpt2(), segment_length=5)
    lm.compile(run_eagerly=True)

    def never(*args, **kwargs):
        raise AssertionError("token ids went through the preprocessor")

    monkeypatch.setattr(type(lm.preprocessor), "call", never)
    ids = ids_below(12, 2, 5)
    lm.fit(ids, verbose=0, validation_data=(ids,))
    lm.fit(((ids,) for _ in range(2)), steps_per_epoch=1, verbose=0)
    mask = np.ones_like(ids)
    assert lm.test_on_batch({"token_ids": ids, "padding_mask": mask}) == pytest.approx(
        lm.evaluate(ids, verbose=0), abs=1e-6
    )


def test_a_pad_token_that_is_a_word():
    """GPT-2 pads with the id of a piece of text, here "a"."""
    lm = from_causal_lm(gpt2())
    assert lm.preprocessor.tokenizer.pad_token_id == lm.preprocessor.tokenizer("a")[0] == 0
    assert lm.pad_token_id is None
    assert lm.codec.decode(lm.codec.rows("a ba cab", "x").ids[0]) == "a ba cab"
    ids = lm.codec.rows(np.array([[1, 0, 0]]), "x").ids[0]
    assert ids.tolist() == [1, 0, 0]
    assert from_causal_lm(gemma()).pad_token_id == 0


def test_texts_that_do_not_fit():
    lm = from_causal_lm(gpt2())
    lm.compile()
    with pytest.raises(ValueError, match="a batch of texts"):
        lm.fit(TEXTS[0])
    with pytest.raises(ValueError, match=r"dataset\.batch"):
        lm.fit(tf.data.Dataset.from_tensor_slices(TEXTS))
    with pytest.raises(ValueError, match="`y` cannot be given with texts"):
        lm.fit(TEXTS, TEXTS)
    with pytest.raises(ValueError, match="`sample_weight` cannot be given with texts"):
        lm.evaluate(TEXTS, sample_weight=np.ones(4))
    lm.preprocessor = None
    with pytest.raises(ValueError, match="the model has NoneType"):
        lm.fit(TEXTS)


def test_other_tasks_go_on_working():
    """Keras gives all tasks other base classes whenever it makes a functional one."""
    causal_lm = gpt2()
    ids = ids_below(12, 2, 9)
    text = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    before = np.asarray(causal_lm(text))
    lm = from_causal_lm(causal_lm)
    np.testing.assert_array_equal(causal_lm(text), before)
    logits = logits_of(lm, ids)
    gemma()
    np.testing.assert_array_equal(logits_of(lm, ids), logits)
    assert isinstance(lm, keras_hub.models.Task)
    assert not isinstance(lm, keras.Function)
    assert lm(keras.KerasTensor((None, 7), "int32")).shape == (None, 7, 12)


def test_summary_and_names():
    lm = from_causal_lm(gpt2())
    lines = []
    lm.summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    assert 'Preprocessor: "gpt2' in text
    assert "fwl_block" in text
    assert f"{lm.count_params():,}" in text
    import fwl_keras.models

    assert "from_preset" in dir(fwl_keras.models)
    with pytest.raises(AttributeError, match="no attribute 'from_nowhere'"):
        _ = fwl_keras.models.from_nowhere


@pytest.mark.slow
def test_a_file_is_loaded_without_importing_more(tmp_path):
    lm = from_causal_lm(gpt2())
    lm.save(tmp_path / "lm.keras")
    code = (
        "import sys, keras, fwl_keras\n"
        "assert 'keras_hub' not in sys.modules\n"
        f"lm = keras.saving.load_model({str(tmp_path / 'lm.keras')!r})\n"
        "assert not lm.compiled\n"
        "print(type(lm).__name__, lm.generate('a ba', 6, stop_token_ids=None))\n"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.startswith("KerasHubFWLCausalLM a ba"), done.stderr


@pytest.mark.slow
def test_a_loaded_preset_writes_the_same(tmp_path):
    lm = fine_tuned(gemma(), "all")
    lm.save_to_preset(tmp_path / "preset")
    loaded = from_preset(tmp_path / "preset")
    loaded.compile(sampler="greedy")
    lm.compile(sampler="greedy")
    found, expected = (one.score(TEXTS).log_probabilities for one in (loaded, lm))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert loaded.generate(TEXTS[:2], 20) == lm.generate(TEXTS[:2], 20)
