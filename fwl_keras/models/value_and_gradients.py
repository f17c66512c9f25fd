"""Autodiff on any backend."""

from collections.abc import Callable

import keras

from fwl_keras.ops._types import Tensor


def value_and_gradients(function: Callable, x: Tensor) -> tuple:
    """A function's other results and its gradient.

    Args:
        function: from a float tensor to a scalar and a structure of tensors.
        x: the tensor.

    Returns:
        The structure, and the scalar's gradient with respect to `x`.

    Raises:
        ValueError: on a backend without autodiff here.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        from fwl_keras.models.tensorflow_gradients import register

        register()
        with tf.GradientTape() as tape:
            tape.watch(x)
            scalar, others = function(x)
        gradient = tape.gradient(scalar, x, unconnected_gradients="zero")
        return others, tf.convert_to_tensor(gradient)
    if backend == "jax":
        import jax

        gradient, others = jax.grad(function, has_aux=True)(x)
        return others, gradient
    raise ValueError(f"Gradients need the Keras backend tensorflow or jax; it is {backend!r}.")
