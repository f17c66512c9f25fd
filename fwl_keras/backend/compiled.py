"""Functions compiled with a model's weights as they are at every call."""

from collections.abc import Callable

import keras


class Compiled:
    """A function of tensors, compiled once per shape by the backend.

    Args:
        lm: the model whose weights the function uses; with `lm.run_eagerly` nothing is compiled.
        function: from tensors (in dicts and tuples) to tensors.
    """

    def __init__(self, lm: keras.Model, function: Callable):
        self._lm = lm
        self._function = function
        self._run = _COMPILERS.get(keras.backend.backend(), _plain)(lm, function)

    def __call__(self, *arguments):
        run = self._function if self._lm.run_eagerly else self._run
        return run(*arguments)


def _tensorflow(lm, function):
    import tensorflow as tf

    graphs = {}

    def run(*arguments):
        # TensorFlow warns of one function with many graphs; a text's length is no mistake.
        shapes = tuple(tuple(a.shape) for a in tf.nest.flatten(arguments))
        if shapes not in graphs:
            graphs[shapes] = tf.function(lambda *a: function(*a), autograph=False)
        return graphs[shapes](*arguments)

    return run


def _jax(lm, function):
    import jax

    @jax.jit
    def with_values(values, *arguments):
        # Weights are arguments: compiled in, they would stay what they were. What the function
        # assigns to them is dropped, as reading changes no model.
        with keras.StatelessScope(state_mapping=zip(lm.variables, values, strict=True)):
            return function(*arguments)

    return lambda *arguments: with_values([v.value for v in lm.variables], *arguments)


def _plain(lm, function):
    return function


_COMPILERS = {"tensorflow": _tensorflow, "jax": _jax}
