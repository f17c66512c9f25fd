"""A language model's state: its parts, and whether a given one fits.

It is a flat dict of tensors [B, ...]: the block's state, the features of the last token, whose
label is the next token to come (`pending_features`, `pending_valid`), and, where the backbone's own
context is carried along, that (`context_...`).
"""

import numpy as np
from keras import ops

from fwl_keras.ops._types import Tensor
from fwl_keras.ops.reset_rows import reset_rows

CONTEXT = "context_"


def split_context(state: dict) -> tuple[dict, dict]:
    """Return a state without the backbone's context, and that context, which may be empty."""
    context = {
        name.removeprefix(CONTEXT): value
        for name, value in state.items()
        if name.startswith(CONTEXT)
    }
    return {n: value for n, value in state.items() if not n.startswith(CONTEXT)}, context


def join_context(state: dict, context: dict) -> dict:
    """Return the inverse of `split_context`."""
    return {**state, **{CONTEXT + name: value for name, value in context.items()}}


def split_state(state: dict) -> tuple[dict, Tensor, Tensor, dict]:
    """Return the block's part, pending features and whether they are valid, and the context."""
    state, context = split_context(state)
    block = {name: value for name, value in state.items() if not name.startswith("pending_")}
    return block, state["pending_features"], state["pending_valid"], context


def join_state(block: dict, features: Tensor, valid: Tensor, context: dict) -> dict:
    """Return the inverse of `split_state`."""
    state = {**block, "pending_features": features, "pending_valid": valid}
    return join_context(state, context)


def checked_state(lm, state, batch_size: int) -> dict:
    """Return the state as tensors, if it is one of this model's with this many rows.

    Args:
        lm: FWLCausalLM.
        state: whatever was given for a state.
        batch_size: number of rows B.

    Raises:
        ValueError: if it is none, or one of another model or another number of rows.
    """
    expected = lm.initial_state(1)
    received = sorted(state) if isinstance(state, dict) else type(state).__name__
    names = {n for n in state if not n.startswith(CONTEXT)} if isinstance(state, dict) else None
    if names != set(expected):
        raise ValueError(
            f"`state` must be a dict with the keys {sorted(expected)} (see `initial_state`); "
            f"received {received}."
        )
    state = {name: ops.convert_to_tensor(value) for name, value in state.items()}
    for name, value in state.items():
        shape = tuple(value.shape)
        fits = shape[:1] == (batch_size,)
        if name in expected:
            fits = shape == (batch_size, *expected[name].shape[1:])
        if not fits:
            raise ValueError(
                f"`state[{name!r}]` has shape {list(shape)}, which does not fit {batch_size} "
                "rows of this model; use `initial_state(batch_size)` or an earlier result."
            )
    return {**state, "pending_valid": ops.cast(state["pending_valid"], "bool")}


def begin_again(state: dict, rows: list[np.ndarray]) -> dict:
    """Return the state before another pass: no token before the first, and a new context."""
    block_state, features, valid, context = split_state(state)
    has_tokens = ops.convert_to_tensor([row.size > 0 for row in rows])
    valid = ops.logical_and(valid, ops.logical_not(has_tokens))
    return join_state(block_state, features, valid, reset_rows(context, has_tokens))
