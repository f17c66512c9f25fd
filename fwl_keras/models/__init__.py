"""Language models with fast weights."""

from fwl_keras.models.fwl_causal_lm import FWLCausalLM
from fwl_keras.models.perplexity import Perplexity
from fwl_keras.models.recurrent_backbone import RecurrentBackbone
from fwl_keras.models.text_preprocessor import TextPreprocessor

__all__ = ["FWLCausalLM", "Perplexity", "RecurrentBackbone", "TextPreprocessor"]
