"""Layers whose weights take gradient steps while they read."""

from fwl_keras.layers.codebook import Codebook
from fwl_keras.layers.fast_dense import FastDense
from fwl_keras.layers.fast_layer_normalization import FastLayerNormalization
from fwl_keras.layers.fwl_block import FWLBlock
from fwl_keras.layers.squared_relu import SquaredReLU
from fwl_keras.layers.unembedding import Unembedding

__all__ = [
    "Codebook",
    "FWLBlock",
    "FastDense",
    "FastLayerNormalization",
    "SquaredReLU",
    "Unembedding",
]
