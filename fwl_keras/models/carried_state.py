"""Where training keeps the fast weights' state from batch to batch."""

import keras
from keras import ops

from fwl_keras.ops.reset_rows import reset_rows


class CarriedState(keras.layers.Layer):
    """A state's tensors as variables that no optimizer trains, saved with a model's weights.

    Args:
        state: dict of tensors [B, ...], whose shapes and kinds of numbers are kept and whose
            values are not: all rows begin fresh (see FWLBlock.initial_state).
        groups: number of groups of B rows that take turns, one with every `assign`.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        starts: bool tensor [B], the rows that begin anew.

    Returns:
        The state of the group whose turn it is, zero in the rows that begin anew.

    Raises:
        ValueError: if `starts` is not a bool tensor with one entry a row.

    Example:
        >>> carried = CarriedState(block.initial_state(2))
        >>> state = carried(np.array([True, False]))
        >>> carried.assign(state)
    """

    def __init__(self, state: dict, groups: int = 1, **kwargs):
        # The state is float32 whatever the model computes in.
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.batch_size = int(state["position"].shape[0])
        self.groups = groups
        self.turn = self._variable("turn", (), "int")
        self.values = {}
        for name, value in state.items():
            # "int" is the integer that the backend can keep on an accelerator.
            kind = keras.backend.standardize_dtype(value.dtype)
            dtype = "int" if keras.backend.is_int_dtype(kind) else "float32"
            self.values[name] = self._variable(name, (groups, *value.shape), dtype)
        self.built = True

    def _variable(self, name, shape, dtype):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer="zeros",
            trainable=False,
            autocast=False,
        )

    def call(self, starts):
        shape, dtype = tuple(starts.shape), keras.backend.standardize_dtype(starts.dtype)
        if shape not in ((self.batch_size,), (None,)) or dtype != "bool":
            raise ValueError(
                f"`starts` must be a bool tensor of shape [{self.batch_size}], the batch size that "
                f"the state is carried for; received shape {list(shape)} and dtype {dtype}. Call "
                "`carry_state(batch_size)` with the batches' size; the last batch must be full too."
            )
        turn = ops.copy(self.turn)
        state = {
            name: ops.take(ops.copy(variable), turn, axis=0)
            for name, variable in self.values.items()
        }
        state = {
            name: value if keras.backend.is_float_dtype(value.dtype) else ops.cast(value, "int32")
            for name, value in state.items()
        }
        return reset_rows(state, starts)

    def assign(self, state: dict) -> None:
        """Keep a state until its group's next turn; no gradient comes back through it.

        Args:
            state: dict as the constructor's.
        """
        turn = ops.copy(self.turn)
        for name, variable in self.values.items():
            value = ops.cast(ops.stop_gradient(state[name]), variable.dtype)
            groups = ops.reshape(ops.arange(self.groups), (-1,) + (1,) * len(value.shape))
            is_turn = ops.equal(groups, ops.cast(turn, groups.dtype))
            variable.assign(ops.where(is_turn, value, ops.copy(variable)))
        self.turn.assign((turn + 1) % self.groups)
