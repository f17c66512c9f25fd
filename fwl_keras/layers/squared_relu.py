"""The activation between the two dense layers of a fast weight block."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="fwl_keras")
class SquaredReLU(keras.layers.Layer):
    """Squared ReLU, `relu(x)^2` (So et al. 2021, "Primer", arXiv 2109.08668).

    It has no weights: its slow and its fast pass are the same function.

    Call arguments:
        x: float tensor of any shape.

    Returns:
        Tensor of the same shape.

    Example:
        >>> SquaredReLU()(np.array([-1.0, 3.0], "float32"))
        [0.0, 9.0]
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, x_shape):
        pass

    def call(self, x):
        return ops.square(ops.relu(x))

    slow = fast = call

    def gradient(self, x, gradient):
        """Return the gradient with respect to `x`, given the one with respect to the output."""
        return 2.0 * ops.relu(x) * gradient

    def compute_output_shape(self, x_shape):
        return x_shape
