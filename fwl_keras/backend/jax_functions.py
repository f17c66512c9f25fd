"""Compiling and autodiff on JAX."""

from collections.abc import Callable

import jax
import keras


def compile_function(
    lm: keras.Model,
    function: Callable,
    changed: list[keras.Variable],
    jit_compile: bool,
) -> Callable:
    """Compile a function of tensors with the model's weights as arguments; see `Compiled`."""

    @jax.jit
    def with_values(values, *arguments):
        # Weights are arguments: compiled in, they would stay what they were.
        with keras.StatelessScope(state_mapping=zip(lm.variables, values, strict=True)) as scope:
            result = function(*arguments)
        return result, [scope.get_current_value(v) for v in changed]

    def run(*arguments):
        result, values = with_values([v.value for v in lm.variables], *arguments)
        for variable, value in zip(changed, values, strict=True):
            variable.assign(value)
        return result

    return run


def tensor_gradients(function: Callable, x) -> tuple:
    """See `value_and_gradients`."""
    gradient, others = jax.grad(function, has_aux=True)(x)
    return others, [gradient]


def weight_gradients(lm: keras.Model, variables: list[keras.Variable], function: Callable) -> tuple:
    """A function's other results, and its gradients with respect to a model's variables.

    Args:
        lm: the model.
        variables: list of its variables.
        function: of nothing, returns a scalar and a structure of tensors.
    """
    adapted = {id(v) for v in variables}
    fixed = [v for v in lm.variables if id(v) not in adapted]
    others = [v.value for v in fixed]

    def loss_of(values):
        # Also the values of the weights that stay: a scope inside of a scope sees none of it.
        mapping = zip([*variables, *fixed], [*values, *others], strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return function()

    gradients, results = jax.grad(loss_of, has_aux=True)([v.value for v in variables])
    return results, gradients
