"""Layer normalisation whose scale and offset are fast weights."""

import keras
from keras import ops

from fwl_keras._arguments import require_not_negative
from fwl_keras.layers.fast_layer import FastLayer
from fwl_keras.ops import running_sum


@keras.saving.register_keras_serializable(package="fwl_keras")
class FastLayerNormalization(FastLayer):
    """Layer normalisation, `gamma * norm(x) + beta`, that can take a gradient step per token.

    Called by itself it is an ordinary layer normalisation over the last axis (the slow pass).
    Statistics are float32 whatever the compute dtype. Equations: docs/mathematics.md.

    Args:
        epsilon: float, added to the variance; 0 is the published code's choice.
        gamma_initializer: initializer of gamma.
        **kwargs: keyword arguments of `FastLayer` and `keras.layers.Layer`.

    Call arguments:
        x: float tensor [..., S].

    Returns:
        Tensor [..., S] in the compute dtype.

    Example:
        >>> FastLayerNormalization()(np.array([[[1.0, 3.0]]], "float32"))
        [[[-1.0, 1.0]]]

    Reference:
        Clark et al. 2022, "Meta-Learning Fast Weight Language Models", arXiv 2212.02475.
    """

    def __init__(self, epsilon: float = 1e-6, gamma_initializer="ones", **kwargs):
        super().__init__(**kwargs)
        require_not_negative("epsilon", epsilon)
        self.epsilon = epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)

    def build(self, x_shape):
        self.add_fast_weights(
            gamma=((x_shape[-1],), self.gamma_initializer), beta=((x_shape[-1],), "zeros")
        )
        self.gamma, self.beta = self.fast_weights["gamma"], self.fast_weights["beta"]

    def call(self, x):
        return ops.cast(self.slow(self.weights_at(), x)[0], self.compute_dtype)

    def compute_output_shape(self, x_shape):
        return x_shape

    def normalize(self, x):
        """Return `x` less its mean, over its deviation, and one over the latter, float32, (4)."""
        x = ops.cast(x, "float32")
        centered = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
        scale = ops.rsqrt(variance + self.epsilon)
        return centered * scale, scale

    def slow(self, weights, x):
        """Return the layer with `weights`, (4), and what its gradient needs.

        Args:
            weights: dict from `weights_at`, shared or one set per row.
            x: tensor [..., S].

        Returns:
            A float32 tensor [..., S], and the pair from `normalize`, which `gradient` needs.
        """
        normalized, scale = self.normalize(x)
        return weights["gamma"] * normalized + weights["beta"], (normalized, scale)

    def gradient(self, weights, gradient, statistics):
        """Return the gradient with respect to the layer's input, (8).

        Args:
            weights: dict from `weights_at`.
            gradient: float32 tensor [..., S], with respect to the output of `slow`.
            statistics: the pair that `slow` returned.

        Returns:
            A float32 tensor [..., S].
        """
        normalized, scale = statistics
        gradient = gradient * weights["gamma"]
        along = ops.mean(gradient * normalized, axis=-1, keepdims=True)
        return scale * (gradient - ops.mean(gradient, axis=-1, keepdims=True) - normalized * along)

    def fast(self, weights, x, key, value, running, chunk_length):
        """Return the layer at every token after one gradient step for each earlier one, (15).

        Args:
            weights: dict from `weights_at`.
            x: float32 tensor [B, T, S], the layer's input in the fast pass.
            key: float32 tensor [B, T, S], its normalised input in the slow pass.
            value: float32 tensor [B, T, S], gradients with respect to the slow output.
            running: dict of gradient sums carried in, or None.
            chunk_length: int, tokens a chunk.

        Returns:
            A float32 tensor [B, T, S], and the dict of gradient sums with these tokens.
        """
        running = running or {"gamma": None, "beta": None}
        gamma_steps, gamma = running_sum(value * key, running["gamma"], chunk_length)
        beta_steps, beta = running_sum(value, running["beta"], chunk_length)
        gamma_t = weights["gamma"] - self.step_size("gamma") * gamma_steps
        beta_t = weights["beta"] - self.step_size("beta") * beta_steps
        return gamma_t * self.normalize(x)[0] + beta_t, {"gamma": gamma, "beta": beta}

    def step(self, key, value):
        """Return the gradient sums of all tokens by themselves, a dict; arguments as for `fast`."""
        return {"gamma": ops.sum(value * key, axis=1), "beta": ops.sum(value, axis=1)}

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            epsilon=self.epsilon,
            gamma_initializer=keras.initializers.serialize(self.gamma_initializer),
        )
        return config
