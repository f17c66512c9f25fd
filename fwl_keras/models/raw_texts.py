"""Texts where Keras takes arrays: seen, and turned into token ids."""

from collections.abc import Callable

import keras
import numpy as np


def holds_text(data) -> bool:
    """Return whether there is text in it.

    Args:
        data: a text, an array or tensor, a nested structure of such, or a `tf.data.Dataset`.
            Anything else (generators, `keras.utils.PyDataset`) is not looked into: False.
    """
    return any(_is_text(leaf) for leaf in keras.tree.flatten(getattr(data, "element_spec", data)))


def tokenized(preprocess: Callable, x, y=None, sample_weight=None) -> tuple:
    """Return texts as token ids; everything else as it is.

    Args:
        preprocess: function of `x`, `y` and `sample_weight` that gives a tuple `(x, y,
            sample_weight)` of token ids for a batch of texts.
        x: texts, as a list, an array or a batched `tf.data.Dataset`; or anything without text.
        y: labels, or None.
        sample_weight: weights, or None.

    Returns:
        `(x, y, sample_weight)`: numpy arrays where texts were, or a dataset and twice None.

    Raises:
        ValueError: if there is one text instead of a batch of them.
    """
    if not holds_text(x):
        return x, y, sample_weight
    specs = getattr(x, "element_spec", None)
    single = isinstance(x, str | bytes) if specs is None else _are_scalars(specs)
    if single:
        raise ValueError(
            "`x` must be a batch of texts; received single texts. Give a list of them, or "
            "`dataset.batch(8)`."
        )
    if specs is not None:
        # Whoever has a tf.data.Dataset has TensorFlow, whatever the backend is.
        import tensorflow as tf

        mapped = x.map(preprocess, num_parallel_calls=tf.data.AUTOTUNE)
        return mapped.prefetch(tf.data.AUTOTUNE), None, None
    result = preprocess(_lists(x), y, sample_weight)
    result = keras.tree.map_structure(np.asarray, result)
    return keras.utils.unpack_x_y_sample_weight(result)


def _is_text(leaf) -> bool:
    if isinstance(leaf, str | bytes):
        return True
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "O":
        return any(isinstance(one, str | bytes) for one in leaf.flat)
    dtype = getattr(leaf, "dtype", None)
    if isinstance(dtype, np.dtype):
        return dtype.kind in "US"
    return getattr(dtype, "name", None) == "string"


def _are_scalars(specs) -> bool:
    return all(len(spec.shape) == 0 for spec in keras.tree.flatten(specs) if _is_text(spec))


def _lists(x):
    """Return arrays of texts as lists of `str`, which every tokeniser takes."""
    if isinstance(x, dict):
        return {name: _lists(value) for name, value in x.items()}
    if hasattr(x, "numpy"):
        x = x.numpy()
    if isinstance(x, np.ndarray):
        x = x.tolist()
    return [one.decode("utf-8") if isinstance(one, bytes) else one for one in x]
