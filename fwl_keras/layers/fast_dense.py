"""A dense layer whose kernel and bias are fast weights."""

import keras
from keras import ops

from fwl_keras._arguments import require_count
from fwl_keras.layers.fast_layer import FastLayer
from fwl_keras.ops import linear_attention, running_sum


@keras.saving.register_keras_serializable(package="fwl_keras")
class FastDense(FastLayer):
    """Dense layer, `x @ kernel + bias`, that can take a gradient step per token it reads.

    Called by itself it is an ordinary dense layer (the slow pass). A block of fast layers drives
    its three verbs, in which the steps are linear attention: docs/mathematics.md, (11).

    Args:
        units: positive int, width of the output.
        kernel_initializer: initializer of the kernel.
        bias_initializer: initializer of the bias.
        **kwargs: keyword arguments of `FastLayer` and `keras.layers.Layer`.

    Call arguments:
        x: float tensor [..., D].

    Returns:
        Tensor [..., units] in the compute dtype.

    Example:
        >>> FastDense(4)(np.ones((2, 3, 8), "float32")).shape
        (2, 3, 4)

    Reference:
        Clark et al. 2022, "Meta-Learning Fast Weight Language Models", arXiv 2212.02475.
    """

    def __init__(
        self, units: int, kernel_initializer="glorot_uniform", bias_initializer="zeros", **kwargs
    ):
        super().__init__(**kwargs)
        require_count("units", units)
        self.units = units
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, x_shape):
        self.add_fast_weights(
            kernel=((x_shape[-1], self.units), self.kernel_initializer),
            bias=((self.units,), self.bias_initializer),
        )
        self.kernel, self.bias = self.fast_weights["kernel"], self.fast_weights["bias"]

    def call(self, x):
        return ops.cast(self.slow(self.weights_at(), x), self.compute_dtype)

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.units)

    def slow(self, weights, x, *sums):
        """Return the layer with `weights`, less the steps in `sums`, never multiplied out, (17).

        Args:
            weights: dict from `weights_at`, shared or one set per row.
            x: tensor [..., D], or [B, T, D] where weights or sums belong to rows.
            *sums: dicts of gradient sums, kernel [B, D, units] and bias [B, units].

        Returns:
            A float32 tensor [..., units].
        """
        y = self._project(x, weights["kernel"]) + weights["bias"]
        for sum_ in sums:
            y = y - self.step_size("kernel") * self._project(x, sum_["kernel"])
            y = y - self.step_size("bias") * sum_["bias"][:, None]
        return y

    def gradient(self, weights, gradient, *sums):
        """Return the gradient with respect to the layer's input, (9).

        Args:
            weights: dict from `weights_at`, shared or one set per row.
            gradient: float32 tensor [B, T, units], with respect to the layer's output.
            *sums: dicts of gradient sums.

        Returns:
            A float32 tensor [B, T, D].
        """
        result = _project_back(gradient, weights["kernel"])
        for sum_ in sums:
            result = result - _project_back(self.step_size("kernel") * gradient, sum_["kernel"])
        return result

    def fast(self, slow_output, query, key, value, running, chunk_length):
        """Return the layer at every token after one gradient step for each earlier one, (15).

        Args:
            slow_output: float32 tensor [B, T, units], `slow` of the query.
            query: float32 tensor [B, T, D], the layer's input in the fast pass.
            key: float32 tensor [B, T, D], its input in the slow pass; 0 where no step is taken.
            value: float32 tensor [B, T, units], gradients with respect to the slow output.
            running: dict of gradient sums carried in, or None.
            chunk_length: int, tokens a chunk.

        Returns:
            A float32 tensor [B, T, units], and the dict of gradient sums with these tokens.
        """
        running = running or {"kernel": None, "bias": None}
        steps, kernel = linear_attention(query, key, value, running["kernel"], chunk_length)
        bias_steps, bias = running_sum(value, running["bias"], chunk_length)
        output = slow_output - self.step_size("kernel") * steps
        output = output - self.step_size("bias") * bias_steps
        return output, {"kernel": kernel, "bias": bias}

    def step(self, key, value):
        """Return the gradient sums of all tokens by themselves, a dict; arguments as for `fast`."""
        kernel = ops.matmul(ops.transpose(ops.cast(key, "float32"), (0, 2, 1)), value)
        return {"kernel": kernel, "bias": ops.sum(value, axis=1)}

    def _project(self, x, kernel):
        """Multiply matrices in the compute dtype; return float32."""
        x, kernel = (ops.cast(a, self.compute_dtype) for a in (x, kernel))
        return ops.cast(ops.matmul(x, kernel), "float32")

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            units=self.units,
            kernel_initializer=keras.initializers.serialize(self.kernel_initializer),
            bias_initializer=keras.initializers.serialize(self.bias_initializer),
        )
        return config


def _project_back(gradient, kernel):
    equation = "btu,bdu->btd" if len(kernel.shape) == 3 else "btu,du->btd"
    return ops.einsum(equation, gradient, kernel)
