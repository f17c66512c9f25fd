"""Measuring language models that adapt to what they read."""

from fwl_keras.evaluation.document_losses import document_losses
from fwl_keras.evaluation.dynamic_evaluation import DynamicEvaluation
from fwl_keras.evaluation.token_losses import stream_losses, token_losses

__all__ = ["DynamicEvaluation", "document_losses", "stream_losses", "token_losses"]
