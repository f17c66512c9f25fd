"""Perplexity over a whole epoch, not the mean of its batches' perplexities."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="fwl_keras")
class Perplexity(keras.metrics.Mean):
    """exp(total negative log-likelihood / total tokens), from losses per token.

    Call arguments:
        values: float tensor, negative log-likelihoods in nats (or their mean).
        sample_weight: tensor that broadcasts to `values`, numbers of tokens.

    Example:
        >>> metric = Perplexity()
        >>> metric.update_state([0.0, np.log(16.0)])
        >>> metric.result()
        4.0
    """

    def __init__(self, name: str = "perplexity", dtype=None):
        super().__init__(name=name, dtype=dtype)
        # As Keras' own metrics say that less is better.
        self._direction = "down"

    def result(self):
        return ops.exp(super().result())
