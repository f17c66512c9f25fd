"""Loops in a graph that read texts and write on from them, whatever their lengths."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from fwl_keras.inference.reading_loop import WindowRead, read_window
from fwl_keras.inference.samplers import Sampling
from fwl_keras.inference.state import join_state, split_state
from fwl_keras.inference.writing_loop import write_tokens


class WrittenRows(NamedTuple):
    """What `write_rows` has done.

    Attributes:
        ids: int32 [B, (T)], what was written.
        diverged: bool tensor [B], rows whose fast weights diverged on their prompts.
        finite: bool tensor [B], rows in which all logits were finite.
        state: the state after the last tokens.
    """

    ids: tf.RaggedTensor
    diverged: tf.Tensor
    finite: tf.Tensor
    state: dict


def read_rows(
    lm, ids: tf.RaggedTensor, state: dict, window: int, mode: str = "adapt"
) -> WindowRead:
    """Read texts in windows of the body's context.

    Args:
        lm: FWLCausalLM.
        ids: int32 [B, (T)].
        state: the model's state, without a context.
        window: tokens that the body reads at once.
        mode: as for `read_window`.

    Returns:
        What was read, as of one `read_window` over the whole texts.
    """
    tokens, lengths = ids.to_tensor(), tf.cast(ids.row_lengths(), tf.int32)
    # At least one place, so that a batch of refused rows is a batch like any other.
    tokens = tf.pad(tokens, [[0, 0], [0, tf.maximum(0, 1 - tf.shape(tokens)[1])]])
    batch, total = tf.unstack(tf.shape(tokens))
    there = tf.sequence_mask(lengths, total)

    def read_next(start, losses, scored, diverged, state):
        stop = tf.minimum(start + window, total)
        found = read_window(lm, tokens[:, start:stop], there[:, start:stop], state, mode=mode)
        around = [[0, 0], [start, total - stop]]
        losses = losses + tf.pad(found.losses, around)
        scored = tf.logical_or(scored, tf.pad(found.scored, around))
        return stop, losses, scored, tf.logical_or(diverged, found.diverged), found.state

    nothing = tf.zeros([batch, total], tf.bool)
    _, *result = tf.while_loop(
        lambda start, *_: start < total,
        read_next,
        (0, tf.zeros([batch, total]), nothing, nothing[:, 0], state),
        shape_invariants=_any_batch((0, *[tf.zeros([1, 1])] * 2, tf.zeros([1]), state)),
    )
    return WindowRead(*result)


def write_rows(
    lm,
    ids: tf.RaggedTensor,
    state: dict,
    window: int,
    *,
    read: Callable,
    new_tokens: tf.Tensor,
    draw: Sampling,
    seeds: tf.Tensor,
    active: tf.Tensor,
    stop_token_ids: tuple[int, ...],
) -> WrittenRows:
    """Read prompts and write on from them, every row by itself.

    Args:
        lm: FWLCausalLM.
        ids: int32 [B, (T)], the prompts.
        state: the model's state, without a context.
        window: tokens that the body reads at once.
        read: `read_rows` from ids and a state.
        new_tokens: int32 tensor [B], tokens to write at most.
        draw: how tokens are drawn, tensors [B].
        seeds: uint32 tensor [B, 2].
        active: bool tensor [B], rows that write.
        stop_token_ids: ids that end a row.
    """
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    whole = lengths // window * window
    tokens = ids.to_tensor()
    before = tf.RaggedTensor.from_tensor(tokens, whole)
    diverged, state = tf.cond(
        tf.reduce_any(whole > 0),
        lambda: tuple(read(before, state)[2:]),
        lambda: (tf.zeros_like(state["pending_valid"]), state),
    )

    rest = lengths - whole
    width = tf.maximum(tf.reduce_max(rest), 1)
    longest = width + tf.reduce_max(tf.where(active, new_tokens, 0))
    longest = (longest + window - 1) // window * window
    after = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(tokens, _between(whole, lengths, tf.shape(tokens)[1])), rest, validate=False
    )
    tokens = after.to_tensor()
    tokens = tf.pad(tokens, [[0, 0], [0, longest - tf.shape(tokens)[1]]])

    block_state, pending, valid, context = split_state(state)
    if lm.body.keeps_context:
        context = lm.body.initial_context(tf.shape(rest)[0], window)
    state = join_state(block_state, pending, valid, context)
    prompt = read_window(lm, tokens[:, :width], tf.sequence_mask(rest, width), state)

    limits = rest + new_tokens
    places = {
        # Rows that write nothing need not be waited for.
        "index": tf.reduce_min(tf.where(active, rest, longest)),
        "until": tf.reduce_max(tf.where(active, limits, 0)),
        "offset": tf.constant(0),
        "lengths": rest,
        "limits": limits,
    }
    tokens, written, _, finite, state, _ = write_tokens(
        lm,
        places,
        seeds,
        tokens,
        tf.zeros_like(rest),
        tf.logical_not(active),
        prompt.state,
        sampling=draw,
        stop_token_ids=stop_token_ids,
        adapt=lm.block.use_fast_weights,
        window=window,
    )
    there = _between(rest, rest + written, longest)
    text = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(tokens, there), written, validate=False)
    diverged = tf.logical_or(diverged, prompt.diverged)
    return WrittenRows(text, diverged, finite, join_state(*split_state(state)[:3], {}))


def _between(start, stop, width):
    """Return a bool tensor [B, width], places from start to stop of each row."""
    return tf.logical_and(
        tf.sequence_mask(stop, width), tf.logical_not(tf.sequence_mask(start, width))
    )


def _any_batch(structure):
    """Return the shapes of loop variables whose rows and columns may be any number."""
    return tf.nest.map_structure(
        lambda t: (
            tf.TensorShape([None] * min(2, len(t.shape)) + list(t.shape[2:]))
            if hasattr(t, "shape")
            else tf.TensorShape([])
        ),
        structure,
    )
