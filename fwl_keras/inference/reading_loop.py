"""Reading rows of tokens, window by window: what reading, scoring and writing are made of."""

import warnings
from typing import NamedTuple

import numpy as np
from keras import ops

from fwl_keras._progress import track
from fwl_keras.inference.divergence import Watch
from fwl_keras.inference.padding import NO_LIMIT, pad_rows, round_up
from fwl_keras.inference.state import CONTEXT, join_state, split_state
from fwl_keras.ops._types import Tensor

# Tokens that no backbone reads in one window without a word, unless it was told to.
_LONG = 2048


def read_rows(
    lm,
    rows: list[np.ndarray],
    state: dict,
    mode: str = "adapt",
    *,
    watch: Watch | None = None,
    room: int | None = None,
    progress: bool = False,
) -> tuple[tuple[np.ndarray, np.ndarray], dict]:
    """Read rows of any length in windows of the model's `context_length`.

    Args:
        lm: FWLCausalLM.
        rows: int32 arrays [T_i].
        state: the model's state before them.
        mode: as for `read_window`.
        watch: what becomes of rows that diverge; None: nothing does.
        room: tokens that the state's context can take; None: what `room_for` finds.
        progress: whether to draw a progress bar, where there are several windows.

    Returns:
        Losses float32 [B, T] in nats, and bool [B, T], where there is one; the state after the
        last tokens.

    Raises:
        ValueError: from `room_for`.
    """
    room = room_for(lm, rows, state) if room is None else room
    longest = max((row.size for row in rows), default=0)
    window = lm.context_length or max(1, longest)
    recurrent = hasattr(lm.backbone, "initial_context")
    if window > _LONG and lm.context_length is None and not recurrent:
        warnings.warn(
            f"The backbone reads {window} tokens at once, at a cost that may grow with their "
            "square: how many it was made for is not known. Give "
            "`FWLCausalLM(context_length=...)`.",
            RuntimeWarning,
            stacklevel=3,
        )
    run = lm.functions(read_window, mode=mode)
    empty = np.zeros((len(rows), 0), "float32")
    losses, scored = [empty], [empty.astype(bool)]
    watch = Watch("ignore") if watch is None else watch
    frozen = np.zeros(len(rows), bool)
    starts = range(0, longest, window)
    for start in track(starts, "reading", shown=progress and len(starts) > 1):
        width = min(window, longest - start)
        padded = min(round_up(width), lm.context_length or NO_LIMIT, room - start)
        token_ids, padding_mask = pad_rows([row[start : start + width] for row in rows], padded)
        tensors = ops.convert_to_tensor(token_ids), ops.convert_to_tensor(padding_mask)
        more = (ops.convert_to_tensor(frozen),) if frozen.any() else ()
        found = run(*tensors, state, *more)
        losses.append(ops.convert_to_numpy(found.losses)[:, :width])
        scored.append(ops.convert_to_numpy(found.scored)[:, :width])
        state, frozen = watch.after(found.diverged, found.state, state, frozen)
    return (np.concatenate(losses, axis=1), np.concatenate(scored, axis=1)), state


def room_for(lm, rows: list[np.ndarray], state: dict, more: int = 0) -> int:
    """Return how many tokens a state's context can take, if these rows can go on from it.

    Args:
        lm: FWLCausalLM.
        rows: int32 arrays [T_i].
        state: the model's state.
        more: tokens that are to be written after the rows.

    Returns:
        Number of tokens, `NO_LIMIT` where any number will do.

    Raises:
        ValueError: if there is not enough room, or the rows of a context that goes on for all of
            them together do not.
    """
    context = split_state(state)[-1]
    if not context or not lm.body.rows_together:
        return NO_LIMIT
    position = ops.convert_to_numpy(context["position"])
    lengths = {row.size for row in rows}
    if len(lengths) > 1 or (position != position[0]).any():
        raise ValueError(
            "The state carries the context of a backbone whose rows advance together, but they are "
            f"to read {sorted(lengths)} tokens after {position.tolist()}; give rows of one "
            "length, or call the model row by row."
        )
    room = lm.body.room(context)
    needed = max(lengths, default=0) + more
    if needed > room:
        raise ValueError(
            f"The state's context has room for {room} more tokens, not for {needed}; use "
            "`initial_state(..., context_length=N)` with a larger N, or begin a new context by "
            f"leaving out the state's {CONTEXT!r} entries."
        )
    return room


class WindowRead(NamedTuple):
    """What `read_window` found.

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


def read_window(
    lm,
    token_ids: Tensor,
    padding_mask: Tensor,
    state: dict,
    frozen: Tensor | None = None,
    *,
    mode: str = "adapt",
) -> WindowRead:
    """Read tokens at once, each predicted from the features of the one before it.

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
    return WindowRead(
        losses, scored, diverged, join_state(block_state, pending, pending_valid, context)
    )


def _adapt(lm, x, labels, scored, state, frozen):
    """Return losses [B, T] with the fast weights, and the block's state."""
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
    """Return each row's features of its last token, or those it had where it has no token."""
    lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=1)
    last = ops.maximum(lengths - 1, 0)[:, None, None]
    newest = ops.cast(ops.take_along_axis(features, last, axis=1)[:, 0], "float32")
    has_tokens = lengths > 0
    pending = ops.where(has_tokens[:, None], newest, pending)
    return pending, ops.logical_or(pending_valid, has_tokens)
