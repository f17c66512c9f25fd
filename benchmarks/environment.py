"""The machine that something is measured on, and what is installed there."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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


def resident_bytes() -> int:
    """Return the memory that this process has in use."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """Return the most memory that this process has had in use since it began."""
    status = Path("/proc/self/status").read_text("ascii")
    # Not `getrusage`: it goes on from what the process that started this one had in use.
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None
