"""Autodiff of the backend under test with respect to a model's weights."""

import keras
import numpy as np
from keras import ops


def value_and_weight_gradients(lm, function):
    """What a loss is, and its gradients.

    Args:
        lm: a model.
        function: of nothing, returns a scalar that follows from the model's weights, and tensors.

    Returns:
        The scalar, the tensors, and a list of NumPy arrays, one for each trainable variable.
    """
    variables = lm.trainable_variables
    values = [v.value for v in variables]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            scalar, outputs = function()
        gradients = tape.gradient(scalar, values, unconnected_gradients="zero")
        gradients = [tf.convert_to_tensor(g) for g in gradients]
    else:
        import jax

        def of_values(values):
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return function()

        (scalar, outputs), gradients = jax.value_and_grad(of_values, has_aux=True)(values)
    return scalar, outputs, [np.asarray(ops.convert_to_numpy(g)) for g in gradients]
