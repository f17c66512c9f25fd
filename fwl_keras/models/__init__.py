"""Language models with fast weights."""

import importlib
from typing import TYPE_CHECKING

import fwl_keras.backbones  # noqa: F401  (registers RecurrentBackbone)
from fwl_keras.inference.texts import TextPreprocessor
from fwl_keras.models.fwl_causal_lm import FWLCausalLM
from fwl_keras.models.keras_hub_stand_in import KerasHubStandIn  # noqa: F401  (registers it)
from fwl_keras.models.perplexity import Perplexity

if TYPE_CHECKING:
    from fwl_keras.models.keras_hub_causal_lm import (
        KerasHubFWLCausalLM,
        from_causal_lm,
        from_preset,
    )

# What needs KerasHub, which is slow to import, and the modules that have it.
_LAZY = {
    "KerasHubFWLCausalLM": "keras_hub_causal_lm",
    "from_causal_lm": "keras_hub_causal_lm",
    "from_preset": "keras_hub_causal_lm",
}

__all__ = [
    "FWLCausalLM",
    "KerasHubFWLCausalLM",
    "Perplexity",
    "TextPreprocessor",
    "from_causal_lm",
    "from_preset",
]


def __getattr__(name: str):
    """Import what needs KerasHub when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"Module {__name__!r} has no attribute {name!r}.")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
