"""Writing one token after the other, the fast weights adapting to what is written."""

import numpy as np
from keras import ops

from fwl_keras.inference.padding import pad_rows, round_up
from fwl_keras.inference.reading_loop import read_rows, room_for
from fwl_keras.inference.samplers import CustomSampling, Sampling, sampling_of
from fwl_keras.inference.state import join_state, split_state
from fwl_keras.inference.writing_settings import WritingSettings
from fwl_keras.ops._types import Tensor


class Generation:
    """One call of `generate`, which can be run a few tokens at a time.

    The backbone reads in windows of `lm.context_length` tokens, counted from the beginning of the
    prompts, as `score` does: where one is full it starts a new context. What fills whole windows
    of its own is read before; then all rows are at the same place of their windows, as the
    key/value caches of KerasHub's backbones need: a row with a longer prompt waits for the others.

    Args:
        lm: FWLCausalLM.
        prompts: int32 arrays [T_i].
        state: state before the prompts.
        settings: what the call of `generate` asks for.

    Raises:
        ValueError: from `run`, if logits are not finite.
    """

    def __init__(
        self,
        lm,
        prompts: list[np.ndarray],
        state: dict,
        settings: WritingSettings,
    ):
        self._lm = lm
        self._sampling = sampling_of(settings.sampler)
        self._watch = settings.watch
        self._carries = bool(split_state(state)[-1])
        window = None if self._carries else lm.context_length
        max_length = settings.max_length
        if self._carries:
            more = [max_length - row.size for row in prompts]
            room_for(lm, prompts, state, more=max(more))
        read = [0 if window is None else row.size // window * window for row in prompts]
        self._read = [row[:n] for row, n in zip(prompts, read, strict=True)]
        rest = [row[n:] for row, n in zip(prompts, read, strict=True)]
        if any(read):
            _, state = read_rows(lm, self._read, state, watch=self._watch)

        self._lengths = np.array([row.size for row in rest])
        limits = max_length - np.array(read)
        self._index, self._end = int(self._lengths.min()), int(limits.max())
        # Few lengths are ever compiled.
        width = round_up(self._end)
        if window is not None:
            width = -(-width // window) * window
        offset = self._begin_context(rest, state, window or width, settings.use_cache)
        numbers = {"offset": offset, "lengths": self._lengths, "limits": limits}
        self._places = {n: ops.convert_to_tensor(value, "int32") for n, value in numbers.items()}
        self._randomness = ops.convert_to_tensor(settings.seeds.astype("uint32"))
        if isinstance(self._sampling, CustomSampling):
            self._randomness = self._sampling.randomness
        self._tokens = ops.convert_to_tensor(pad_rows(rest, width)[0])
        self._written = ops.zeros((len(prompts),), "int32")
        self._done = ops.zeros((len(prompts),), "bool")
        self._run = lm.functions(
            write_tokens,
            sampling=self._sampling,
            stop_token_ids=settings.stop_token_ids,
            adapt=settings.adapt,
            window=window,
        )

    @property
    def finished(self) -> bool:
        """Whether all rows are."""
        return bool(ops.convert_to_numpy(self._done).all())

    @property
    def rows(self) -> list[np.ndarray]:
        """All token ids of every row so far, int32 [T_i]: its prompt, then what was written."""
        ends = self._lengths + ops.convert_to_numpy(self._written)
        tokens = ops.convert_to_numpy(self._tokens)
        parts = zip(self._read, tokens, ends, strict=True)
        return [np.concatenate([before, row[:end]]) for before, row, end in parts]

    @property
    def state(self) -> dict:
        """The state after the last tokens of `rows`."""
        block_state, pending, valid, context = split_state(self._state)
        if self._carries:
            position = self._places["offset"] + self._places["lengths"] + self._written
            context = self._lm.body.place(context, position)
        return join_state(block_state, pending, valid, context if self._carries else {})

    def run(self, count: int | None = None) -> None:
        """Write up to `count` tokens in every row, or all that there will be."""
        until = self._end if count is None else min(self._end, self._index + count)
        places = {
            **self._places,
            "index": ops.convert_to_tensor(self._index, "int32"),
            "until": ops.convert_to_tensor(until, "int32"),
        }
        found = self._run(
            places, self._randomness, self._tokens, self._written, self._done, self._state
        )
        self._tokens, self._written, self._done, finite, self._state, self._randomness = found
        if isinstance(self._sampling, CustomSampling):
            self._sampling.keep(self._randomness)
        self._index = until
        require_finite(ops.convert_to_numpy(finite))

    def _begin_context(self, prompts, state, length, use_cache):
        """Read what is left of the prompts, with a cache if there is one; return its offset."""
        lm, offset = self._lm, 0
        block_state, pending, valid, context = split_state(state)
        if self._carries and "position" in context:
            offset = int(ops.convert_to_numpy(context["position"])[0])
        elif not self._carries and use_cache and lm.body.keeps_context:
            context = lm.body.initial_context(len(prompts), length)
        state = join_state(block_state, pending, valid, context)
        if self._lengths.any():
            room = lm.body.room(context) if context else None
            room = length if room is None else room
            _, state = read_rows(lm, prompts, state, watch=self._watch, room=room)
        self._state = state
        return offset


def require_finite(rows: np.ndarray) -> None:
    """Raise a ValueError unless logits were finite in all rows (bool array [B])."""
    if not rows.all():
        raise ValueError(
            f"The model predicts nothing in {int((~rows).sum())} of {rows.size} rows: its logits "
            "are not finite. Its weights are damaged, or its fast weights diverged: make the steps "
            "smaller with `lm.block.set_step_sizes`, or begin with a fresh state."
        )


def write_tokens(
    lm,
    places: dict,
    randomness: Tensor | list,
    tokens: Tensor,
    written: Tensor,
    done: Tensor,
    state: dict,
    *,
    sampling: Sampling | CustomSampling,
    stop_token_ids: tuple[int, ...],
    adapt: bool,
    window: int | None,
) -> tuple:
    """Write tokens until all rows are done.

    Args:
        lm: FWLCausalLM.
        places: int32 tensors: `index`, the first place to write, and `until`, where to stop;
            `offset`, tokens in the carried context before; `lengths` [B] of the prompts; and
            `limits` [B], places that a row may fill.
        randomness: what `sampling.draw` takes of it for the first token.
        tokens: int32 tensor [B, N], the prompts in it.
        written: int32 tensor [B], tokens written so far.
        done: bool tensor [B].
        state: the model's state, at the end of each row; with a context where there is a cache.
        sampling: how tokens are drawn.
        stop_token_ids: ids that end a row.
        adapt: whether the fast weights learn from what is written.
        window: tokens after which the backbone begins a new context, or None for never.

    Returns:
        `tokens`, `written` and `done` after the loop; bool [B], where all logits that a token was
        drawn from were finite; `state`, and `randomness`.
    """
    finite = ops.ones_like(done)
    columns = ops.arange(ops.shape(tokens)[1], dtype="int32")[None]

    def go_on(index, tokens, written, done, finite, state, randomness):
        return ops.logical_and(index < places["until"], ops.logical_not(ops.all(done)))

    def write(index, tokens, written, done, finite, state, randomness):
        active = ops.logical_not(ops.logical_or(index < places["lengths"], done))
        logits = next_logits(lm, state)
        fine = ops.all(ops.isfinite(logits), axis=-1)
        finite = ops.logical_and(finite, ops.logical_or(fine, ops.logical_not(active)))
        token, randomness = sampling.draw(logits, written, randomness)
        token = ops.where(active, token, ops.take(tokens, index, axis=1))
        tokens = ops.where(columns == index, token[:, None], tokens)
        state = read_token(
            lm, tokens, index, active, state, adapt=adapt, offset=places["offset"], window=window
        )
        ended = index + 1 >= places["limits"]
        for stop in stop_token_ids:
            ended = ops.logical_or(ended, ops.equal(token, stop))
        done = ops.logical_or(done, ops.logical_and(active, ended))
        written = written + ops.cast(active, "int32")
        return index + 1, tokens, written, done, finite, state, randomness

    _, *result = ops.while_loop(
        go_on, write, (places["index"], tokens, written, done, finite, state, randomness)
    )
    return tuple(result)


def next_logits(lm, state: dict) -> Tensor:
    """Return logits float32 [B, V] of the next token, by the state's weights; no step is taken."""
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
    """Return the state after one more token of the active rows.

    Args:
        lm: FWLCausalLM.
        tokens: int32 tensor [B, N], the texts since a context of the backbone began or was carried
            on; with a window N is a multiple of it.
        index: int32 scalar, the token's place in them, the same in all rows.
        active: bool tensor [B], rows that read it.
        state: the model's state, with a context where the backbone's cache is used.
        adapt: whether the fast weights take a step.
        offset: int32 scalar, tokens in the carried context before them.
        window: tokens after which the backbone begins a new context, or None for never.
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
