"""Generation: one token after the other, the fast weights adapting to what is written."""

import numpy as np
from keras import ops

from fwl_keras.models.sampling import Sampling
from fwl_keras.models.stepping import join_state, next_logits, read_token, split_state
from fwl_keras.models.streaming import pad_rows, round_up
from fwl_keras.ops import random_uniform, sample_tokens
from fwl_keras.ops._types import Tensor


class Generation:
    """One call of `generate`, which can be run a few tokens at a time.

    The body reads in windows of `lm.context_length` tokens, counted from the beginning of the
    prompts, as `score` does: where one is full it starts a new context. In a window all rows are
    at the same place, as the key/value caches of KerasHub's bodies need: a row with a longer
    prompt waits for the others.

    Args:
        lm: FWLCausalLM.
        prompts: int32 arrays [T_i].
        state: state before the prompts.
        max_length: tokens of every row at the end, those of the prompt included.
        sampling: how tokens are drawn.
        stop_token_ids: ids that end a row.
        seeds: int array [B, 2], the keys of the rows' random numbers.
        adapt: whether the fast weights learn from what is written.
        use_cache: whether to use the body's cache.

    Attributes:
        done: bool array [B], rows that are finished.
    """

    def __init__(
        self,
        lm,
        prompts: list[np.ndarray],
        state: dict,
        *,
        max_length: int,
        sampling: Sampling,
        stop_token_ids: tuple[int, ...],
        seeds: np.ndarray,
        adapt: bool,
        use_cache: bool,
    ):
        self._lm = lm
        self._max_length = max_length
        self._seeds = ops.convert_to_tensor(seeds.astype("uint32"))
        self._rows = [row.tolist() for row in prompts]
        self.done = np.zeros(len(prompts), bool)
        self._run = lm._compiled(
            write_tokens, sampling=sampling, stop_token_ids=stop_token_ids, adapt=adapt
        )
        self._carries = bool(split_state(state)[-1])
        self._use_cache = use_cache and lm.body.keeps_context
        self._window = max_length
        if not self._carries and lm.context_length is not None:
            self._window = min(max_length, lm.context_length)
        if self._carries:
            lengths = [max_length - row.size for row in prompts]
            lm._check_context(prompts, state, more=max(lengths))
        # What fills whole windows of its own is read; the rest of a prompt begins the next one.
        self._written = np.array([row.size // self._window * self._window for row in prompts])
        whole = [row[:n] for row, n in zip(prompts, self._written, strict=True)]
        if self._written.any():
            _, state = lm._read_rows(whole, state)
        rest = [row[n:] for row, n in zip(prompts, self._written, strict=True)]
        self._generated = ops.zeros((len(prompts),), "int32")
        self._open_window(rest, state)

    @property
    def finished(self) -> bool:
        """Whether all rows are."""
        return bool(self.done.all())

    @property
    def rows(self) -> list[np.ndarray]:
        """All token ids of every row so far, int32 [T_i]: its prompt, then what was written."""
        lengths = self._lengths + ops.convert_to_numpy(self._in_window)
        tokens = ops.convert_to_numpy(self._tokens)
        return [
            np.array([*row, *window[start:stop]], "int32")
            for row, window, start, stop in zip(
                self._rows, tokens, self._lengths, lengths, strict=True
            )
        ]

    @property
    def state(self) -> dict:
        """The state after the last tokens of `rows`."""
        block_state, pending, valid, context = split_state(self._state)
        if self._carries:
            position = self._offset + self._lengths + ops.convert_to_numpy(self._in_window)
            context = self._lm.body.place(context, ops.convert_to_tensor(position, "int32"))
        return join_state(block_state, pending, valid, context if self._carries else {})

    def run(self, count: int | None = None) -> None:
        """Write up to `count` tokens in every row, or all that there will be."""
        while not self.finished and count != 0:
            if self._index == self._width:
                rows, state = self.rows, self.state
                self._rows = [row.tolist() for row in rows]
                self._written += self._width
                self._open_window([row[:0] for row in rows], state)
            steps = self._width - self._index
            if count is not None:
                steps = min(steps, count)
                count -= steps
            self._advance(steps)

    def _open_window(self, prompts, state):
        """Begin a context with the prompts, and lay out what the window can hold."""
        lm, left = self._lm, self._max_length - self._written
        self._width = min(self._window, int(left.max()))
        # A few lengths only are ever compiled; the carried cache has a length of its own.
        room = self._width if self._carries else min(round_up(self._width), self._window)
        self._limits = np.minimum(left, self._width)
        self._lengths = np.array([row.size for row in prompts])
        self._index = int(self._lengths.min())
        self._in_window = ops.zeros((len(prompts),), "int32")
        self._offset = 0
        block_state, pending, valid, context = split_state(state)
        if self._carries and "position" in context:
            self._offset = int(ops.convert_to_numpy(context["position"])[0])
        if self._use_cache and not self._carries:
            context = lm.body.initial_context(len(prompts), room)
        state = join_state(block_state, pending, valid, context)
        if self._lengths.any():
            space = lm.body.room(context) if context else None
            _, state = lm._read_windows(prompts, state, room if space is None else space)
        self._state = state
        token_ids, _ = pad_rows(prompts, room)
        self._tokens = ops.convert_to_tensor(token_ids)

    def _advance(self, steps):
        """Run the compiled loop for up to `steps` places of the window."""
        numbers = {
            "index": self._index,
            "until": self._index + steps,
            "offset": self._offset,
            "lengths": self._lengths,
            "limits": self._limits,
        }
        places = {n: ops.convert_to_tensor(value, "int32") for n, value in numbers.items()}
        is_last = self._written + self._limits >= self._max_length
        places["is_last"] = ops.convert_to_tensor(is_last)
        self._tokens, self._in_window, self._generated, done, self._state = self._run(
            places,
            self._seeds,
            self._tokens,
            self._in_window,
            self._generated,
            ops.convert_to_tensor(self.done),
            self._state,
        )
        self.done = ops.convert_to_numpy(done)
        self._index += steps


def write_tokens(
    lm,
    places: dict,
    seeds: Tensor,
    tokens: Tensor,
    in_window: Tensor,
    generated: Tensor,
    done: Tensor,
    state: dict,
    *,
    sampling: Sampling,
    stop_token_ids: tuple[int, ...],
    adapt: bool,
) -> tuple:
    """The loop of generation inside one window.

    Args:
        lm: FWLCausalLM.
        places: int32 tensors: `index`, the first place to write, and `until`, where to stop;
            `offset`, tokens in the context before the window; `lengths` [B] of the prompts;
            `limits` [B], places that a row may fill; and bool `is_last` [B], whether that ends it.
        seeds: uint32 tensor [B, 2].
        tokens: int32 tensor [B, N], the prompts in it.
        in_window: int32 tensor [B], tokens written in this window.
        generated: int32 tensor [B], tokens written in all.
        done: bool tensor [B].
        state: the model's state, at the end of each row; with a context where there is a cache.
        sampling: how tokens are drawn.
        stop_token_ids: ids that end a row.
        adapt: whether the fast weights learn from what is written.

    Returns:
        `tokens`, `in_window`, `generated`, `done` and `state` after the loop.
    """
    width = ops.shape(tokens)[1]
    columns = ops.arange(width, dtype="int32")[None]

    def go_on(index, tokens, in_window, generated, done, state):
        return ops.logical_and(index < places["until"], ops.logical_not(ops.all(done)))

    def write(index, tokens, in_window, generated, done, state):
        here = columns == index
        in_prompt = index < places["lengths"]
        active = ops.logical_not(ops.logical_or(in_prompt, done))
        uniform = random_uniform(seeds[:, 0], seeds[:, 1], generated)
        token = sample_tokens(
            next_logits(lm, state),
            uniform,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            most=sampling.most,
        )
        known = ops.sum(ops.where(here, tokens, ops.zeros_like(tokens)), axis=1)
        token = ops.where(active, token, known)
        tokens = ops.where(here, token[:, None], tokens)
        state = read_token(lm, tokens, index, places["offset"], active, state, adapt)
        stopped = ops.zeros_like(done)
        for stop in stop_token_ids:
            stopped = ops.logical_or(stopped, ops.equal(token, stop))
        filled = ops.logical_and(places["is_last"], index + 1 >= places["limits"])
        done = ops.logical_or(done, ops.logical_and(active, ops.logical_or(stopped, filled)))
        step = ops.cast(active, "int32")
        return index + 1, tokens, in_window + step, generated + step, done, state

    _, *result = ops.while_loop(
        go_on, write, (places["index"], tokens, in_window, generated, done, state)
    )
    return tuple(result)
