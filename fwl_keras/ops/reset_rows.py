"""Rows of a state that begin anew, or come from another one."""

from keras import ops

from fwl_keras.ops._types import Tensor


def reset_rows(state: dict[str, Tensor], starts: Tensor) -> dict[str, Tensor]:
    """Return a state with some rows fresh, which is zero.

    Args:
        state: dict of tensors [B, ...].
        starts: bool tensor [B], the rows that begin anew.

    Returns:
        The state, zero in those rows; numbers that are not finite are gone, too.

    Example:
        >>> reset_rows({"position": np.array([3, 4])}, np.array([True, False]))["position"]
        [0, 4]
    """
    return {
        name: ops.where(_beside(starts, value), ops.zeros_like(value), value)
        for name, value in state.items()
    }


def select_rows(
    rows: Tensor, state: dict[str, Tensor], other: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return a state with some rows of another one.

    Args:
        rows: bool tensor [B], the rows to take from `state`.
        state: dict of tensors [B, ...].
        other: dict that has these tensors too, for the other rows.

    Returns:
        The state, made of rows of both.

    Example:
        >>> one, other = {"position": np.array([3, 4])}, {"position": np.array([0, 1])}
        >>> select_rows(np.array([True, False]), one, other)["position"]
        [3, 1]
    """
    return {
        name: ops.where(_beside(rows, value), value, other[name]) for name, value in state.items()
    }


def _beside(rows, value):
    """Return rows [B] with the rank of a tensor [B, ...]."""
    return ops.reshape(rows, (-1,) + (1,) * (len(value.shape) - 1))
