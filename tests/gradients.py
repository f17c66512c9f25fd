"""Autodiff of the backend under test, which is no part of what is tested."""

import keras
import numpy as np
from keras import ops


def value_and_gradients(function, *inputs):
    """What a function is, and the gradients of its scalar.

    Args:
        function: maps tensors to a scalar and a tuple (or dict) of further tensors.
        *inputs: arrays or tensors.

    Returns:
        The scalar, the further tensors, and a list of NumPy arrays, one gradient per input.
    """
    inputs = [ops.convert_to_tensor(x) for x in inputs]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            scalar, outputs = function(*inputs)
        gradients = tape.gradient(scalar, inputs, unconnected_gradients="zero")
        # An embedding's gradient is given by its rows.
        gradients = [tf.convert_to_tensor(g) for g in gradients]
    else:
        import jax

        wanted = tuple(range(len(inputs)))
        function = jax.value_and_grad(function, argnums=wanted, has_aux=True)
        (scalar, outputs), gradients = function(*inputs)
    return scalar, outputs, [np.asarray(g) for g in gradients]


def value_and_weight_gradients(lm, function):
    """The same of a function of nothing, with respect to a model's trainable variables."""
    variables = lm.trainable_variables

    def of_values(*values):
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return function()

    return value_and_gradients(of_values, *[v.value for v in variables])
