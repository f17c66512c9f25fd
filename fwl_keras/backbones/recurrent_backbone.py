"""A recurrent backbone that hands out its state."""

import keras
from keras import ops

from fwl_keras.saving import check_config


@keras.saving.register_keras_serializable(package="fwl_keras")
class RecurrentBackbone(keras.layers.Layer):
    """A stack of layers from token ids to features that can go on where it stopped.

    What `keras.Sequential` of an embedding and recurrent layers does, and it gives the recurrent
    layers' states to whoever asks for them. Each row has a state of its own.

    Args:
        layers: list of layers, applied in order: an embedding, `keras.layers.LSTM`, `GRU` or
            other `keras.layers.RNN` layers (which are set to return sequences and states), and
            layers that work on every position on its own.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: int tensor [B, T], or dict of `token_ids` [B, T] and `padding_mask` [B, T]; a
            token that does not exist leaves the states as they are.
        context: dict from `initial_context` or an earlier call, or None to begin.

    Returns:
        Features [B, T, D]; with a context a pair of them and the context after the last token.

    Raises:
        ValueError: if `layers` is empty, or holds a layer that reads backwards.

    Example:
        >>> backbone = RecurrentBackbone([keras.layers.Embedding(50, 16), keras.layers.GRU(16)])
        >>> backbone(np.zeros((2, 10), "int32")).shape
        (2, 10, 16)
    """

    def __init__(self, layers: list, **kwargs):
        super().__init__(**kwargs)
        self.layers = list(layers)
        if not self.layers:
            raise ValueError("`layers` is empty; give an embedding and recurrent layers.")
        for layer in self.layers:
            backwards = getattr(layer, "go_backwards", False)
            if backwards or isinstance(layer, keras.layers.Bidirectional):
                raise ValueError(
                    f"`layers` holds {layer.name!r}, which reads backwards: a language model may "
                    "not see the future. Use a layer that reads forwards."
                )
            if isinstance(layer, keras.layers.RNN):
                layer.return_sequences = layer.return_state = True

    def build(self, input_shape):
        shape = input_shape["token_ids"] if isinstance(input_shape, dict) else input_shape
        for layer in self.layers:
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)
            if isinstance(layer, keras.layers.RNN):
                shape = shape[0]

    def call(self, inputs, context=None):
        x, mask = inputs, None
        if isinstance(inputs, dict):
            x, mask = inputs["token_ids"], ops.cast(inputs["padding_mask"], "bool")
        new_context = {}
        for index, layer in enumerate(self.layers):
            if not isinstance(layer, keras.layers.RNN):
                x = layer(x)
                mask = getattr(x, "_keras_mask", None) if mask is None else mask
                continue
            initial = None
            names = _state_names(index, layer)
            if context is not None:
                initial = [ops.cast(context[name], layer.compute_dtype) for name in names]
            x, *states = layer(x, initial_state=initial, mask=mask)
            new_context |= {
                name: ops.cast(state, "float32") for name, state in zip(names, states, strict=True)
            }
        return x if context is None else (x, new_context)

    def initial_context(self, batch_size: int, length: int | None = None) -> dict:
        """Return the context before the first token.

        Args:
            batch_size: number of rows B, int or integer tensor.
            length: not used: a recurrent state has one size, whatever the text.

        Returns:
            Dict of float32 zeros [B, units], one for each state of each recurrent layer.
        """
        return {
            name: ops.zeros((batch_size, size), "float32")
            for index, layer in enumerate(self.layers)
            if isinstance(layer, keras.layers.RNN)
            for name, size in zip(
                _state_names(index, layer), keras.tree.flatten(layer.state_size), strict=True
            )
        }

    def get_config(self) -> dict:
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config):
        check_config(config)
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})


def _state_names(index, layer):
    """Return names of a recurrent layer's states: an LSTM has two."""
    return [f"layer_{index}_{i}" for i in range(len(keras.tree.flatten(layer.state_size)))]
