"""The TensorFlow Model Garden's layers that backbones are made of; the import takes seconds."""

try:
    from official.nlp.modeling.layers import (
        PositionEmbedding,
        TransformerEncoderBlock,
        TransformerXL,
    )
    from official.nlp.modeling.networks.xlnet_base import RelativePositionEncoding
except ImportError as error:
    raise ImportError(
        "The TensorFlow Model Garden is not installed, the package `tf-models-official`: "
        'pip install "fwl_keras[model-garden]".'
    ) from error

__all__ = [
    "PositionEmbedding",
    "RelativePositionEncoding",
    "TransformerEncoderBlock",
    "TransformerXL",
]
