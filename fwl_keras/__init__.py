"""Fast Weight Layers for Keras: language models that adapt to the text they are reading."""

import importlib

__version__ = "0.1.0"

# Loaded when first used, so that the command's help does not wait for Keras.
_HOMES = {
    "FWLBlock": "layers",
    "FWLCausalLM": "models",
    "next_token_targets": "ops",
}
_SUBPACKAGES = ("data", "evaluation", "layers", "models", "ops")

__all__ = ["FWLBlock", "FWLCausalLM", "next_token_targets"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_SUBPACKAGES])
