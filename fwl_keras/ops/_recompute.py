"""Temporaries that are computed again where they are needed, rather than kept."""

import keras
from keras import ops, tree


def recomputed(function, variables, *arguments):
    """Return `function(*arguments)`; of it only the arguments are kept for the backward pass.

    Args:
        function: maps nested structures of float tensors to one. What else it uses must be
            tensors that nothing flows back to: on TensorFlow it would be lost. There the
            gradient of its first result is also what computing it again waits for.
        variables: list of all Keras variables that it reads, and does not change.
        *arguments: nested structures of float tensors.
    """
    structure = None

    # Variables become arguments: TensorFlow finds them by itself, but not inside a loop.
    def flat_function(*tensors):
        nonlocal structure
        values, tensors = tensors[: len(variables)], tensors[len(variables) :]
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            structure = function(*tree.pack_sequence_as(arguments, list(tensors)))
        return tree.flatten(structure)

    values = [ops.copy(variable.value) for variable in variables]
    results = keras.remat(flat_function)(*values, *tree.flatten(arguments))
    return tree.pack_sequence_as(structure, list(results))
