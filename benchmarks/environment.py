"""What a result was measured with."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import keras

_PACKAGES = (
    "fwl_keras",
    "keras",
    "keras-hub",
    "tensorflow",
    "tensorflow-text",
    "tf-models-official",
    "jax",
    "numpy",
)


def environment() -> dict[str, str]:
    """Return the machine, the Keras backend, and the versions of what is installed."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
        **{name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None
