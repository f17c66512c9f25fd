"""Beam search with KerasHub's sampler, each beam with fast weights of its own."""

import itertools

import numpy as np
from keras import ops

from fwl_keras.inference.divergence import Watch
from fwl_keras.inference.padding import pad_rows
from fwl_keras.inference.reading_loop import read_rows, room_for
from fwl_keras.inference.state import join_state, split_state
from fwl_keras.inference.writing_loop import next_logits, read_token, require_finite
from fwl_keras.inference.writing_settings import WritingSettings
from fwl_keras.ops._types import Tensor


def beam_search(
    lm,
    prompts: list[np.ndarray],
    state: dict,
    settings: WritingSettings,
) -> tuple[list[np.ndarray], dict]:
    """Find the likeliest continuations, row by row.

    Args:
        lm: FWLCausalLM.
        prompts: int32 arrays [T_i], T_i >= 1.
        state: state before the prompts.
        settings: what the call of `generate` asks for, its sampler a beam search. A stop token ends
            a beam, whose score then stays as it is.

    Returns:
        Rows of token ids, and the state after their last tokens.

    Raises:
        ValueError: if a prompt is empty, a row goes beyond the backbone's context, or the logits
            after a prompt are not finite.
    """
    watches = [Watch(settings.watch.on_divergence) for _ in prompts]
    rows, states = [], []
    for i, prompt in enumerate(prompts):
        before = {name: value[i : i + 1] for name, value in state.items()}
        row, after = _search_row(lm, prompt, before, settings, watches[i])
        rows.append(row)
        states.append(after)
    settings.watch.add(watches)
    state = {name: ops.concatenate([one[name] for one in states]) for name in state}
    return rows, state


def _search_row(lm, prompt, state, settings, watch):
    max_length, stop_token_ids = settings.max_length, settings.stop_token_ids
    sampler = settings.sampler
    if not prompt.size:
        raise ValueError("Beam search needs prompts of at least one token; received an empty one.")
    carries = bool(split_state(state)[-1])
    if carries:
        room_for(lm, [prompt], state, more=max_length - prompt.size)
    elif lm.context_length is not None and max_length > lm.context_length:
        raise ValueError(
            f"Beam search cannot begin a new context: `max_length`={max_length} is more than the "
            f"model's `context_length`={lm.context_length}. Give a smaller one, or read the "
            "beginning of the prompt into a state."
        )
    block_state, pending, valid, context = split_state(state)
    if not carries and settings.use_cache and lm.body.keeps_context:
        context = lm.body.initial_context(1, max_length)
    start = join_state(block_state, pending, valid, context)
    _, start = read_rows(lm, [prompt], start, watch=watch)
    logits = lm.functions(next_logits)(start)
    require_finite(ops.convert_to_numpy(ops.all(ops.isfinite(logits), axis=-1)))

    token_ids, mask = pad_rows([prompt], max_length)
    # The sampler would take a stop token that only fills up the row for one that was written.
    token_ids[~mask] = next(i for i in itertools.count() if i not in stop_token_ids)
    run = lm.functions(
        _search,
        beams=sampler.num_beams,
        temperature=float(sampler.temperature),
        stop_token_ids=stop_token_ids,
        adapt=settings.adapt,
    )
    found = ops.convert_to_numpy(
        run(ops.convert_to_tensor(token_ids), ops.convert_to_tensor(mask), start)
    )[0]
    stops = np.nonzero(np.isin(found[prompt.size :], stop_token_ids))[0]
    end = prompt.size + stops[0] + 1 if stops.size else max_length
    row = found[:end].astype("int32")

    again = Watch(watch.on_divergence)
    mode = "adapt" if settings.adapt else "frozen"
    _, after = read_rows(lm, [row], state, mode, watch=again)
    if not settings.adapt:
        learned = split_state(read_rows(lm, [prompt], state, watch=again)[1])[0]
        after = join_state(learned, *split_state(after)[1:])
    return row, after


def _search(
    lm,
    prompt: Tensor,
    mask: Tensor,
    state: dict,
    *,
    beams: int,
    temperature: float,
    stop_token_ids: tuple[int, ...],
    adapt: bool,
) -> Tensor:
    """Return the best beam [1, N]; `state` is that after the prompt."""
    length = ops.sum(ops.cast(mask[0], "int32"))
    context = split_state(state)[-1]
    offset = context["position"][0] - length if "position" in context else 0
    ended = ops.zeros_like(state["pending_valid"])

    def step(tokens, cache, index):
        """Read the token before `index`, and predict the one at it."""
        state, ended = cache["state"], cache["ended"]
        # The first time that is the prompt's last token, which has been read.
        active = ops.logical_and(ops.logical_not(ended), index > length)
        state = read_token(lm, tokens, index - 1, active, state, adapt=adapt, offset=offset)
        token = ops.take(tokens, index - 1, axis=1)
        is_stop = ops.zeros_like(ended)
        for stop in stop_token_ids:
            is_stop = ops.logical_or(is_stop, ops.equal(token, stop))
        ended = ops.logical_or(ended, ops.logical_and(is_stop, active))
        logits = next_logits(lm, state)
        # Of an ended beam all that can follow is one token, with certainty.
        only = ops.where(ops.arange(logits.shape[-1])[None] == 0, 0.0, -1e9)
        logits = ops.where(ended[:, None], only, logits)
        return logits, None, {"state": state, "ended": ended}

    import keras_hub

    sampler = keras_hub.samplers.BeamSampler(num_beams=beams, temperature=temperature)
    return sampler(
        next=step,
        prompt=prompt,
        cache={"state": state, "ended": ended},
        index=length,
        mask=mask,
        stop_token_ids=list(stop_token_ids) or None,
    )
