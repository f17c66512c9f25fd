"""An order for what does not depend on each other, so that it need not all be kept at once."""

import keras


def together(*tensors):
    """Return the tensors as they are, none of them before all of them have been computed.

    What is recomputed in a backward pass would else be so as soon as the forward pass is over, and
    all of it at once. Not differentiable by itself on every backend: for custom gradients.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tuple(tf.identity_n(tensors))
    if backend == "jax":
        import jax

        return jax.lax.optimization_barrier(tensors)
    return tensors
