"""Compiling and autodiff on TensorFlow."""

from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice


def compile_function(
    lm: keras.Model,
    function: Callable,
    changed: list[keras.Variable],
    jit_compile: bool,
) -> Callable:
    """Compile a function of tensors, one graph for each shape; see `Compiled`."""
    graphs = {}

    def run(*arguments):
        # TensorFlow warns of one function with many graphs; a text's length is no mistake.
        shapes = tuple(tuple(a.shape) for a in tf.nest.flatten(arguments))
        if shapes not in graphs:
            graphs[shapes] = tf.function(
                lambda *a: function(*a), autograph=False, jit_compile=jit_compile
            )
        return graphs[shapes](*arguments)

    return run


def tensor_gradients(function: Callable, x) -> tuple:
    """See `value_and_gradients`."""
    _register_slice_gradient()
    return _gradients(lambda: function(x), [x], watched=[x])


def weight_gradients(lm: keras.Model, variables: list[keras.Variable], function: Callable) -> tuple:
    """A function's other results, and its gradients with respect to a model's variables.

    Args:
        lm: the model.
        variables: list of its variables.
        function: of nothing, returns a scalar and a structure of tensors.
    """
    return _gradients(function, [v.value for v in variables])


def _gradients(function, sources, watched=()):
    with tf.GradientTape() as tape:
        tape.watch(watched)
        scalar, others = function()
    gradients = tape.gradient(scalar, sources, unconnected_gradients="zero")
    # An embedding's gradient is given by its rows.
    return others, [tf.convert_to_tensor(g) for g in gradients]


def _slice_gradient(op, dy):
    """Of an array with a slice replaced: to the array outside of it, to the slice inside."""
    _, update, indices = op.inputs
    outside = dynamic_update_slice(dy, tf.zeros_like(update), indices)
    # As XLA does, the slice is moved until it fits.
    last = tf.cast(tf.shape(dy) - tf.shape(update), indices.dtype)
    begin = tf.clip_by_value(indices, tf.zeros_like(last), last)
    inside = tf.slice(dy, begin, tf.cast(tf.shape(update), begin.dtype))
    return outside, inside, None


def _register_slice_gradient():
    """Register the gradient of `keras.ops.slice_update`, with which caches are written.

    TensorFlow lacks it; where somebody has registered one, it stays.
    """
    name = "XlaDynamicUpdateSlice"
    try:
        tf.RegisterGradient(name)(_slice_gradient)
    except KeyError as error:
        if name not in str(error):
            raise
