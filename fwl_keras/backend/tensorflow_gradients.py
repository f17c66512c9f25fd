"""A gradient that TensorFlow lacks: of `keras.ops.slice_update`, with which caches are written."""

import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice


def _gradient(op, dy):
    """Of an array with a slice replaced: to the array outside of it, to the slice inside."""
    _, update, indices = op.inputs
    outside = dynamic_update_slice(dy, tf.zeros_like(update), indices)
    # As XLA does, the slice is moved until it fits.
    last = tf.cast(tf.shape(dy) - tf.shape(update), indices.dtype)
    begin = tf.clip_by_value(indices, tf.zeros_like(last), last)
    inside = tf.slice(dy, begin, tf.cast(tf.shape(update), begin.dtype))
    return outside, inside, None


def register() -> None:
    """Register the gradient, unless TensorFlow or somebody else has one."""
    name = "XlaDynamicUpdateSlice"
    try:
        tf.RegisterGradient(name)(_gradient)
    except KeyError as error:
        if name not in str(error):
            raise
