"""The language model: its loss, its trackers, training under everything Keras offers, saving."""

import keras
import keras_hub
import numpy as np
import pytest
from gradients import value_and_weight_gradients
from keras import ops

from fwl_keras import FWLBlock, FWLCausalLM, next_token_targets

pytestmark = pytest.mark.eager

V, WIDTH, T = 23, 8, 12

# For what is not about graphs: TensorFlow takes longer to compile them than to do without.
EAGER = keras.backend.backend() == "tensorflow"


def body(tied=False, mask_zero=False):
    embedding = keras.layers.ReversibleEmbedding(V, WIDTH, mask_zero=mask_zero, name="ids")
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.GRU(WIDTH, return_sequences=True)(embedding(tokens))
    return keras.Model(tokens, x), embedding if tied else None


def model(tied=False, pad_token_id=None, mask_zero=False, dtype=None, **settings):
    backbone, embedding = body(tied, mask_zero)
    settings = {"segment_length": 5, "initial_step_size": 1e-2, **settings}
    block = FWLBlock(WIDTH, V, unembedding=embedding, dtype=dtype, **settings)
    return FWLCausalLM(backbone, block, pad_token_id=pad_token_id, dtype=dtype)


def tokens(rows=8, seed=0):
    """Rows of a repeating pattern with noise: something to learn."""
    rng = np.random.default_rng(seed)
    ids = 1 + (np.arange(T) * 3 + rng.integers(5, size=(rows, 1))) % (V - 1)
    noise = rng.random((rows, T)) < 0.2
    return np.where(noise, rng.integers(1, V, size=(rows, T)), ids).astype("int32")


def dataset(ids):
    """What `fit` takes beside arrays."""
    if keras.backend.backend() != "tensorflow":
        return ids
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(ids).batch(8)


def nll_of(lm, inputs, labels):
    """Losses [B, T] from the model's logits, the ordinary way."""
    logits = lm(inputs)
    return np.asarray(
        keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    )


@pytest.mark.jax
def test_loss_is_the_mean_of_the_logits_losses():
    lm, ids = model(), tokens()
    labels, weights = (np.asarray(a) for a in next_token_targets(ids))
    expected = (nll_of(lm, ids, labels) * weights).sum() / weights.sum()
    lm.compile("sgd")
    results = lm.evaluate(ids, batch_size=8, return_dict=True, verbose=0)
    np.testing.assert_allclose(results["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(results["perplexity"], np.exp(expected), rtol=1e-5)


def test_trackers_weigh_batches_by_their_tokens():
    ids = tokens(6)
    ids[0, 3:] = 0
    ids[1, 2:] = 0
    lm = model(pad_token_id=0)
    lm.compile("sgd", run_eagerly=EAGER)
    apart = lm.evaluate(ids, batch_size=2, return_dict=True, verbose=0)
    together = lm.evaluate(ids, batch_size=6, return_dict=True, verbose=0)
    for name in ("loss", "perplexity", "adaptation_gain", "total_gain"):
        np.testing.assert_allclose(apart[name], together[name], rtol=1e-4, atol=1e-6)


def test_gains_are_differences_of_losses():
    lm, ids = model(segment_length=None), tokens()
    lm.compile("sgd")
    fast = lm.evaluate(ids, return_dict=True, verbose=0)
    slow = FWLCausalLM(lm.backbone, FWLBlock(WIDTH, V, segment_length=None, use_fast_weights=False))
    slow.block.set_weights(lm.block.get_weights())
    slow.compile("sgd")
    base = slow.evaluate(ids, return_dict=True, verbose=0)
    gain = base["loss"] - fast["loss"]
    assert abs(gain) > 1e-4
    # One segment: the weights it began with are the trained ones.
    np.testing.assert_allclose(fast["adaptation_gain"], gain, rtol=1e-3)
    np.testing.assert_allclose(fast["total_gain"], gain, rtol=1e-3)
    assert base["adaptation_gain"] == base["total_gain"] == 0


@pytest.mark.jax
def test_training_step_follows_the_gradient_of_the_logits_loss():
    """One SGD step against the gradient of the loss computed from logits [B, T, V]."""
    lm, ids = model(tied=True), tokens()
    labels, weights = next_token_targets(ids)

    def loss():
        nll = keras.losses.sparse_categorical_crossentropy(labels, lm(ids), from_logits=True)
        return ops.sum(nll * weights) / ops.sum(weights), ()

    _, _, gradients = value_and_weight_gradients(lm, loss)
    variables = lm.trainable_variables
    before = [np.array(v) for v in variables]
    lm.compile(keras.optimizers.SGD(0.1))
    lm.train_on_batch(ids)
    for variable, old, gradient in zip(variables, before, gradients, strict=True):
        expected = old - 0.1 * gradient
        np.testing.assert_allclose(variable, expected, atol=2e-6, err_msg=variable.path)


def test_keras_hub_batches_weigh_the_outer_loss_only():
    lm, ids = model(), tokens()
    x, y = ids[:, :-1], ids[:, 1:]
    mask = np.ones_like(x, bool)
    weights = np.random.default_rng(0).uniform(size=y.shape).astype("float32")
    expected = (nll_with_labels(lm, x, y) * weights).sum() / weights.sum()
    lm.compile("sgd")
    inputs = {"token_ids": x, "padding_mask": mask}
    results = lm.evaluate(
        inputs, y, sample_weight=weights, batch_size=8, return_dict=True, verbose=0
    )
    np.testing.assert_allclose(results["loss"], expected, rtol=1e-5)


def nll_with_labels(lm, x, y):
    logits = lm(x, labels=y)
    return np.asarray(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))


def test_padding_changes_nothing():
    ids = tokens(4)
    padded = np.concatenate([ids, np.zeros((4, 5), "int32")], axis=1)
    lm = model(pad_token_id=0)
    mask = padded != 0
    by_id, by_mask = lm(padded), lm({"token_ids": padded, "padding_mask": mask})
    np.testing.assert_array_equal(by_id, by_mask)
    np.testing.assert_allclose(np.asarray(by_id)[:, :T], lm(ids), atol=1e-5)
    assert (np.asarray(by_id)[:, T:] == 0).all()


def test_padding_mask_of_an_embedding_is_used():
    ids = tokens(2)
    ids[0, 7:] = 0
    lm = model(mask_zero=True)
    assert (np.asarray(lm(ids))[0, 7:] == 0).all()


WAYS = [(True, False), (False, True), (True, True)]


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("tied", "jit_compile"),
    [(False, False), *(pytest.param(*way, marks=pytest.mark.slow) for way in WAYS)],
)
def test_fit_lowers_the_loss_and_changes_every_variable(tied, jit_compile):
    lm = model(tied=tied)
    before = {v.path: np.array(v) for v in lm.trainable_variables}
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.01)
    lm.compile(optimizer, jit_compile=jit_compile)
    history = lm.fit(dataset(tokens(16)), epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    unchanged = [v.path for v in lm.trainable_variables if (np.asarray(v) == before[v.path]).all()]
    assert unchanged == []


OPTIMIZERS = [
    "SGD",
    "RMSprop",
    "Adam",
    "AdamW",
    "Adadelta",
    "Adagrad",
    "Adamax",
    "Adafactor",
    "Nadam",
    "Ftrl",
    "Lion",
    "Lamb",
    "Muon",
]


COMMON = ("SGD", "Adam", "AdamW", "Muon")
OTHERS = [pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS if n not in COMMON]


@pytest.mark.parametrize("name", [*COMMON, *OTHERS])
def test_every_optimizer(name):
    lm = model()
    settings = {} if name == "Ftrl" else {"weight_decay": 1e-3}
    lm.compile(getattr(keras.optimizers, name)(1e-3, **settings), jit_compile=False)
    lm.fit(tokens(4), batch_size=4, verbose=0)
    assert all(np.isfinite(v).all() for v in lm.get_weights())


@pytest.mark.slow
@pytest.mark.graph
def test_gradient_accumulation_steps_per_execution_and_callbacks(tmp_path):
    lm = model()
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2)
    lm.compile(optimizer, steps_per_execution=2)
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True
    )
    stop = keras.callbacks.EarlyStopping("val_perplexity", mode="min", patience=5)
    history = lm.fit(
        tokens(16),
        batch_size=4,
        epochs=3,
        validation_data=tokens(8, seed=1),
        verbose=0,
        callbacks=[checkpoint, stop],
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert "val_total_gain" in history
    weights = lm.get_weights()
    lm.load_weights(tmp_path / "3.weights.h5")
    for a, b in zip(lm.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "dtype", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_mixed_precision(dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        lm = model()
        lm.compile(keras.optimizers.Adam(1e-2))
        assert ("LossScale" in type(lm.optimizer).__name__) == (dtype == "mixed_float16")
        history = lm.fit(tokens(16), batch_size=8, epochs=4, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert history["loss"][-1] < history["loss"][0]
    assert all(v.dtype == "float32" for v in lm.trainable_variables)


@pytest.mark.jax
def test_regularisation_losses_are_added_to_the_loss_not_to_perplexity():
    backbone, _ = body()
    backbone.layers[1].activity_regularizer = None
    dense = keras.layers.Dense(WIDTH, kernel_regularizer=keras.regularizers.L2(0.5))
    backbone = keras.Model(backbone.input, dense(backbone.output))
    lm = FWLCausalLM(backbone, FWLBlock(WIDTH, V))
    lm.compile("sgd")
    results = lm.evaluate(tokens(), return_dict=True, verbose=0)
    penalty = 0.5 * (np.asarray(dense.kernel) ** 2).sum()
    np.testing.assert_allclose(results["loss"] - np.log(results["perplexity"]), penalty, rtol=1e-4)


@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_save_load_continue(tmp_path, tied):
    lm, ids = model(tied=tied), tokens()
    lm.compile(keras.optimizers.AdamW(1e-2), sampler="greedy", run_eagerly=EAGER)
    lm.fit(ids, verbose=0)
    lm.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras")
    np.testing.assert_array_equal(loaded(ids), lm(ids))
    assert loaded.count_params() == lm.count_params()
    assert loaded.sampler == "greedy"
    for each in (lm, loaded):
        each.fit(ids, verbose=0, shuffle=False)
    np.testing.assert_allclose(loaded(ids), lm(ids), atol=1e-5)
    if tied:
        embedding = loaded.backbone.get_layer("ids")
        assert loaded.block.unembedding.layer is embedding


@pytest.mark.parametrize("tied", [False, True])
def test_clone_and_config(tied):
    lm, ids = model(tied=tied), tokens()
    clone = keras.models.clone_model(lm)
    assert len(clone.weights) == len(lm.weights)
    assert not any(a is b for a in clone.weights for b in lm.weights)
    clone.set_weights(lm.get_weights())
    np.testing.assert_array_equal(clone(ids), lm(ids))


@pytest.mark.graph
def test_baseline_has_the_same_parameters():
    fast, base = model(), model(use_fast_weights=False)
    assert fast.count_params() == base.count_params()
    base.compile(keras.optimizers.Adam(1e-2))
    with np.testing.assert_no_warnings():
        history = base.fit(tokens(32), batch_size=8, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_keras_hub_backbone_tied():
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=V,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=T,
    )
    block = FWLBlock(8, V, unembedding=backbone.token_embedding, segment_length=5)
    lm = FWLCausalLM(backbone, block)
    lm.compile(keras.optimizers.Adam(1e-2), run_eagerly=EAGER)
    history = lm.fit(tokens(), epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    ids = tokens()
    changed = ids.copy()
    changed[:, 7:] = tokens(seed=5)[:, 7:]
    # The body's attention rounds differently where its inputs differ; the mask hides the values.
    np.testing.assert_allclose(
        np.asarray(lm(ids))[:, :6], np.asarray(lm(changed))[:, :6], atol=1e-5
    )


def test_state_is_the_blocks():
    """Two windows with the state carried equal the block on both windows' features."""
    lm, ids = model(), tokens(3)
    labels = np.roll(ids, -1, axis=1)
    logits, state = lm(ids, labels=labels, return_state=True, state=lm.block.initial_state(3))
    again = lm(ids, labels=labels, state=state)
    features = np.asarray(lm.backbone(ids))
    both = lm.block(np.concatenate([features, features], 1), np.concatenate([labels, labels], 1))
    np.testing.assert_allclose(np.concatenate([logits, again], 1), both, atol=1e-4)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: model().compile("adam", loss="mse"), "loss"),
        (lambda: model().compile("adam", metrics=["accuracy"]), "metrics"),
        (lambda: FWLCausalLM(keras.layers.Embedding(V, 4), "block"), "block"),
        (lambda: FWLCausalLM("gpt2", FWLBlock(4, V)), "backbone"),
        (lambda: FWLCausalLM(keras.layers.Flatten(), FWLBlock(4, V)), "backbone"),
        (lambda: model()({"ids": tokens()}), "token_ids"),
        (lambda: model()(tokens(), return_state=True), "labels"),
        (lambda: next_token_targets(np.zeros(3, "int32")), "token_ids"),
    ],
)
def test_bad_input_names_the_argument(call, words):
    with pytest.raises(ValueError, match=f"`{words}"):
        call()
