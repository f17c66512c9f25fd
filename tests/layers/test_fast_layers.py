"""FastDense, SquaredReLU, FastLayerNormalization and Unembedding as ordinary Keras layers."""

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

from fwl_keras.layers import FastDense, FastLayerNormalization, SquaredReLU, Unembedding


class LayerTest(TestCase):
    """Keras's own test of a layer: build, call, training, mixed precision, serialisation."""

    def check(self, layer, settings, units, **expected):
        for shape in ((2, 4), (2, 3, 4)):
            self.run_layer_test(
                layer,
                init_kwargs=settings,
                input_shape=shape,
                expected_output_shape=(*shape[:-1], units),
                expected_output_dtype="float32",
                expected_num_seed_generators=0,
                expected_num_losses=0,
                supports_masking=True,
                **expected,
            )

    def test_dense(self):
        self.check(FastDense, {"units": 5}, 5)

    def test_squared_relu(self):
        self.check(
            SquaredReLU,
            {},
            4,
            expected_num_trainable_weights=0,
            expected_num_non_trainable_weights=0,
        )

    def test_layer_normalization(self):
        self.check(FastLayerNormalization, {"epsilon": 1e-5}, 4)

    def test_unembedding(self):
        self.check(Unembedding, {"vocab_size": 5}, 5, expected_num_trainable_weights=2)
        self.check(
            Unembedding,
            {"vocab_size": 5, "use_bias": False},
            5,
            expected_num_trainable_weights=1,
        )


def inputs():
    return np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def test_dense_alone_is_a_dense_layer():
    x, layer = inputs(), FastDense(5)
    layer(x)
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(4, 5)), rng.normal(size=5)
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    np.testing.assert_allclose(layer(x), x @ kernel + bias, rtol=1e-5, atol=1e-5)


def test_squared_relu():
    x = inputs()
    np.testing.assert_allclose(SquaredReLU()(x), np.where(x > 0, x * x, 0), rtol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.5])
def test_layer_normalization_alone_is_a_normalization_layer(epsilon):
    x, layer = inputs(), FastLayerNormalization(epsilon=epsilon)
    layer(x)
    rng = np.random.default_rng(2)
    gamma, beta = rng.normal(size=4), rng.normal(size=4)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    variance = np.var(x, axis=-1, keepdims=True)
    expected = gamma * (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + epsilon) + beta
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_new_normalization_changes_no_scale():
    y = np.asarray(FastLayerNormalization(epsilon=1e-6)(100 * inputs() + 7))
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(-1), 1, atol=1e-4)


def test_unembedding():
    x = inputs()
    for use_bias in (True, False):
        layer = Unembedding(6, use_bias=use_bias)
        layer(x)
        assert tuple(layer.kernel.shape) == (4, 6)
        assert (layer.bias is not None) == use_bias
        expected = x @ np.asarray(layer.kernel)
        if use_bias:
            layer.bias.assign(np.arange(6))
            expected = expected + np.arange(6)
        np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FastDense(5),
        SquaredReLU,
        lambda: FastLayerNormalization(epsilon=1e-6),
        lambda: Unembedding(6),
    ],
    ids=["FastDense", "SquaredReLU", "FastLayerNormalization", "Unembedding"],
)
def test_saved_and_loaded_in_a_model(make, tmp_path):
    layer = make()
    model = keras.Sequential([keras.Input((None, 4)), layer])
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(size=v.shape) for v in model.weights])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is type(layer)
    np.testing.assert_array_equal(loaded(inputs()), model(inputs()))
    assert keras.saving.get_registered_name(type(layer)) == f"fwl_keras>{type(layer).__name__}"


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: FastDense(5), ["kernel", "bias"]),
        (lambda: FastLayerNormalization(epsilon=1e-6), ["gamma", "beta"]),
    ],
)
def test_a_step_size_per_weight(make, names):
    layer = make()
    layer(inputs())
    assert set(layer.step_size_variables) == set(names)
    assert all(v.trainable for v in layer.step_size_variables.values())
    owned = {id(v) for v in layer.weights}
    assert owned >= {id(v) for v in layer.step_size_variables.values()}


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda n: FastDense(n), "units"),
        (lambda n: Unembedding(n), "vocab_size"),
    ],
)
@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_counts_are_positive_integers(make, argument, count):
    with pytest.raises((ValueError, TypeError), match=argument):
        make(count)
