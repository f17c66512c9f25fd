"""Telling Keras' callbacks which metrics are better when they are larger."""

from collections.abc import Iterable

import keras


def set_directions(callbacks, metrics: Iterable[keras.metrics.Metric]) -> None:
    """Give callbacks that watch one of these metrics, and have no `mode`, the right one.

    Keras itself asks the metrics given to `compile` only, and a model's own metrics never.

    Args:
        callbacks: what `fit` takes: callbacks, a `keras.callbacks.CallbackList`, or None.
        metrics: metrics that say their direction, as Keras' do.
    """
    modes = {one.name: {"up": "max", "down": "min"}[one._direction] for one in metrics}
    for callback in getattr(callbacks, "callbacks", None) or keras.tree.flatten(callbacks):
        name = str(getattr(callback, "monitor", "")).removeprefix("val_")
        if name in modes and getattr(callback, "mode", None) == "auto":
            callback.mode = modes[name]
