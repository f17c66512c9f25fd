"""Reading on from a state: the steps that scoring, reading and generation are made of.

A language model's state is a flat dict of tensors [B, ...]: the block's state, the features of
the last token, whose label is the next token to come (`pending_features`, `pending_valid`), and,
where the body's own context is carried along, that (`context_...`).
"""

from fwl_keras.ops._types import Tensor

CONTEXT = "context_"


def split_context(state: dict | None) -> tuple[dict | None, dict]:
    """A state without the body's context, and that context, which may be empty."""
    if state is None:
        return None, {}
    context = {
        name.removeprefix(CONTEXT): value
        for name, value in state.items()
        if name.startswith(CONTEXT)
    }
    return {n: value for n, value in state.items() if not n.startswith(CONTEXT)}, context


def join_context(state: dict, context: dict) -> dict:
    """The inverse of `split_context`."""
    return {**state, **{CONTEXT + name: value for name, value in context.items()}}


def split_state(state: dict) -> tuple[dict, Tensor, Tensor, dict]:
    """A state's parts: the block's, pending features and whether they are valid, the context."""
    state, context = split_context(state)
    block = {name: value for name, value in state.items() if not name.startswith("pending_")}
    return block, state["pending_features"], state["pending_valid"], context


def join_state(block: dict, features: Tensor, valid: Tensor, context: dict) -> dict:
    """The inverse of `split_state`."""
    state = {**block, "pending_features": features, "pending_valid": valid}
    return join_context(state, context)
