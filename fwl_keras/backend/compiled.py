"""Functions compiled with a model's weights as they are at every call."""

import functools
from collections.abc import Callable

import keras

from fwl_keras.backend.dispatch import module_of_backend


class Compiled:
    """A function of tensors, compiled once per shape by the backend.

    Args:
        lm: the model whose weights the function uses; with `lm.run_eagerly` nothing is compiled.
        function: from tensors (in dicts and tuples) to tensors.
        changed: those of the model's variables that keep what the function assigns to them; of
            all others it is dropped, or left undefined.
        jit_compile: whether XLA compiles it on TensorFlow, as JAX does anyway.
    """

    def __init__(
        self,
        lm: keras.Model,
        function: Callable,
        changed: list[keras.Variable] | None = None,
        *,
        jit_compile: bool = False,
    ):
        self._lm = lm
        self._function = function
        compile_function = module_of_backend("functions").compile_function
        self._run = compile_function(lm, function, changed or [], jit_compile)

    def __call__(self, *arguments):
        run = self._function if self._lm.run_eagerly else self._run
        return run(*arguments)


class CompiledFunctions:
    """What a model has compiled, to be used again.

    Args:
        lm: the model.

    Call arguments:
        function: from the model, tensors and settings to tensors.
        **settings: values that can be hashed; for each combination a function of its own.

    Returns:
        Compiled function of the tensors.

    Example:
        >>> functions = CompiledFunctions(lm)
        >>> functions(read_window, mode="adapt")(token_ids, padding_mask, state)
    """

    def __init__(self, lm: keras.Model):
        self._lm = lm
        self._compiled = {}

    def __call__(self, function: Callable, **settings) -> Compiled:
        key = (function, *sorted(settings.items()))
        if key not in self._compiled:
            self._compiled[key] = Compiled(
                self._lm, functools.partial(function, self._lm, **settings)
            )
        return self._compiled[key]

    def forget(self, kind: type) -> None:
        """Drop the functions that have a setting of this kind."""
        self._compiled = {
            key: compiled
            for key, compiled in self._compiled.items()
            if not any(isinstance(value, kind) for _, value in key[1:])
        }
