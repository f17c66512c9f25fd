"""Bodies of Keras 2 layers: Keras trains, saves and exports every variable; memories are exact."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from lm_helpers import JIT, WIDTH, V, all_log_probabilities, random_ids

from fwl_keras import FWLBlock, FWLCausalLM

tf_keras = pytest.importorskip("tf_keras")
pytest.importorskip("official", reason="needs tf-models-official")
tf = pytest.importorskip("tensorflow")

from fwl_keras.backbones import (  # noqa: E402
    EncoderBlockBackbone,
    Keras2Layer,
    TransformerXLBackbone,
)
from fwl_keras.data import DocumentBatches  # noqa: E402
from fwl_keras.evaluation import document_losses  # noqa: E402


def transformer_xl(memory_length=16, **settings):
    return TransformerXLBackbone(V, 2, WIDTH, 2, 16, memory_length, **settings)


def encoder_blocks(**settings):
    return EncoderBlockBackbone(V, 2, WIDTH, 2, 16, 16, **settings)


def language_model(body, **block):
    settings = {"segment_length": 5, "initial_step_size": 0.3, **block}
    unembedding = body.token_embedding
    return FWLCausalLM(body, FWLBlock(WIDTH, V, unembedding=unembedding, **settings))


# Of the tests' helpers, and of the package.
PATHS = Path(__file__).parents[1:3]

BODIES = pytest.mark.parametrize("make", [transformer_xl, encoder_blocks])


def weights(model):
    return {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.variables}


# ------------------------------------------------------------------------------ the adapter


def test_keras_sees_and_trains_every_variable():
    layer = tf_keras.Sequential([tf_keras.layers.Dense(4), tf_keras.layers.BatchNormalization()])
    adapter = Keras2Layer(layer, frozen=["gamma"])
    model = keras.Sequential([keras.Input((3,)), adapter, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    assert len(adapter.variables) == len(layer.variables) == 6
    # Kernel, bias and beta; gamma is frozen, the moving statistics never were trainable.
    assert sorted(v.name for v in adapter.trainable_variables) == ["beta", "bias", "kernel"]
    before = weights(model)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    model.fit(x, x[:, :1], verbose=0)
    same = {path for path, value in weights(model).items() if np.array_equal(value, before[path])}
    # The dense layer's bias goes through a normalisation: its gradient is zero but for rounding.
    assert {path.rpartition("/")[-1] for path in same} - {"bias"} == {"gamma"}
    # The moving statistics follow in training only: the flag arrives.
    mean = adapter.layer.layers[1].moving_mean.numpy()
    assert np.abs(mean).max() > 0
    model(x)
    np.testing.assert_array_equal(mean, adapter.layer.layers[1].moving_mean.numpy())


def test_losses_are_passed_on():
    layer = tf_keras.layers.Dense(2, kernel_regularizer=tf_keras.regularizers.L2(0.5))
    adapter = Keras2Layer(layer)
    adapter(np.ones((1, 3), "float32"))
    (loss,) = adapter.losses
    assert float(loss) == pytest.approx(0.5 * float(np.sum(layer.kernel.numpy() ** 2)), rel=1e-5)


def test_dropout_only_in_training():
    adapter = Keras2Layer(tf_keras.layers.Dropout(0.5))
    x = np.ones((1, 100), "float32")
    np.testing.assert_array_equal(adapter(x), x)
    assert 0 < (np.asarray(adapter(x, training=True)) == 0).sum() < 100


def test_the_flag_reaches_layers_within_layers_that_do_not_take_it():
    """TransformerXL.call has no `training` argument; its dropouts are two layers down."""
    body = transformer_xl(dropout=0.5)
    ids = random_ids(1, 6)
    first = np.asarray(body(ids, training=True))
    assert np.abs(first - np.asarray(body(ids, training=True))).max() > 1e-3
    np.testing.assert_array_equal(body(ids), body(ids))


def test_16_bit():
    adapter = Keras2Layer(tf_keras.layers.Dense(2, dtype="mixed_bfloat16"))
    model = keras.Sequential([keras.Input((3,)), adapter])
    model.compile("sgd", "mse")
    assert adapter.dtype_policy.name == "mixed_bfloat16"
    assert {v.dtype for v in adapter.variables} == {"float32"}
    assert model(np.ones((1, 3))).dtype == "bfloat16"
    before = weights(model)
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert all(not np.array_equal(value, before[path]) for path, value in weights(model).items())
    for make in (transformer_xl, encoder_blocks):
        body = make(dtype="mixed_bfloat16")
        assert body(random_ids(1, 4)).dtype == "bfloat16"
        assert {v.dtype for v in body.variables} == {"float32"}


def test_adapter_errors():
    with pytest.raises(ValueError, match="must be a layer of Keras 2"):
        Keras2Layer(keras.layers.Dense(2))
    with pytest.raises(ValueError, match="`dtype`='bfloat16' must be the policy"):
        Keras2Layer(tf_keras.layers.Dense(2), dtype="bfloat16")
    with pytest.raises(ValueError, match=r"`frozen` has \['nothing'\]"):
        Keras2Layer(tf_keras.layers.Dense(2), frozen=["nothing"])(np.ones((1, 3)))


# ------------------------------------------------------------------------------- the bodies


@BODIES
def test_a_feature_sees_the_past_alone(make):
    body, ids = make(), random_ids(2, 12)
    other = ids.copy()
    other[:, 7:] = random_ids(2, 5, seed=1)
    one, two = np.asarray(body(ids)), np.asarray(body(other))
    np.testing.assert_allclose(one[:, :7], two[:, :7], atol=1e-6)
    assert np.abs(one[:, 7:] - two[:, 7:]).max() > 1e-3
    # Padding behind a text, and a text's own padding, change nothing.
    mask = np.arange(12)[None] < np.array([[12], [7]])
    padded = np.asarray(body({"token_ids": other, "padding_mask": mask}))
    np.testing.assert_allclose(padded[1, :7], one[1, :7], atol=1e-6)


@BODIES
def test_training_saving_and_scores(make, tmp_path):
    lm, ids = language_model(make()), random_ids(8, 13)
    lm.compile(keras.optimizers.Adam(1e-2), jit_compile=JIT)
    created = len(lm.backbone.variables) + len(lm.block.variables)
    # The embedding is the block's, too.
    assert len({v.path for v in lm.variables if "metric" not in v.path}) == created - 1
    frozen = {v.path for v in lm.backbone.variables if not v.trainable}
    assert {path.rpartition("/")[-1] for path in frozen} == (
        {"segment_attention_bias"} if make is transformer_xl else set()
    )
    before = {v.path: np.array(v) for v in lm.trainable_variables}
    losses = [lm.train_on_batch(ids, return_dict=True)["loss"] for _ in range(4)]
    assert losses[3] < losses[0]
    same = {v.path for v in lm.trainable_variables if np.array_equal(before[v.path], np.array(v))}
    assert not same
    expected = lm.score(ids).log_probabilities
    lm.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras")
    np.testing.assert_allclose(loaded.score(ids).log_probabilities, expected, atol=1e-6)
    # The optimizer goes on where it stopped.
    np.testing.assert_allclose(loaded.train_on_batch(ids), lm.train_on_batch(ids), rtol=1e-5)


@BODIES
def test_gradients_are_finite_differences(make):
    """Through the adapter, of every tenth-ish weight: Keras 2's backward pass is the right one."""
    body, ids = make(), random_ids(2, 6)
    cotangent = np.random.default_rng(0).normal(size=(2, 6, WIDTH)).astype("float32")

    def objective():
        return tf.reduce_sum(body(ids) * cotangent)

    body(ids)
    with tf.GradientTape() as tape:
        value = objective()
    variables = [v.value for v in body.trainable_variables]
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(value, variables)]
    for variable, gradient in zip(variables, gradients, strict=True):
        direction = tf.sign(gradient)
        step = 1e-2 / max(1.0, float(tf.norm(direction)))
        variable.assign_add(step * direction)
        above = float(objective())
        variable.assign_sub(2 * step * direction)
        below = float(objective())
        variable.assign_add(step * direction)
        expected = float(tf.reduce_sum(gradient * direction))
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=0.03, abs=0.02), (
            variable.name
        )


@BODIES
def test_greedy_text_is_what_score_finds_likeliest(make):
    lm = language_model(make())
    lm.compile(sampler="greedy")
    prompts = [random_ids(3), random_ids(5, seed=1)]
    texts = {
        cached: lm.generate(prompts, 12, stop_token_ids=None, use_cache=cached)["token_ids"]
        for cached in (True, False)
    }
    np.testing.assert_array_equal(texts[True], texts[False])
    best = all_log_probabilities(lm, texts[True]).max(axis=-1)
    scores = lm.score(texts[True]).log_probabilities
    np.testing.assert_allclose(scores[0, 3:], best[0, 2:], atol=1e-4)
    np.testing.assert_allclose(scores[1, 5:], best[1, 4:], atol=1e-4)


# ------------------------------------------------------------------------------- the memory


def test_pieces_with_a_memory_are_one_call():
    """Rows cut at places of their own; the memory as long as the text, empty at the start."""
    lm, ids = language_model(transformer_xl()), random_ids(3, 16)
    expected = lm.score(ids).log_probabilities
    rng = np.random.default_rng(1)
    state, found = lm.initial_state(3, carry_context=True), [[], [], []]
    read = [0, 0, 0]
    while min(read) < 16:
        rows = [row[at : at + rng.integers(0, 6)] for row, at in zip(ids, read, strict=True)]
        score = lm.score(rows, state=state)
        state = score.state
        for i, row in enumerate(rows):
            found[i].append(score.log_probabilities[i, : row.size])
            read[i] += row.size
    np.testing.assert_array_equal(state["context_filled"], [16, 16, 16])
    np.testing.assert_allclose([np.concatenate(row) for row in found], expected, atol=1e-4)


def test_a_memory_is_what_transformer_xl_says():
    """The inputs of each layer for the last tokens, and nothing before them."""
    ids = random_ids(2, 12)
    changed = ids.copy()
    changed[:, 0] = (changed[:, 0] % (V - 1)) + 1
    body = transformer_xl(memory_length=4)

    def read(text, length):
        context = body.initial_context(2, length)
        for start in (0, 4, 8):
            features, context = body(text[:, start : start + 4], context=context)
        return np.asarray(features), context

    # Token 0 is 8 before the last window: seen through two layers with memories of 4 each.
    features, context = read(ids, 4)
    assert np.abs(features - read(changed, 4)[0]).max() > 1e-6
    np.testing.assert_array_equal(read(ids, 3)[0], read(changed, 3)[0])
    embedded = np.asarray(body.token_embedding(ids[:, 8:])) * WIDTH**0.5
    np.testing.assert_allclose(context["memory_0"], embedded, atol=1e-6)
    np.testing.assert_array_equal(context["filled"], [4, 4])


def test_an_empty_memory_is_masked():
    """Not zeros attended to: a text's first window does not depend on the memory's length."""
    body, ids = transformer_xl(), random_ids(2, 6)
    expected = np.asarray(body(ids))
    for length in (1, 3, 50):
        features, _ = body(ids, context=body.initial_context(2, length))
        np.testing.assert_allclose(features, expected, atol=1e-6)
    full = {**body.initial_context(2, 3), "filled": np.array([3, 0], "int32")}
    attended = np.asarray(body(ids, context=full)[0])
    assert np.abs(attended[0] - expected[0]).max() > 1e-3
    np.testing.assert_allclose(attended[1], expected[1], atol=1e-6)


def test_trained_and_measured_with_memory_and_state_carried():
    lm = language_model(transformer_xl(memory_length=6))
    documents = [random_ids(n, seed=n) for n in (31, 9, 22, 14)]
    ends = {"eos_id": 0, "pad_id": 0}
    batches = DocumentBatches(documents, 6, 2, steps=6, seed=0, **ends)
    lm.compile(keras.optimizers.Adam(1e-2), jit_compile=JIT)
    lm.carry_state(2, carry_context=True)
    lm.fit(batches.for_fit(), verbose=0)
    assert np.abs(np.asarray(lm.carried_state.values["context_memory_1"])).max() > 0
    losses = document_losses(lm, documents, length=6, batch_size=2, carry_context=True, **ends)
    # The same text, one row, one window after the other.
    text = np.insert(documents[0], 0, 0)
    state, found = lm.initial_state(1, carry_context=True), []
    for start in range(0, 31, 6):
        score = lm.score([text[start : start + 6]], state=state)
        state = score.state
        found.append(score.log_probabilities[0])
    last = lm.score([text[-1:]], state=state) if len(text) % 6 == 1 else None
    found = np.concatenate(found if last is None else [*found, last.log_probabilities[0]])
    np.testing.assert_allclose(-losses[0][: len(found) - 1], found[1:], atol=1e-4)


def test_another_process_loads_it(tmp_path):
    """With `import fwl_keras` alone: Keras finds the classes by itself."""
    lm = language_model(transformer_xl())
    lm.save(tmp_path / "lm.keras")
    np.save(tmp_path / "scores.npy", lm.score(random_ids(2, 9)).log_probabilities)
    code = (
        "import keras, numpy as np, fwl_keras\n"
        "from lm_helpers import random_ids\n"
        "lm = keras.saving.load_model('lm.keras')\n"
        "found = lm.score(random_ids(2, 9)).log_probabilities\n"
        "np.testing.assert_allclose(found, np.load('scores.npy'), atol=1e-5)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)


def test_body_errors():
    with pytest.raises(ValueError, match=r"`width`=6 must be a multiple of 2 \* `num_heads` = 4"):
        TransformerXLBackbone(V, 1, 6, 2)
    with pytest.raises(ValueError, match="`memory_length` must be"):
        transformer_xl(memory_length=0)
    with pytest.raises(ValueError, match="`width`=7 must be a multiple"):
        EncoderBlockBackbone(V, 1, 7, 2, 16)
    with pytest.raises(ValueError, match="`inputs` has 17 tokens"):
        encoder_blocks()(random_ids(1, 17))
    with pytest.raises(ValueError, match="keeps no context"):
        language_model(encoder_blocks()).carry_state(2, carry_context=True)
