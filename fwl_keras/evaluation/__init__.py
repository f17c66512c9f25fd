"""Measuring language models that adapt to what they read."""

from fwl_keras.evaluation.document_losses import document_losses, stream_losses, token_losses
from fwl_keras.evaluation.dynamic_evaluation import DynamicEvaluation

__all__ = ["DynamicEvaluation", "document_losses", "stream_losses", "token_losses"]
