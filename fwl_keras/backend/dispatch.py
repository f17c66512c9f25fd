"""What each backend does in its own way, found by the name of the one in use."""

import importlib
from types import ModuleType

import keras

BACKENDS = ("tensorflow", "jax")


def require_backend() -> None:
    """Raise a ValueError on a backend that fast weights do not run on."""
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(
            f"Fast weights run on the backends {' and '.join(BACKENDS)}; Keras uses {backend!r}. "
            'Set the environment variable `KERAS_BACKEND`, or "backend" in `~/.keras/keras.json`, '
            "to one of them before Keras is imported."
        )


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
    require_backend()
    backend = keras.backend.backend()
    return importlib.import_module(f"fwl_keras.backend.{backend}_{part}")
