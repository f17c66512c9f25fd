"""The classes of this package that a saved file can hold."""

# No other module of the package is imported because a file names it.
SAVED_CLASSES = {
    "fwl_keras.layers.codebook": ("Codebook",),
    "fwl_keras.layers.fast_dense": ("FastDense",),
    "fwl_keras.layers.fast_layer_normalization": ("FastLayerNormalization",),
    "fwl_keras.layers.fwl_block": ("FWLBlock",),
    "fwl_keras.layers.squared_relu": ("SquaredReLU",),
    "fwl_keras.layers.unembedding": ("Unembedding",),
    "fwl_keras.backbones.encoder_block_backbone": ("EncoderBlockBackbone",),
    "fwl_keras.models.fwl_causal_lm": ("FWLCausalLM",),
    "fwl_keras.backbones.keras2_layer": ("Keras2Layer",),
    "fwl_keras.models.keras_hub_causal_lm": ("KerasHubFWLCausalLM",),
    "fwl_keras.models.perplexity": ("Perplexity",),
    "fwl_keras.backbones.recurrent_backbone": ("RecurrentBackbone",),
    "fwl_keras.inference.texts": ("TextPreprocessor",),
    "fwl_keras.backbones.transformer_xl_backbone": ("TransformerXLBackbone",),
}


def registered_name(class_name: str) -> str:
    """Return the name that a class of this package is registered under with Keras."""
    return f"fwl_keras>{class_name}"
