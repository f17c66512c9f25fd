"""Gradients with respect to some of a model's weights or to a tensor, on any backend."""

from collections.abc import Callable

import keras

from fwl_keras.backend.compiled import Compiled
from fwl_keras.backend.dispatch import module_of_backend
from fwl_keras.ops._types import Tensor


class WeightGradients:
    """A loss's gradients with respect to variables, and what is to become of the variables.

    Args:
        lm: the model that the loss is computed with; with `lm.run_eagerly` nothing is compiled.
        variables: list of its variables.
        function: from tensors (in dicts and tuples) to a scalar loss and other tensors.
        update: from lists of values and gradients, and further tensors, to the variables' new
            values; None: the gradients are returned and nothing changes.
        jit_compile: whether XLA compiles it on TensorFlow, as JAX does anyway.

    Call arguments:
        arguments: tuple of the function's tensors.
        constants: tuple of the update's further tensors (structures of them).

    Returns:
        The function's other tensors; with `update=None` a pair of them and the gradients.
    """

    def __init__(
        self,
        lm: keras.Model,
        variables: list[keras.Variable],
        function: Callable,
        update: Callable | None = None,
        *,
        jit_compile: bool = False,
    ):
        weight_gradients = module_of_backend("functions").weight_gradients

        def step(arguments, constants):
            outputs, gradients = weight_gradients(lm, variables, lambda: function(*arguments))
            if update is None:
                return outputs, gradients
            values = update([v.value for v in variables], gradients, *constants)
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            return outputs

        changed = [] if update is None else variables
        self._run = Compiled(lm, step, changed, jit_compile=jit_compile)

    def __call__(self, arguments: tuple, constants: tuple = ()):
        return self._run(arguments, constants)


def value_and_gradients(function: Callable, x: Tensor) -> tuple:
    """Return a function's other results and its gradient.

    Args:
        function: from a float tensor to a scalar and a structure of tensors.
        x: the tensor.

    Returns:
        The structure, and the scalar's gradient with respect to `x`.

    Raises:
        ValueError: if the backend is neither TensorFlow nor JAX.
    """
    others, (gradient,) = module_of_backend("functions").tensor_gradients(function, x)
    return others, gradient
