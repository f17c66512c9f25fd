"""Measuring language models that adapt to what they read."""

from fwl_keras.evaluation.token_losses import stream_losses, token_losses

__all__ = ["stream_losses", "token_losses"]
