"""What layers with fast weights have in common: step sizes, decays and adapted weights."""

import math

import keras
import numpy as np
from keras import ops

from fwl_keras._arguments import require_bools, require_fraction, require_positive
from fwl_keras.saving import check_config


class FastLayer(keras.layers.Layer):
    """Base of the layers whose weights take gradient steps while they read.

    Every fast weight has a learned positive step size and a learned decay in (0, 1), both
    starting where their variables are zero: docs/mathematics.md, (22) and (23).

    Subclasses add fast weights in `build` and implement three verbs, pure functions of their
    arguments: `slow` (the layer with given weights), `gradient` (its backward pass) and `fast`
    (the layer with one gradient step per earlier token).

    Args:
        initial_step_size: positive float, per token.
        step_size_gain: positive float; stands for a larger learning rate of the step sizes.
        step_size_per_unit: if True one step size and decay per output unit, else per weight.
        initial_decay: float in (0, 1), what is left of the updates after a segment.
        train_step_sizes: if False step sizes and decays stay where they are.
        train_decays: if False decays stay where they are.
        **kwargs: keyword arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        initial_step_size: float = 3e-3,
        step_size_gain: float = 10.0,
        step_size_per_unit: bool = False,
        initial_decay: float = 0.95,
        train_step_sizes: bool = True,
        train_decays: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        require_positive("initial_step_size", initial_step_size)
        require_positive("step_size_gain", step_size_gain)
        require_fraction("initial_decay", initial_decay)
        require_bools(
            step_size_per_unit=step_size_per_unit,
            train_step_sizes=train_step_sizes,
            train_decays=train_decays,
        )
        self.initial_step_size = initial_step_size
        self.step_size_gain = step_size_gain
        self.step_size_per_unit = step_size_per_unit
        self.initial_decay = initial_decay
        self.train_step_sizes = train_step_sizes
        self.train_decays = train_decays
        self.fast_weights = {}
        self.step_size_variables = {}
        self.decay_variables = {}

    def add_fast_weights(self, **specs) -> None:
        """Create weights, then their step sizes, then their decays.

        Args:
            **specs: name = (shape, initializer).
        """
        for name, (shape, initializer) in specs.items():
            self.fast_weights[name] = self.add_weight(
                name=name, shape=shape, initializer=initializer, autocast=False
            )
        groups = (
            (self.step_size_variables, "step_size", self.train_step_sizes),
            (self.decay_variables, "decay", self.train_step_sizes and self.train_decays),
        )
        for variables, suffix, trainable in groups:
            for name, (shape, _) in specs.items():
                variables[name] = self.add_weight(
                    name=f"{name}_{suffix}",
                    shape=shape[-1:] if self.step_size_per_unit else (),
                    initializer="zeros",
                    dtype="float32",
                    autocast=False,
                    trainable=trainable,
                )

    def step_size(self, name: str):
        """Return the step size of the weight `name`, float32, shape () or (units,), (22)."""
        theta = ops.convert_to_tensor(self.step_size_variables[name])
        return self.initial_step_size * ops.exp(self.step_size_gain * theta)

    def decay(self, name: str):
        """Return the decay of the weight `name`, float32, shape () or (units,), (23)."""
        phi = ops.convert_to_tensor(self.decay_variables[name])
        return ops.sigmoid(_logit(self.initial_decay) + self.step_size_gain * phi)

    def set_step_size(self, name: str, value) -> None:
        """Assign a positive step size, a number or an array of the variable's shape."""
        require_step_sizes(name, value)
        theta = np.log(np.asarray(value, "float64") / self.initial_step_size) / self.step_size_gain
        _assign(self.step_size_variables[name], theta)

    def set_decay(self, name: str, value) -> None:
        """Assign a decay in (0, 1), a number or an array of the variable's shape."""
        require_decays(name, value)
        phi = (_logit(value) - _logit(self.initial_decay)) / self.step_size_gain
        _assign(self.decay_variables[name], phi)

    def weights_at(self, sums=None) -> dict:
        """Return the weights after the steps in `sums`, float32: W - step_size * sum, (16).

        Args:
            sums: None, or dict of gradient sums [B, *shape of the weight].

        Returns:
            Dict of the weights themselves where `sums` is None, else of one set per row,
            [B, *shape], vectors as [B, 1, units] so that they add to [B, T, units].
        """
        weights = {
            name: ops.cast(ops.copy(variable.value), "float32")
            for name, variable in self.fast_weights.items()
        }
        if sums is None:
            return weights
        adapted = {name: w - self.step_size(name) * sums[name] for name, w in weights.items()}
        return {name: w[:, None] if len(w.shape) == 2 else w for name, w in adapted.items()}

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            initial_step_size=self.initial_step_size,
            step_size_gain=self.step_size_gain,
            step_size_per_unit=self.step_size_per_unit,
            initial_decay=self.initial_decay,
            train_step_sizes=self.train_step_sizes,
            train_decays=self.train_decays,
        )
        return config

    @classmethod
    def from_config(cls, config):
        check_config(config)
        return super().from_config(config)


def require_step_sizes(name: str, values) -> None:
    """Raise a ValueError unless all of `values`, a number or an array, are positive."""
    for value in _numbers(name, values):
        require_positive(name, value)


def require_decays(name: str, values) -> None:
    """Raise a ValueError unless all of `values`, a number or an array, lie between 0 and 1."""
    for value in _numbers(name, values):
        require_fraction(name, value)


def _numbers(name, values):
    """Return the smallest and the largest: NaN is both, and what is no number is as it is."""
    values = np.asarray(values)
    if not values.size:
        raise ValueError(f"`{name}` must be a number or an array of them; received none.")
    return (values.min(), values.max()) if values.dtype.kind in "iuf" else values.ravel()[:1]


def _logit(p):
    return np.log(p) - np.log1p(-np.asarray(p, "float64")) if np.ndim(p) else math.log(p / (1 - p))


def _assign(variable, value):
    variable.assign(np.broadcast_to(value, variable.shape).astype("float32"))
