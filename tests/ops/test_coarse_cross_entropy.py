"""A coarse loss and its gradient against the backend's autodiff of the plain formula."""

import numpy as np
import pytest
from gradients import value_and_gradients
from keras import ops

from fwl_keras.ops import coarse_cross_entropy_gradient

pytestmark = pytest.mark.jax

N, S, K = 7, 4, 5
NAMES = ("features", "target", "target_bias", "codebook", "bias")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    shapes = ((N, S), (N, S), (N,), (K, S), (K,))
    drawn = [rng.normal(size=shape).astype("float32") for shape in shapes]
    weights = rng.uniform(0.2, 2.0, size=N).astype("float32")
    weights[2] = 0
    return drawn, weights


def plain_loss(features, target, target_bias, codebook, bias):
    """The label is the last of K + 1 classes."""
    at_label = ops.sum(features * target, axis=1) + target_bias
    logits = ops.matmul(features, ops.transpose(codebook)) + bias
    logits = ops.concatenate([logits, at_label[:, None]], axis=1)
    return ops.logsumexp(logits, axis=1) - at_label


def test_the_gradient_is_that_of_the_loss(data):
    drawn, weights = data
    gradient, loss = coarse_cross_entropy_gradient(*drawn, weights)
    total, (expected,), gradients = value_and_gradients(
        lambda f: (ops.sum(weights * plain_loss(f, *drawn[1:])), (plain_loss(f, *drawn[1:]),)),
        drawn[0],
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, gradients[0], rtol=1e-4, atol=1e-6)
    assert not np.any(gradient[2]) and np.isfinite(total)


def test_both_are_differentiable(data):
    """By autodiff of autodiff: training goes through the steps, and learns the codebook by them."""
    drawn, weights = data
    rng = np.random.default_rng(1)
    d_gradient, d_loss = (rng.normal(size=shape).astype("float32") for shape in ((N, S), (N,)))

    def objective(*drawn):
        gradient, loss = coarse_cross_entropy_gradient(*drawn, weights)
        return ops.sum(d_gradient * gradient) + ops.sum(d_loss * loss), ()

    found = value_and_gradients(objective, *drawn)[2]
    step = 1e-2
    for i, name in enumerate(NAMES):
        direction = rng.normal(size=drawn[i].shape).astype("float32")
        ends = [
            float(objective(*drawn[:i], drawn[i] + sign * step * direction, *drawn[i + 1 :])[0])
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(found[i] * direction), expected, rtol=2e-2, err_msg=name)


def test_a_label_that_is_expected_moves_nothing(data):
    (features, target, _, codebook, bias), weights = data
    certain = np.full(N, 200.0, np.float32)
    gradient, loss = coarse_cross_entropy_gradient(
        features, target, certain, codebook, bias, weights
    )
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    np.testing.assert_allclose(loss, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("index", "shape", "name"),
    [
        (1, (N, 3), "target"),
        (1, (3, S), "target"),
        (3, (K, 3), "codebook"),
        (4, (4,), "bias"),
        (2, (3,), "target_bias"),
    ],
)
def test_shapes_that_do_not_fit(data, index, shape, name):
    drawn, weights = data
    drawn[index] = np.zeros(shape, "float32")
    with pytest.raises(ValueError, match=f"`{name}` must have shape"):
        coarse_cross_entropy_gradient(*drawn, weights)
