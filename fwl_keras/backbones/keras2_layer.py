"""A layer of Keras 2 (`tf_keras`) as a layer of Keras 3."""

import contextlib

import keras
import tensorflow as tf

from fwl_keras.backbones.keras2 import keras2_policy, tf_keras
from fwl_keras.backbones.keras2_config import layer_from_config


@keras.saving.register_keras_serializable(package="fwl_keras")
class Keras2Layer(keras.layers.Layer):
    """A real Keras 3 layer that does what a `tf_keras` layer does.

    A `tf_keras` layer that is merely called inside a Keras 3 layer computes, but Keras does not
    see its variables: it would silently not train, and not be saved. Here each one is shared with
    a `keras.Variable`, the training flag is passed on, and so are the layer's losses. A process
    that loads a model of your own with such layers imports `fwl_keras.backbones.Keras2Layer`
    first. Of what a file names, the layers are built that `fwl_keras.backbones.keras2_config`
    lists, and your own: those registered with `tf_keras`, or given in `custom_objects`.

    Args:
        layer: `tf_keras.layers.Layer` or model. Its dtype policy is the one in use.
        frozen: names, or ends of names, of variables that are not trained.
        **kwargs: keyword arguments of `keras.layers.Layer`; `dtype` must be the layer's policy.

    Call arguments:
        inputs: what the layer takes as its first argument: a tensor, or a list or dict of them.
        training: as for Keras layers.

    Returns:
        What the layer returns.

    Raises:
        ValueError: if `layer` is not a layer of Keras 2, or a frozen name is no variable's.

    Example:
        >>> dense = Keras2Layer(tf_keras.layers.Dense(4))
        >>> dense(np.ones((2, 3)))
        >>> len(dense.trainable_variables)
        2
    """

    # Its configuration is checked by the rules of Keras 2, in `from_config`.
    keras2_arguments = ("layer",)

    def __init__(self, layer, frozen: tuple[str, ...] = (), **kwargs):
        if not isinstance(layer, tf_keras.layers.Layer):
            raise ValueError(
                f"`layer` must be a layer of Keras 2, a `tf_keras.layers.Layer`; received "
                f"{type(layer).__module__}.{type(layer).__name__}. Layers of Keras 3 need no "
                "adapter."
            )
        policy = layer.dtype_policy.name if hasattr(layer, "dtype_policy") else layer.dtype
        dtype = kwargs.pop("dtype", None)
        if dtype is not None and keras.dtype_policies.get(dtype).name != policy:
            raise ValueError(
                f"`dtype`={dtype!r} must be the policy of `layer`, {policy!r}, which it was made "
                "with; leave it out."
            )
        super().__init__(dtype=policy, autocast=False, **kwargs)
        # Behind a function: TensorFlow would otherwise find the layer, and export all that
        # Keras 2 knows about it beside what is exported here.
        self._layer = lambda: layer
        self.frozen = tuple(frozen)
        self.shared_variables = []

    @property
    def layer(self) -> "tf_keras.layers.Layer":
        """The layer of Keras 2."""
        return self._layer()

    def build(self, input_shape):
        """Let the layer create its variables, which Keras 2 does when it is first called."""
        # Outside of whatever graph this happens in: variables are no part of a graph.
        policy = keras2_policy(self.layer.dtype_policy.name)
        with tf.init_scope(), tf.name_scope(""), policy:
            self.run(self.example(input_shape), training=False)
        frozen = set()
        for variable in self.layer.variables:
            parts = variable.name.removesuffix(":0").split("/")
            names = [name for name in self.frozen if "/".join(parts).endswith(name)]
            frozen.update(names)
            with contextlib.ExitStack() as scopes:
                for part in parts[:-1]:
                    scopes.enter_context(keras.name_scope(part))
                shared = keras.Variable(
                    variable,
                    dtype=variable.dtype.name,
                    trainable=variable.trainable and not names,
                    name=parts[-1],
                )
            self.shared_variables.append(shared)
        unknown = sorted(set(self.frozen) - frozen)
        if unknown:
            names = [variable.name for variable in self.layer.variables]
            raise ValueError(f"`frozen` has {unknown}, which end no name of a variable: {names}.")

    def example(self, input_shape):
        """Inputs of a shape, for the first call.

        Args:
            input_shape: shape, or a list or dict of them.
        """
        if isinstance(input_shape, dict):
            return {name: self.example(shape) for name, shape in input_shape.items()}
        if input_shape and isinstance(input_shape[0], list | tuple | dict):
            return [self.example(shape) for shape in input_shape]
        return tf.zeros([size or 1 for size in input_shape], self.compute_dtype)

    def run(self, inputs, training):
        """Call the layer; for layers whose arguments are more than one structure."""
        return self.layer(inputs, training=training)

    def call(self, inputs, training=None):
        outputs = self.run(inputs, training=bool(training))
        for loss in self.layer.losses:
            self.add_loss(loss)
        return outputs

    def get_config(self) -> dict:
        layer = tf_keras.layers.serialize(self.layer)
        config = {**super().get_config(), "layer": layer, "frozen": self.frozen}
        del config["dtype"]
        return config

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layer": layer_from_config(config["layer"])})
