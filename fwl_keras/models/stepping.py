"""Reading on from a state: the steps that scoring, reading and generation are made of.

A language model's state is a flat dict of tensors [B, ...]: the block's state, the features of
the last token, whose label is the next token to come (`pending_features`, `pending_valid`), and,
where the body's own context is carried along, that (`context_...`).
"""

from typing import NamedTuple

from keras import ops

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


class Advanced(NamedTuple):
    """What `advance` found.

    Attributes:
        losses: float32 tensor [B, T] in nats.
        scored: bool tensor [B, T], where there is one.
        diverged: bool tensor [B], rows whose fast weights predicted worse than the trained ones
            (see `diverged_rows`).
        state: the state after the last tokens.
    """

    losses: Tensor
    scored: Tensor
    diverged: Tensor
    state: dict


def advance(
    lm,
    token_ids: Tensor,
    padding_mask: Tensor,
    state: dict,
    frozen: Tensor | None = None,
    *,
    mode: str = "adapt",
) -> Advanced:
    """Read tokens, each predicted from the features of the one before it.

    The features of the last token are kept in the state without a label: to pass them with
    weight 0 now, and with their label later, would count them twice.

    Args:
        lm: FWLCausalLM.
        token_ids: int tensor [B, T].
        padding_mask: bool tensor [B, T], True up to a row's length, False behind it.
        state: the model's state.
        frozen: bool tensor [B], rows that with `mode="adapt"` are predicted with the state's
            weights and take no steps; None for no row.
        mode: `"adapt"` predicts with the fast weights, which learn; `"frozen"` takes no steps,
            and predicts nothing; `"trained"` predicts with the trained weights, without steps.
    """
    block_state, pending, pending_valid, context = split_state(state)
    if context:
        features, context = lm.body.advance(token_ids, padding_mask, context)
    else:
        features = lm.body.features(token_ids, padding_mask, training=False)
    x = ops.concatenate([ops.cast(pending[:, None], features.dtype), features[:, :-1]], axis=1)
    scored = ops.concatenate(
        [ops.logical_and(padding_mask[:, :1], pending_valid[:, None]), padding_mask[:, 1:]], axis=1
    )
    diverged = ops.zeros_like(pending_valid)
    if mode == "adapt":
        losses, block_state = _adapt(lm, x, token_ids, scored, block_state, frozen)
        if lm.block.use_fast_weights:
            diverged = lm.diverged(x, token_ids, scored, losses)
    elif mode == "trained":
        losses = lm.trained_loss(x, token_ids, scored)
        losses = ops.where(scored, losses, ops.zeros_like(losses))
    else:
        losses, scored = ops.zeros_like(token_ids, "float32"), ops.zeros_like(scored)
    pending, pending_valid = _keep_last(features, padding_mask, pending, pending_valid)
    return Advanced(
        losses, scored, diverged, join_state(block_state, pending, pending_valid, context)
    )


def _adapt(lm, x, labels, scored, state, frozen):
    """Losses [B, T] with the fast weights, and the block's state."""
    learns = scored if frozen is None else ops.logical_and(scored, ops.logical_not(frozen[:, None]))
    losses, new_state = lm.block(
        x, labels, state=state, x_mask=learns, return_state=True, output="loss"
    )
    losses = losses["loss"]
    if frozen is None:
        return losses, new_state
    kept = ops.logical_and(scored, frozen[:, None])
    features = lm.block(x, state=state, x_mask=kept, output="features")
    without_steps = lm.block.unembedding.cross_entropy(features, labels)
    return ops.where(kept, without_steps, losses), new_state


def _keep_last(features, padding_mask, pending, pending_valid):
    """Each row's features of its last token, or those it had where it has no token."""
    lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=1)
    last = ops.maximum(lengths - 1, 0)[:, None, None]
    newest = ops.cast(ops.take_along_axis(features, last, axis=1)[:, 0], "float32")
    has_tokens = lengths > 0
    pending = ops.where(has_tokens[:, None], newest, pending)
    return pending, ops.logical_or(pending_valid, has_tokens)


def next_logits(lm, state: dict) -> Tensor:
    """Logits float32 [B, V] of the next token, with the state's weights; no step is taken."""
    block_state, pending, _, _ = split_state(state)
    logits = lm.block(pending[:, None], state=block_state)
    return ops.cast(logits[:, 0], "float32")


def read_token(
    lm,
    tokens: Tensor,
    index: Tensor,
    active: Tensor,
    state: dict,
    *,
    adapt: bool,
    offset: int | Tensor = 0,
    window: int | None = None,
) -> dict:
    """The state after one more token of the active rows.

    Args:
        lm: FWLCausalLM.
        tokens: int32 tensor [B, N], the texts since a context of the body began or was carried
            on; with a window N is a multiple of it.
        index: int32 scalar, the token's place in them, the same in all rows.
        active: bool tensor [B], rows that read it.
        state: the model's state, with a context where the body's cache is used.
        adapt: whether the fast weights take a step.
        offset: int32 scalar, tokens in the carried context before them.
        window: tokens after which the body begins a new context, or None for never.
    """
    block_state, pending, valid, context = split_state(state)
    token = ops.take(tokens, index, axis=1)
    if adapt:
        _, block_state = lm.block(
            pending[:, None],
            token[:, None],
            state=block_state,
            x_mask=ops.logical_and(active, valid)[:, None],
            return_state=True,
            output="features",
        )
    place = index if window is None else index % window
    if context:
        if window is not None:
            # Not in rows that wait: what they have read of their prompts stays.
            begins = ops.logical_and(active, ops.equal(place, 0))
            context = lm.body.restart(context, begins)
        context = lm.body.place(context, offset + place)
        features, context = lm.body.advance(token[:, None], active[:, None], context)
        newest = features[:, 0]
    else:
        if window is not None:
            columns = index - place + ops.arange(window, dtype="int32")
            tokens = ops.take(tokens, columns, axis=1)
        written = ops.arange(ops.shape(tokens)[1], dtype="int32")[None] <= place
        written = ops.logical_and(written, ops.ones_like(tokens, "bool"))
        features = lm.body.features(tokens, written, training=False)
        newest = ops.take(features, place, axis=1)
    pending = ops.where(active[:, None], ops.cast(newest, "float32"), pending)
    return join_state(block_state, pending, ops.logical_or(valid, active), context)
