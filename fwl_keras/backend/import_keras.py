"""Keras with its backend, or one sentence about why it cannot be imported."""

import importlib.util
import os

_PACKAGES = {
    "tensorflow": "pip install tensorflow",
    "jax": "pip install 'fwl_keras[jax]'",
}


class BackendError(ImportError):
    """The backend that Keras is to use is unknown or not installed."""


def import_keras() -> None:
    """Import Keras, whose backend is chosen by `KERAS_BACKEND` or `~/.keras/keras.json`.

    Raises:
        BackendError: if the backend is unknown or not installed.

    Example:
        >>> import_keras()
    """
    try:
        import keras  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name == "keras":
            raise
        raise BackendError(_what_to_do(f"cannot be imported ({_line(error)})")) from None
    except ValueError as error:
        # Keras's words for a backend that it does not know.
        if "backend" not in str(error).lower():
            raise
        raise BackendError(_what_to_do(f"is not one that Keras knows ({_line(error)})")) from None


def _what_to_do(problem: str) -> str:
    chosen = os.environ.get("KERAS_BACKEND")
    where = f"KERAS_BACKEND={chosen!r}"
    if not chosen:
        where = 'KERAS_BACKEND is not set, and "backend" in ~/.keras/keras.json'
        problem = f"(tensorflow, if there is none) {problem}"
    installed = [name for name in _PACKAGES if importlib.util.find_spec(name) is not None]
    ways = [f"install {name} with `{how}`" for name, how in _PACKAGES.items()]
    if installed:
        ways = [way for way, name in zip(ways, _PACKAGES, strict=True) if name not in installed]
        ways.insert(0, f"set KERAS_BACKEND to what is installed ({' or '.join(installed)})")
    return f"{where} {problem}; fwl_keras runs on tensorflow and jax: {', or '.join(ways)}."


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
