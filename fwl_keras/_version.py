"""The package's version, which `pyproject.toml` gives."""

from importlib import metadata

try:
    __version__ = metadata.version("fwl_keras")
except metadata.PackageNotFoundError:  # a copy of the source that nobody installed
    __version__ = "unknown"
