"""Bodies from the TensorFlow Model Garden (tf-models-official), whose layers are of Keras 2."""

from fwl_keras.models.encoder_block_backbone import EncoderBlockBackbone
from fwl_keras.models.keras2_layer import Keras2Layer
from fwl_keras.models.transformer_xl_backbone import TransformerXLBackbone

__all__ = ["EncoderBlockBackbone", "Keras2Layer", "TransformerXLBackbone"]
