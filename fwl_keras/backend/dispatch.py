"""What each backend does in its own way, found by the name of the one in use."""

import importlib
from types import ModuleType

import keras

BACKENDS = ("tensorflow", "jax")


def module_of_backend(part: str) -> ModuleType:
    """Import a part of this package for the Keras backend in use.

    Args:
        part: `"functions"` (compiling and autodiff) or `"steps"` (of training).

    Returns:
        The module, `tensorflow_functions` or `jax_functions` and so on.

    Raises:
        ValueError: if the backend is another one.

    Example:
        >>> module_of_backend("steps").train_step
    """
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(
            f"A language model with fast weights needs one of the backends {', '.join(BACKENDS)}; "
            f"Keras uses {backend!r}. Set KERAS_BACKEND."
        )
    return importlib.import_module(f"fwl_keras.backend.{backend}_{part}")
