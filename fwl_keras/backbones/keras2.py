"""Keras 2, for layers that are made with it: the package `tf_keras`, and its dtype policy."""

import contextlib
from collections.abc import Iterator

import keras

try:
    import tf_keras
except ImportError as error:
    raise ImportError(
        "Layers of Keras 2 need the package `tf_keras`, those of the TensorFlow Model Garden "
        '`tf-models-official`: pip install "fwl_keras[model-garden]".'
    ) from error

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "Layers of Keras 2 are TensorFlow's: they cannot run on the Keras backend "
        f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
    )

__all__ = ["keras2_policy", "tf_keras"]


@contextlib.contextmanager
def keras2_policy(name: str) -> Iterator[None]:
    """Set Keras 2's global dtype policy: layers inside a layer take it, not the outer layer's."""
    mixed_precision = tf_keras.mixed_precision
    before = mixed_precision.global_policy()
    mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        mixed_precision.set_global_policy(before)
