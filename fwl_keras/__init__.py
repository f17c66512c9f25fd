"""Fast Weight Layers for Keras: language models that adapt to the text they are reading."""

from fwl_keras.layers import FWLBlock
from fwl_keras.models import FWLCausalLM
from fwl_keras.ops import next_token_targets

__version__ = "0.1.0"

__all__ = ["FWLBlock", "FWLCausalLM", "next_token_targets"]
