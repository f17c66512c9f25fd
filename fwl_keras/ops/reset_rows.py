"""Rows of a state that begin anew."""

from keras import ops

from fwl_keras.ops._types import Tensor


def reset_rows(state: dict[str, Tensor], starts: Tensor) -> dict[str, Tensor]:
    """A state with some rows fresh, which is zero.

    Args:
        state: dict of tensors [B, ...].
        starts: bool tensor [B], the rows that begin anew.

    Returns:
        The state, zero in those rows; numbers that are not finite are gone, too.

    Example:
        >>> reset_rows({"position": np.array([3, 4])}, np.array([True, False]))["position"]
        [0, 4]
    """

    def reset(value):
        rows = ops.reshape(starts, (-1,) + (1,) * (len(value.shape) - 1))
        return ops.where(rows, ops.zeros_like(value), value)

    return {name: reset(value) for name, value in state.items()}
