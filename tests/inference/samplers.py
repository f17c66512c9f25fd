"""A sampler as users write them, for tests on every backend."""

import keras
import keras_hub
from keras import ops


@keras.saving.register_keras_serializable(package="tests")
class Forbidding(keras_hub.samplers.Sampler):
    """Draws any token but one.

    Args:
        token: the forbidden token.
        seed: of the drawing; None takes the likeliest of the others.
    """

    def __init__(self, token, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.token = token
        self.seed = seed
        if seed is not None:
            self.generator = keras.random.SeedGenerator(seed)

    def get_next_token(self, probabilities):
        allowed = ops.not_equal(ops.arange(probabilities.shape[-1]), self.token)
        logits = ops.where(allowed, ops.log(probabilities), -1e9)
        if self.seed is None:
            return ops.argmax(logits, axis=-1)
        return keras.random.categorical(logits, 1, seed=self.generator)[:, 0]

    def get_config(self):
        return {**super().get_config(), "token": self.token, "seed": self.seed}
