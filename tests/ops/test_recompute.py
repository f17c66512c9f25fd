"""What is computed again for the backward pass."""

import numpy as np
import pytest
from gradients import value_and_gradients
from keras import ops

from fwl_keras.ops._recompute import recomputed

X, Y = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32), np.array([3.0, -0.5], np.float32)


def nested(x, rest):
    """Structures in, structures out; an inner value that a backward pass needs."""
    product = ops.tanh(x @ x) * rest["y"]
    return {"sum": ops.sum(product), "parts": (product, ops.exp(rest["y"]))}


@pytest.mark.jax
def test_values_and_gradients_are_those_of_the_function():
    def total(x, y, run):
        found = run(nested, x, {"y": y})
        squares = ops.sum(found["parts"][0] ** 2)
        return found["sum"] + squares + ops.sum(found["parts"][1]), ()

    def run(function, *arguments):
        return recomputed(function, [], *arguments)

    value, _, gradients = value_and_gradients(lambda x, y: total(x, y, run), X, Y)
    plain = value_and_gradients(lambda x, y: total(x, y, lambda f, *a: f(*a)), X, Y)
    np.testing.assert_allclose(value, plain[0], rtol=1e-6)
    for found, expected in zip(gradients, plain[2], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_it_is_computed_again_and_not_kept():
    """On TensorFlow; JAX does so without calling a function twice."""
    calls = []

    def function(x):
        calls.append(x)
        return ops.sum(ops.tanh(x) ** 2)

    recomputed(function, [], ops.convert_to_tensor(X))
    once = len(calls)
    calls.clear()
    value_and_gradients(lambda x: (recomputed(function, [], x), ()), X)
    assert len(calls) > once
