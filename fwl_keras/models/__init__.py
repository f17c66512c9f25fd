"""Language models with fast weights."""

from fwl_keras.models.fwl_causal_lm import FWLCausalLM
from fwl_keras.models.perplexity import Perplexity

__all__ = ["FWLCausalLM", "Perplexity"]
