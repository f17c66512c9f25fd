"""Gradients of a function with respect to some of a model's weights, compiled, on any backend."""

from collections.abc import Callable

import keras

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
        backend = keras.backend.backend()
        if backend not in _MAKERS:
            raise ValueError(
                f"Gradients need the Keras backend tensorflow or jax; it is {backend!r}."
            )
        self._run = _MAKERS[backend](lm, variables, function, update, jit_compile)

    def __call__(self, arguments: tuple, constants: tuple = ()):
        return self._run(arguments, constants)


def _tensorflow(lm, variables, function, update, jit_compile):
    import tensorflow as tf

    graphs = {}

    def step(arguments, constants):
        with tf.GradientTape() as tape:
            loss, outputs = function(*arguments)
        values = [v.value for v in variables]
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        # An embedding's gradient is given by its rows.
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        if update is None:
            return outputs, gradients
        for variable, value in zip(variables, update(values, gradients, *constants), strict=True):
            variable.assign(value)
        return outputs

    def run(arguments, constants):
        if lm.run_eagerly:
            return step(arguments, constants)
        # One function with many shapes makes TensorFlow warn.
        shapes = tuple(tuple(a.shape) for a in tf.nest.flatten((arguments, constants)))
        if shapes not in graphs:
            graphs[shapes] = tf.function(step, autograph=False, jit_compile=jit_compile)
        return graphs[shapes](arguments, constants)

    return run


def _jax(lm, variables, function, update, jit_compile):
    import jax

    adapted = {id(v) for v in variables}
    fixed = [v for v in lm.variables if id(v) not in adapted]

    def step(values, others, arguments, constants):
        def loss_of(values):
            mapping = zip([*variables, *fixed], [*values, *others], strict=True)
            with keras.StatelessScope(state_mapping=mapping):
                return function(*arguments)

        gradients, outputs = jax.grad(loss_of, has_aux=True)(values)
        if update is None:
            return outputs, gradients
        return outputs, update(values, gradients, *constants)

    compiled = jax.jit(step)

    def run(arguments, constants):
        run_step = step if lm.run_eagerly else compiled
        values, others = ([v.value for v in group] for group in (variables, fixed))
        outputs, results = run_step(values, others, arguments, constants)
        if update is None:
            return outputs, results
        for variable, value in zip(variables, results, strict=True):
            variable.assign(value)
        return outputs

    return run


_MAKERS = {"tensorflow": _tensorflow, "jax": _jax}


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

        from fwl_keras.backend.tensorflow_gradients import register

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
