"""Bodies from the TensorFlow Model Garden (tf-models-official), whose layers are of Keras 2."""

from fwl_keras.backbones.encoder_block_backbone import EncoderBlockBackbone
from fwl_keras.backbones.keras2_layer import Keras2Layer
from fwl_keras.backbones.transformer_xl_backbone import TransformerXLBackbone

__all__ = ["EncoderBlockBackbone", "Keras2Layer", "TransformerXLBackbone"]
