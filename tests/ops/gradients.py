"""Autodiff of the backend under test, for tests that run on either."""

import keras
import numpy as np
from keras import ops


def value_and_gradients(function, *inputs):
    """Outputs of `function` and the gradients of its scalar.

    Args:
        function: maps tensors to a scalar and a tuple of further tensors.
        *inputs: NumPy arrays.

    Returns:
        List of NumPy arrays: the further tensors, then one gradient per input.
    """
    inputs = [ops.convert_to_tensor(x) for x in inputs]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            scalar, outputs = function(*inputs)
        gradients = tape.gradient(scalar, inputs, unconnected_gradients="zero")
    else:
        import jax

        wanted = tuple(range(len(inputs)))
        gradients, outputs = jax.grad(function, argnums=wanted, has_aux=True)(*inputs)
    return [np.asarray(x) for x in (*outputs, *gradients)]
