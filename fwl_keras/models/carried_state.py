"""Where training keeps the fast weights' state from batch to batch."""

import keras
from keras import ops

from fwl_keras.ops.reset_rows import reset_rows


class CarriedState(keras.layers.Layer):
    """A state's tensors as variables that no optimizer trains, saved with a model's weights.

    Args:
        state: dict of tensors [B, ...], whose shapes and kinds of numbers are kept and whose
            values are not: all rows begin fresh (see FWLBlock.initial_state).
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        starts: bool tensor [B], the rows that begin anew.

    Returns:
        The state kept by the last `assign`, zero in the rows that begin anew.

    Raises:
        ValueError: if `starts` is not a bool tensor with one entry a row.

    Example:
        >>> carried = CarriedState(block.initial_state(2))
        >>> state = carried(np.array([True, False]))
        >>> carried.assign(state)
    """

    def __init__(self, state: dict, **kwargs):
        # The state is float32 whatever the model computes in.
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.batch_size = int(state["position"].shape[0])
        self.values = {}
        for name, value in state.items():
            # "int" is the integer that the backend can keep on an accelerator.
            kind = keras.backend.standardize_dtype(value.dtype)
            dtype = "int" if keras.backend.is_int_dtype(kind) else "float32"
            self.values[name] = self.add_weight(
                name=name,
                shape=tuple(value.shape),
                dtype=dtype,
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
        self.built = True

    def call(self, starts):
        shape, dtype = tuple(starts.shape), keras.backend.standardize_dtype(starts.dtype)
        if shape not in ((self.batch_size,), (None,)) or dtype != "bool":
            raise ValueError(
                f"`starts` must be a bool tensor of shape [{self.batch_size}], the batch size that "
                f"the state is carried for; received shape {list(shape)} and dtype {dtype}. Call "
                "`carry_state(batch_size)` with the batches' size; the last batch must be full too."
            )
        state = {name: ops.copy(variable) for name, variable in self.values.items()}
        state = {
            name: value if keras.backend.is_float_dtype(value.dtype) else ops.cast(value, "int32")
            for name, value in state.items()
        }
        return reset_rows(state, starts)

    def assign(self, state: dict) -> None:
        """Keep a state until the next call; no gradient comes back through it.

        Args:
            state: dict as the constructor's.
        """
        for name, variable in self.values.items():
            variable.assign(ops.cast(ops.stop_gradient(state[name]), variable.dtype))
