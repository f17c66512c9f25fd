"""Fast Weight Layers for Keras: language models that adapt to the text they are reading."""

import importlib
import pkgutil
import sys
from pathlib import PurePath
from types import ModuleType

from fwl_keras._version import __version__ as __version__

# The command imports what it needs when it needs it: its help must not wait for TensorFlow. For
# everybody else importing the package registers its classes, so that Keras can load saved models.
if PurePath((getattr(sys, "argv", None) or [""])[0]).name != "fwl-keras":
    from fwl_keras.backend.import_keras import import_keras

    # Before anything else imports Keras, whose own errors say less.
    import_keras()

    from fwl_keras import callbacks
    from fwl_keras.layers import FWLBlock
    from fwl_keras.models import FWLCausalLM
    from fwl_keras.ops import next_token_targets

    __all__ = ["FWLBlock", "FWLCausalLM", "callbacks", "next_token_targets"]

_SUBMODULES = (
    "backbones",
    "callbacks",
    "data",
    "evaluation",
    "layers",
    "models",
    "ops",
    "serving",
)


def __getattr__(name: str) -> ModuleType:
    """Import a part of the package when it is first asked for."""
    if name in _SUBMODULES:
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            # Not where another library is missing, which the error names.
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    there = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted({*globals(), *there.intersection(_SUBMODULES)})
