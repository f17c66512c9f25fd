"""Backbones, from token ids to features, beside those of Keras and KerasHub."""

import importlib

from fwl_keras.backbones.recurrent_backbone import RecurrentBackbone

# What needs the TensorFlow Model Garden and Keras 2, and the modules that have it.
_LAZY = {
    "EncoderBlockBackbone": "encoder_block_backbone",
    "Keras2Layer": "keras2_layer",
    "TransformerXLBackbone": "transformer_xl_backbone",
}

__all__ = ["EncoderBlockBackbone", "Keras2Layer", "RecurrentBackbone", "TransformerXLBackbone"]


def __getattr__(name: str):
    """Import a backbone when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"Module {__name__!r} has no attribute {name!r}.")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
