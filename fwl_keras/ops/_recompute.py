"""Temporaries that are computed again where they are needed, rather than kept."""

from typing import Any

import keras
from keras import ops, tree

from fwl_keras.ops._barrier import together


def recomputed(function, variables, *arguments):
    """Return `function(*arguments)`; of it only the arguments are kept for the backward pass.

    Args:
        function: maps nested structures of float tensors to one. What else it uses must be
            tensors that nothing flows back to: on TensorFlow it would be lost.
        variables: list of all Keras variables that it reads, and does not change.
        *arguments: nested structures of float tensors.
    """
    structure: Any = None

    def flat_function(*tensors):
        nonlocal structure
        values, tensors = tensors[: len(variables)], tensors[len(variables) :]
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            structure = function(*tree.pack_sequence_as(arguments, list(tensors)))
        return tuple(tree.flatten(structure))

    # Variables become arguments: TensorFlow finds them by itself, but not inside a loop.
    values = [ops.copy(variable.value) for variable in variables]
    results = _checkpoint(flat_function)(*values, *tree.flatten(arguments))
    return tree.pack_sequence_as(structure, list(results))


def _checkpoint(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.checkpoint(function)
    import tensorflow as tf

    # `tf.recompute_grad` lets the graph's optimiser see through what its backward pass waits for:
    # all is computed again at once, or not at all.
    @tf.custom_gradient
    def apply(*tensors):
        def grad(*upstream):
            held = together(*tensors, *upstream)
            inputs, upstream = held[: len(tensors)], held[len(tensors) :]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                results = function(*inputs)
            return tape.gradient(
                list(results), list(inputs), list(upstream), tf.UnconnectedGradients.ZERO
            )

        return function(*tensors), grad

    return apply
