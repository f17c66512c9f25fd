"""Reading and scoring texts that have no end, and the state in between."""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops
from rich.progress import track

from fwl_keras._arguments import require_bools, require_count
from fwl_keras.backend.compiled import Compiled
from fwl_keras.inference.bodies import Body, find_body
from fwl_keras.inference.divergence import Watch, warn_of_lost_tokens
from fwl_keras.inference.padding import NO_LIMIT, pad_rows, round_up
from fwl_keras.inference.state import CONTEXT, join_state, split_state
from fwl_keras.inference.texts import Codec, Rows
from fwl_keras.ops._types import Tensor
from fwl_keras.ops.reset_rows import reset_rows

# Tokens that no body reads in one window without a word, unless it was told to.
_LONG = 2048


class Score(NamedTuple):
    """What `score` found.

    Attributes:
        log_probabilities: float32 array [B, T] in nats, of each token given those before it; NaN
            where there is no token or nothing to predict it from.
        perplexity: float array [B], per predicted token; NaN where none was.
        state: the state after the last tokens.
    """

    log_probabilities: np.ndarray
    perplexity: np.ndarray
    state: dict


class Streaming:
    """The part of FWLCausalLM that reads on and on. Mixed into `keras.Model`.

    A state is a flat dict of tensors of constant size: the block's (see
    `FWLBlock.initial_state`), `pending_features` float32 [B, D] and `pending_valid` bool [B] (the
    features of the last token, whose label is the next token to come), and, with
    `carry_context=True`, the body's own `context_...`.
    """

    def initial_state(
        self, batch_size: int, *, carry_context: bool = False, context_length: int | None = None
    ) -> dict:
        """A fresh state: nothing read yet.

        Args:
            batch_size: number of rows B.
            carry_context: whether the body goes on from call to call where it stopped, too, for
                bodies that can (KerasHub's with a key/value cache, `RecurrentBackbone`). By
                default it starts a new context with each call, and what was before lives on in
                the fast weights alone.
            context_length: tokens that a carried context can hold; None: as many as the model
                reads at once, or a Transformer-XL's memory.

        Returns:
            The state. Its size in bytes a row is 8 times the block's fast weights, plus 4 * D +
            5, plus the body's context.

        Raises:
            ValueError: if a number is not a positive int, the body keeps no context, or its
                length is not known.
        """
        # In a served graph it is a tensor.
        if not ops.is_tensor(batch_size):
            require_count("batch_size", batch_size)
        require_bools(carry_context=carry_context)
        if context_length is not None:
            require_count("context_length", context_length)
        context = {}
        if carry_context:
            length = context_length
            if length is None and self.body.rows_together:
                length = self.context_length
            if length is None and self.body.rows_together:
                raise ValueError(
                    "`context_length` must be given, the tokens that the body's cache holds: the "
                    "model has none of its own."
                )
            context = self.body.initial_context(batch_size, length)
        features = ops.zeros((batch_size, self.block.expand.kernel.shape[0]), "float32")
        valid = ops.zeros((batch_size,), "bool")
        return join_state(self.block.initial_state(batch_size), features, valid, context)

    def read(
        self,
        inputs,
        state: dict | None = None,
        *,
        passes: int = 1,
        final: bool = False,
        on_divergence: str = "ignore",
        progress: bool = False,
    ) -> dict:
        """Read texts, and keep in the state what was learned from them.

        Args:
            inputs: texts (with a preprocessor) or token ids: one, a list, an array or tensor of
                texts [B] or of ids [B, T], a dict of `token_ids` and `padding_mask`, or a batched
                `tf.data.Dataset` of these, all of whose rows are read side by side. The start token
                is put before a text that begins (its row's state is fresh); token ids are taken as
                they are. A row of length 0 leaves its state as it was.
            state: state to go on from, or None for a fresh one.
            passes: how often to read each text.
            final: whether the texts end here: the end token is read, too.
            on_divergence: what is done where fast weights predict worse than the trained ones,
                by more than a nat per token over a segment (judged from every fourth token, at
                the end of each window): `"ignore"` warns and goes on, `"reset"` gives the row a
                fresh state, `"freeze"` gives it the weights it had before the window, and takes
                no more steps.
            progress: whether to draw a progress bar.

        Returns:
            The state after the last tokens.

        Warns:
            RuntimeWarning: once, where fast weights diverge.

        Raises:
            ValueError: if an argument does not fit.

        Example:
            >>> state = lm.read(["A long story.", "Another one."])
            >>> lm.generate(["Then", "Now"], max_length=20, state=state)
        """
        require_count("passes", passes)
        require_bools(final=final, progress=progress)
        rows, state = self._rows_and_state(inputs, state, final)
        watch = Watch(on_divergence)
        for i in range(passes):
            if i:
                state = self._begin_again(state, rows)
            _, state = self._read_rows(rows, state, watch=watch, progress=progress)
        watch.report()
        return state

    def score(
        self,
        inputs,
        state: dict | None = None,
        *,
        final: bool = False,
        use_fast_weights: bool = True,
        on_divergence: str = "ignore",
        progress: bool = False,
    ) -> Score:
        """Log-probabilities of texts, the model adapting while it reads.

        Args:
            inputs: as for `read`.
            state: as for `read`. With a state that has read something a row's first token is
                predicted too.
            final: as for `read`.
            use_fast_weights: False scores with the trained weights, without any step.
            on_divergence: as for `read`. What was predicted before stays as it was predicted.
            progress: whether to draw a progress bar.

        Returns:
            Score: log-probabilities [B, T], perplexity [B], and the state after the last tokens.

        Warns:
            RuntimeWarning: once, where fast weights diverge; and with the number of tokens whose
                loss is not finite. They count as infinitely improbable.

        Raises:
            ValueError: if an argument does not fit.

        Example:
            >>> log_probabilities, perplexity, state = lm.score([[5, 6, 7], [8, 9]])
        """
        require_bools(final=final, use_fast_weights=use_fast_weights, progress=progress)
        rows, state = self._rows_and_state(inputs, state, final)
        mode = "adapt" if use_fast_weights else "trained"
        watch = Watch(on_divergence)
        (losses, scored), state = self._read_rows(rows, state, mode, watch=watch, progress=progress)
        watch.report()
        lost = scored & ~np.isfinite(losses)
        if lost.any():
            losses = np.where(lost, np.float32(np.inf), losses)
            warn_of_lost_tokens(int(lost.sum()))
        log_probabilities = np.where(scored, -losses, np.nan)
        totals = np.where(scored, losses, 0.0).sum(axis=1, dtype="float64")
        with np.errstate(invalid="ignore", over="ignore"):
            perplexity = np.exp(totals / scored.sum(axis=1))
        return Score(log_probabilities, perplexity, state)

    @property
    def body(self) -> Body:
        """How the backbone is run (found at first use: a KerasHub body's task takes a moment)."""
        if self._body is None:
            self._body = find_body(self.backbone)
        return self._body

    @property
    def codec(self) -> Codec:
        """Between texts and token ids."""
        return Codec(self.preprocessor, self.block.vocab_size, self.pad_token_id)

    def _rows_and_state(self, inputs, state, final=False, begin=False, name="inputs"):
        """Rows of ids with start and end tokens where they belong, and a state that fits."""
        rows = inputs if isinstance(inputs, Rows) else self.codec.rows(inputs, name)
        ids = rows.ids
        if state is None:
            state = self.initial_state(len(ids))
        state = self._checked_state(state, len(ids))
        if rows.is_text:
            start = self.codec.start_token_id
            begun = ops.convert_to_numpy(state["pending_valid"])
            if start is not None:
                # An empty text leaves a fresh row fresh, unless it ends or is to be written.
                ids = [
                    row if b or not (row.size or final or begin) else np.insert(row, 0, start)
                    for row, b in zip(ids, begun, strict=True)
                ]
        if final:
            if not rows.is_text:
                raise ValueError("`final=True` ends texts; append the end token to token ids.")
            if not self.codec.end_token_ids:
                raise ValueError("`final=True` needs a tokeniser with an end token; it has none.")
            ids = [np.append(row, self.codec.end_token_ids[0]) for row in ids]
        return [row.astype("int32") for row in ids], state

    def _checked_state(self, state, batch_size):
        """The state as tensors, if it is one of this model's with this many rows."""
        expected = self.initial_state(1)
        received = sorted(state) if isinstance(state, dict) else type(state).__name__
        names = {n for n in state if not n.startswith(CONTEXT)} if isinstance(state, dict) else None
        if names != set(expected):
            raise ValueError(
                f"`state` must be a dict with the keys {sorted(expected)} (see initial_state); "
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
                    "rows of this model; use initial_state(batch_size) or an earlier result."
                )
        return {**state, "pending_valid": ops.cast(state["pending_valid"], "bool")}

    def _begin_again(self, state, rows):
        """The state before another pass: no token before the first, and a new context."""
        block_state, features, valid, context = split_state(state)
        has_tokens = ops.convert_to_tensor([row.size > 0 for row in rows])
        valid = ops.logical_and(valid, ops.logical_not(has_tokens))
        return join_state(block_state, features, valid, reset_rows(context, has_tokens))

    def _read_rows(self, rows, state, mode="adapt", *, watch=None, progress=False):
        """Losses [B, T] and where there is one, and the state after the last tokens."""
        room = self._check_context(rows, state)
        return self._read_windows(rows, state, room, mode, watch=watch, progress=progress)

    def _read_windows(self, rows, state, room, mode="adapt", *, watch=None, progress=False):
        longest = max((row.size for row in rows), default=0)
        window = self.context_length or max(1, longest)
        recurrent = hasattr(self.backbone, "initial_context")
        if window > _LONG and self.context_length is None and not recurrent:
            warnings.warn(
                f"The body reads {window} tokens at once, at a cost that may grow with their "
                "square: how many it was made for is not known. Give "
                "FWLCausalLM(context_length=...).",
                RuntimeWarning,
                stacklevel=4,
            )
        run = self._compiled(advance, mode=mode)
        empty = np.zeros((len(rows), 0), "float32")
        losses, scored = [empty], [empty.astype(bool)]
        starts = range(0, longest, window)
        watch = Watch("ignore") if watch is None else watch
        frozen = np.zeros(len(rows), bool)
        for start in track(starts, "reading", disable=not progress or len(starts) < 2):
            width = min(window, longest - start)
            padded = min(round_up(width), self.context_length or NO_LIMIT, room - start)
            token_ids, padding_mask = pad_rows([row[start : start + width] for row in rows], padded)
            tensors = ops.convert_to_tensor(token_ids), ops.convert_to_tensor(padding_mask)
            more = (ops.convert_to_tensor(frozen),) if frozen.any() else ()
            found = run(*tensors, state, *more)
            losses.append(ops.convert_to_numpy(found.losses)[:, :width])
            scored.append(ops.convert_to_numpy(found.scored)[:, :width])
            state, frozen = watch.after(found.diverged, found.state, state, frozen)
        return (np.concatenate(losses, axis=1), np.concatenate(scored, axis=1)), state

    def _check_context(self, rows, state, more: int = 0) -> int:
        """Tokens that the state's context has room for, if these rows can go on from it."""
        context = split_state(state)[-1]
        if not context or not self.body.rows_together:
            return NO_LIMIT
        position = ops.convert_to_numpy(context["position"])
        lengths = {row.size for row in rows}
        if len(lengths) > 1 or (position != position[0]).any():
            raise ValueError(
                "The state carries the context of a body whose rows advance together, but they are "
                f"to read {sorted(lengths)} tokens after {position.tolist()}; give rows of one "
                "length, or call the model row by row."
            )
        room = self.body.room(context)
        needed = max(lengths, default=0) + more
        if needed > room:
            raise ValueError(
                f"The state's context has room for {room} more tokens, not for {needed}; use "
                "initial_state(..., context_length=N) with a larger N, or begin a new context by "
                f"leaving out the state's {CONTEXT!r} entries."
            )
        return room

    def _compiled(self, function: Callable, **settings) -> Compiled:
        """`function(lm, *tensors, **settings)` compiled, at its first use."""
        key = (function, *sorted(settings.items()))
        if key not in self._functions:
            self._functions[key] = Compiled(self, functools.partial(function, self, **settings))
        return self._functions[key]


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
