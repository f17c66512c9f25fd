"""FWLBlock as a citizen of Keras: models, training, saving, configuration, unembeddings."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from block_helpers import (
    PLACES,
    arrays,
    assert_close,
    assert_states_close,
    oracle_reading,
    random_batch,
    random_block,
    randomise,
    read,
    step_size_variables,
    tensors,
)
from keras.src.testing import TestCase
from oracle import TENSORS

import fwl_keras

VOCAB = 7


def model_around(block, width=4):
    """A functional model: token ids, labels and weights to logits, any length."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    labels = keras.Input((None,), dtype="int32", name="labels")
    weights = keras.Input((None,), dtype="float32", name="weights")
    x = keras.layers.Embedding(VOCAB, width)(ids)
    logits = block(x, labels, weights)
    return keras.Model({"ids": ids, "labels": labels, "weights": weights}, logits)


def corpus(rng, batch=16, length=6):
    """Sequences that a bigram predicts, as the inputs and targets of `model_around`."""
    ids = (rng.integers(0, VOCAB, (batch, 1)) + 3 * np.arange(length)) % VOCAB
    labels, weights = fwl_keras.next_token_targets(ids)
    return {"ids": ids, "labels": np.asarray(labels), "weights": np.asarray(weights)}


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compile_and_fit(jit_compile):
    inputs = corpus(np.random.default_rng(0))
    block = fwl_keras.FWLBlock(8, VOCAB, segment_length=4, chunk_length=3, initial_step_size=0.01)
    model = model_around(block)
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    model.optimizer.build(model.trainable_variables)  # else Keras traces the step twice
    before = [np.array(v) for v in model.trainable_variables]
    history = model.fit(
        inputs, inputs["labels"], sample_weight=inputs["weights"], epochs=25, verbose=0
    ).history["loss"]
    assert np.all(np.isfinite(history)) and history[-1] < 0.7 * history[0]
    # Step sizes and decays learn with everything else.
    for value, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(value != np.array(variable)), variable.path


@pytest.mark.eager
def test_save_and_load(tmp_path):
    rng = np.random.default_rng(1)
    inputs = corpus(rng)
    block = fwl_keras.FWLBlock(8, VOCAB, segment_length=5)
    model = model_around(block)
    randomise(rng, block)
    expected = model.predict(inputs, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(inputs, verbose=0), expected, atol=1e-6)
    other = next(layer for layer in loaded.layers if isinstance(layer, fwl_keras.FWLBlock))
    for name, value in block.step_sizes().items():
        np.testing.assert_allclose(other.step_sizes()[name], value, rtol=1e-6)
        np.testing.assert_allclose(other.decays()[name], block.decays()[name], rtol=1e-6)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.set_weights([np.zeros(v.shape) for v in loaded.weights])
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(loaded.predict(inputs, verbose=0), expected, atol=1e-6)


def test_a_model_that_carries_the_state(tmp_path):
    rng = np.random.default_rng(12)
    block = random_block(rng, segment_length=4)
    x = keras.Input((None, 4), name="x")
    labels = keras.Input((None,), dtype="int32", name="labels")
    mask = keras.Input((None,), dtype="bool", name="x_mask")
    state = {
        name: keras.Input(tuple(value.shape[1:]), dtype=value.dtype.name, name=name)
        for name, value in block.initial_state(1).items()
    }
    inputs = {"x": x, "labels": labels, "x_mask": mask, **state}
    outputs = block(x, labels, state=state, x_mask=mask, return_state=True)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    arguments = random_batch(rng, block, 2, 6, weighted=False)
    logits, last = read(block, arguments)
    given = {name: arguments[name] for name in ("x", "labels", "x_mask")} | arguments["state"]
    for each in (model, loaded):
        found, state = each(tensors(given))
        assert_close(found, logits, 1e-5)
        assert_states_close(arrays(state), last, 1e-5)


@pytest.mark.eager
def test_clone_model():
    inputs = corpus(np.random.default_rng(2))
    model = model_around(fwl_keras.FWLBlock(8, VOCAB, segment_length=5))
    clone = keras.models.clone_model(model)
    assert [tuple(v.shape) for v in clone.weights] == [tuple(v.shape) for v in model.weights]
    assert not {id(v) for v in clone.weights} & {id(v) for v in model.weights}
    clone.set_weights(model.get_weights())
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(clone.predict(inputs, verbose=0), expected, atol=1e-6)


CONFIGURATIONS = [
    {},
    {"attn_chunks": 3, "segment_length": None, "epsilon": 1e-4},
    {"chunk_length": 3, "segment_length": 9, "use_bias": False},
    {"use_fast_weights": False, "name": "baseline", "dtype": "mixed_bfloat16"},
    {"loss_reduction": "mean_with_sample_weight", "epsilon": 0.0, "segment_length": None},
    {"initial_step_size": 0.02, "step_size_gain": 3.0, "step_size_per_unit": True},
    {"initial_decay": 0.5, "train_step_sizes": False, "trainable": False},
    {"kernel_initializer": keras.initializers.HeNormal(seed=3)},
]


@pytest.mark.parametrize("settings", CONFIGURATIONS, ids=lambda settings: ",".join(settings) or "-")
def test_configuration(settings):
    block = fwl_keras.FWLBlock(5, VOCAB, **settings)
    config = block.get_config()
    for name, value in {"size": 5, "vocab_size": VOCAB, **settings}.items():
        if name not in ("kernel_initializer", "dtype"):
            assert config[name] == value
    other = fwl_keras.FWLBlock.from_config(config)
    assert other.get_config() == config
    assert other.dtype_policy == block.dtype_policy
    serialised = keras.saving.serialize_keras_object(block)
    assert serialised["registered_name"] == "fwl_keras>FWLBlock"
    assert keras.saving.deserialize_keras_object(serialised).get_config() == config
    x = np.zeros((1, 1, 4), np.float32)
    block(x), other(x)
    assert [(v.shape, v.trainable) for v in block.weights] == [
        (v.shape, v.trainable) for v in other.weights
    ]


def test_initial_values():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    for per_unit, shapes in ((False, dict.fromkeys(TENSORS, ())), (True, None)):
        block = fwl_keras.FWLBlock(
            5, VOCAB, initial_step_size=0.02, initial_decay=0.7, step_size_per_unit=per_unit
        )
        block(x)
        assert set(block.step_sizes()) == set(block.decays()) == set(TENSORS)
        for name, (layer, attribute) in PLACES.items():
            size, decay = block.step_sizes()[name], block.decays()[name]
            units = getattr(getattr(block, layer), attribute).shape[-1:]
            assert np.shape(size) == (shapes[name] if shapes else units)
            np.testing.assert_allclose(size, 0.02, rtol=1e-5)
            np.testing.assert_allclose(decay, 0.7, rtol=1e-5)
        # Stored so that pulling a variable to zero pulls the step size to where it started.
        for variable in step_size_variables(block).values():
            assert not np.any(variable)
        block.set_step_sizes({"gamma": 0.5})
        block.set_decays({"beta": 0.25})
        np.testing.assert_allclose(block.step_sizes()["gamma"], 0.5, rtol=1e-5)
        np.testing.assert_allclose(block.step_sizes()["beta"], 0.02, rtol=1e-5)
        np.testing.assert_allclose(block.decays()["beta"], 0.25, rtol=1e-5)
        np.testing.assert_allclose(block.decays()["gamma"], 0.7, rtol=1e-5)


@pytest.mark.parametrize("gain", [1.0, 10.0])
def test_a_step_size_is_the_exponential_of_its_variable(gain):
    rng = np.random.default_rng(4)
    block = random_block(rng, step_size_gain=gain, initial_step_size=0.01)
    for name, variable in step_size_variables(block).items():
        variable.assign(0.2)
        np.testing.assert_allclose(block.step_sizes()[name], 0.01 * np.exp(0.2 * gain), rtol=1e-5)


def test_step_sizes_can_be_frozen():
    rng = np.random.default_rng(5)
    block = random_block(rng, segment_length=4)
    frozen = random_block(rng, segment_length=4, train_step_sizes=False)
    frozen.set_weights(block.get_weights())
    for name, variable in step_size_variables(frozen).items():
        assert not variable.trainable
        assert step_size_variables(block)[name].trainable
    assert len(frozen.weights) == len(block.weights)
    arguments = random_batch(rng, block, 2, 9)
    np.testing.assert_array_equal(read(frozen, arguments)[0], read(block, arguments)[0])


def test_every_trainable_variable_has_a_gradient():
    rng = np.random.default_rng(6)
    block = random_block(rng, segment_length=4)
    arguments = random_batch(rng, block, 2, 9, with_state=False)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(block(**tensors(arguments), output="loss")["loss"])
    gradients = tape.gradient(loss, [v.value for v in block.trainable_variables])
    for variable, gradient in zip(block.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.any(gradient), variable.path


def test_the_baseline_reads_with_slow_weights_and_has_as_many_parameters():
    rng = np.random.default_rng(7)
    block = random_block(rng, segment_length=4)
    baseline = random_block(rng, segment_length=4, use_fast_weights=False)
    assert baseline.count_params() == block.count_params()
    assert [v.shape for v in baseline.weights] == [v.shape for v in block.weights]
    baseline.set_weights(block.get_weights())
    arguments = random_batch(rng, block, 2, 9, with_state=False)
    unadapted = arguments | {"labels": None, "weights": None}
    expected = oracle_reading(block, unadapted)
    for call in (arguments, unadapted):
        logits, state = read(baseline, call)
        assert_close(logits, expected.logits)
        assert not any(np.any(value) for value in state.values())
    losses = read(baseline, arguments, return_state=False, output="loss")
    expected = oracle_reading(block, arguments | {"weights": np.zeros((2, 9))})
    assert_close(losses["loss"], expected.loss)
    assert_close(losses["slow_loss"], expected.loss)
    fresh = {name: np.asarray(value) for name, value in baseline.initial_state(2).items()}
    fresh["position"] = np.array([3, 1], np.int32)
    _, state = read(baseline, arguments | {"state": fresh})
    tf.nest.map_structure(np.testing.assert_array_equal, state, fresh)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(baseline(**tensors(arguments)) ** 2)
    gradients = tape.gradient(
        total, [baseline.expand.kernel.value, baseline.unembedding.bias.value]
    )
    assert all(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", ["tied", "dense"])
def test_a_given_unembedding(kind, use_bias):
    rng = np.random.default_rng(8)
    if kind == "tied":
        unembedding = keras.layers.ReversibleEmbedding(VOCAB, 5)
        unembedding.build()
    else:
        unembedding = keras.layers.Dense(VOCAB, use_bias=use_bias)
    block = fwl_keras.FWLBlock(
        5, VOCAB, segment_length=4, unembedding=unembedding, use_bias=use_bias
    )
    block(np.zeros((1, 1, 4), np.float32))
    own = random_block(rng, segment_length=4, use_bias=use_bias and kind == "dense")
    for layer, attribute in PLACES.values():
        value = np.asarray(getattr(getattr(own, layer), attribute))
        getattr(getattr(block, layer), attribute).assign(value)
    block.set_step_sizes({n: float(s) for n, s in own.step_sizes().items()})
    block.set_decays({n: float(d) for n, d in own.decays().items()})
    kernel = np.asarray(own.unembedding.kernel)
    if kind == "tied":
        unembedding.embeddings.assign(kernel.T)
    else:
        unembedding.kernel.assign(kernel)
        if use_bias:
            unembedding.bias.assign(np.asarray(own.unembedding.bias))
    arguments = random_batch(rng, own, 2, 9)
    logits, state = read(own, arguments)
    same, same_state = read(block, arguments)
    assert_close(same, logits, 1e-5)
    for name in state:
        assert_close(same_state[name], state[name], 1e-5, name=name)

    # The unembedding learns through the updates as well as through the logits.
    matrix = unembedding.embeddings if kind == "tied" else unembedding.kernel
    found = []
    for each, source in ((own, own.unembedding.kernel), (block, matrix)):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(each(**tensors(arguments), output="loss")["loss"])
        found.append(np.asarray(tf.convert_to_tensor(tape.gradient(total, source.value))))
    assert_close(found[1].T if kind == "tied" else found[1], found[0], 1e-4)


@pytest.mark.eager
def test_a_tied_unembedding_is_one_variable_in_a_model():
    rng = np.random.default_rng(9)
    embedding = keras.layers.ReversibleEmbedding(VOCAB, 5)
    ids = keras.Input((None,), dtype="int32", name="ids")
    labels = keras.Input((None,), dtype="int32", name="labels")
    block = fwl_keras.FWLBlock(5, VOCAB, segment_length=4, unembedding=embedding)
    model = keras.Model({"ids": ids, "labels": labels}, block(embedding(ids), labels))
    matrices = [v for v in model.trainable_variables if tuple(v.shape) in ((VOCAB, 5), (5, VOCAB))]
    assert len(matrices) == 1 and matrices[0] is embedding.embeddings
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = {name: rng.integers(0, VOCAB, (4, 6)) for name in ("ids", "labels")}
    before = np.array(embedding.embeddings)
    model.fit(inputs, inputs["labels"], verbose=0)
    assert np.all(np.any(before != np.array(embedding.embeddings), axis=1))


@pytest.mark.eager
def test_a_dense_unembedding_survives_saving(tmp_path):
    rng = np.random.default_rng(10)
    inputs = corpus(rng)
    block = fwl_keras.FWLBlock(
        8, VOCAB, segment_length=5, unembedding=keras.layers.Dense(VOCAB, name="unembed")
    )
    model = model_around(block)
    model.set_weights([rng.normal(scale=0.3, size=v.shape) for v in model.weights])
    expected = model.predict(inputs, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights)
    np.testing.assert_allclose(loaded.predict(inputs, verbose=0), expected, atol=1e-6)


def test_initial_state():
    block = random_block(np.random.default_rng(11))
    state = block.initial_state(3)
    assert set(state) == {"position"} | {f"{k}_{n}" for k in ("anchor", "running") for n in TENSORS}
    assert tuple(state["position"].shape) == (3,)
    assert keras.backend.standardize_dtype(state["position"].dtype) == "int32"
    for name, (layer, attribute) in PLACES.items():
        for kind in ("anchor", "running"):
            value = state[f"{kind}_{name}"]
            weight = getattr(getattr(block, layer), attribute)
            assert tuple(value.shape) == (3, *weight.shape)
            assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert not any(np.any(value) for value in state.values())

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def unknown(batch):
        return block.initial_state(batch)["anchor_gamma"]

    assert unknown(4).shape == (4, 5)


class LayerTest(TestCase):
    """Keras's own test of a layer: build, call, training, mixed precision, serialisation."""

    def test_block(self):
        for settings in ({}, {"segment_length": 3, "chunk_length": 2}, {"use_fast_weights": False}):
            self.run_layer_test(
                fwl_keras.FWLBlock,
                init_kwargs={"size": 5, "vocab_size": VOCAB, **settings},
                input_shape={"x_shape": (2, 8, 4), "labels_shape": (2, 8)},
                input_dtype={"x_shape": "float32", "labels_shape": "int32"},
                expected_output_shape=(2, 8, VOCAB),
                expected_output_dtype="float32",
                expected_num_seed_generators=0,
                expected_num_losses=0,
                supports_masking=True,
                run_training_check=False,  # its model can pass one argument only
            )

    def test_block_without_labels(self):
        self.run_layer_test(
            fwl_keras.FWLBlock,
            init_kwargs={"size": 5, "vocab_size": VOCAB},
            input_shape=(2, 8, 4),
            expected_output_shape=(2, 8, VOCAB),
            expected_output_dtype="float32",
            expected_num_seed_generators=0,
            expected_num_losses=0,
            supports_masking=True,
        )
