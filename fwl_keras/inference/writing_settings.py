"""What a call of `generate` or `stream` asks for, checked."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from keras import ops

from fwl_keras._arguments import is_int, require_bools, require_count, require_int
from fwl_keras.inference.divergence import Watch
from fwl_keras.inference.sampler_names import DRAWING
from fwl_keras.inference.samplers import draws_by_itself, get_sampler

if TYPE_CHECKING:
    import keras_hub

_SEEDS = 2**32


@dataclass(frozen=True)
class WritingSettings:
    """How texts are written.

    Attributes:
        max_length: tokens of every row at the end, those of the prompt included.
        stop_token_ids: ids that end a row, sorted.
        sampler: how tokens are drawn, or searched.
        seeds: uint32 array [B, 2], the keys of the rows' random numbers.
        adapt: whether the fast weights learn from what is written.
        watch: what becomes of rows whose fast weights diverge on their prompts.
        use_cache: whether to use the backbone's cache.
    """

    max_length: int
    stop_token_ids: tuple[int, ...]
    sampler: "keras_hub.samplers.Sampler"
    seeds: np.ndarray
    adapt: bool
    watch: Watch
    use_cache: bool


def writing_settings(
    lm,
    rows: int,
    *,
    max_length: int | None,
    stop_token_ids,
    seed: int | Sequence[int] | None,
    adapt_while_generating: bool,
    on_divergence: str,
    use_cache: bool,
) -> WritingSettings:
    """Check arguments of `Writer.generate`, and fill in what was left out.

    Args:
        lm: FWLCausalLM.
        rows: number of prompts B.
        max_length: as for `Writer.generate`, like all that follow.
        stop_token_ids: likewise.
        seed: likewise.
        adapt_while_generating: likewise.
        on_divergence: likewise.
        use_cache: likewise.

    Raises:
        ValueError: if one does not fit.
    """
    require_bools(adapt_while_generating=adapt_while_generating, use_cache=use_cache)
    if max_length is None:
        max_length = getattr(lm.preprocessor, "sequence_length", None) or lm.context_length
    require_count("max_length", max_length)
    if isinstance(stop_token_ids, str) and stop_token_ids == "auto":
        if lm.preprocessor is None:
            raise ValueError(
                '`stop_token_ids="auto"` needs a model with a `preprocessor`; this one has '
                "none. Give a tuple of ids, or None to write until `max_length`."
            )
        stop_token_ids = lm.codec.end_token_ids
    sampler = get_sampler(lm.sampler)
    return WritingSettings(
        max_length=int(max_length),  # pyright: ignore[reportArgumentType]
        stop_token_ids=_stop_token_ids(stop_token_ids, lm.block.vocab_size),
        sampler=sampler,
        seeds=_seeds(seed, rows, sampler),
        adapt=adapt_while_generating and lm.block.use_fast_weights,
        watch=Watch(on_divergence),
        use_cache=use_cache,
    )


def _stop_token_ids(stop_token_ids, vocab_size) -> tuple[int, ...]:
    """Return ids as a sorted tuple of ints, the same for the same ids: functions are kept by it."""
    if stop_token_ids is None:
        return ()
    is_tensor = ops.is_tensor(stop_token_ids)
    ids = ops.convert_to_numpy(stop_token_ids) if is_tensor else stop_token_ids
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(ids, Sequence | Set) or not all(map(is_int, ids)):
        raise ValueError(
            '`stop_token_ids` must be "auto", None, or a tuple of token ids; received '
            f"{stop_token_ids!r}."
        )
    wrong = next((one for one in ids if not 0 <= one < vocab_size), None)
    if wrong is not None:
        raise ValueError(
            f"`stop_token_ids` has the id {wrong}, which is outside [0, {vocab_size}) and would "
            "never come; give ids of this model's tokeniser."
        )
    return tuple(sorted({int(one) for one in ids}))


def _seeds(seed, rows, sampler) -> np.ndarray:
    """Return keys [B, 2] of the rows' random numbers."""
    if draws_by_itself(sampler):
        if seed is not None:
            raise ValueError(
                f"`seed`={seed!r} is for the samplers {', '.join(DRAWING)}, whose tokens are drawn "
                f"with a key for each row; {type(sampler).__name__} draws by itself. Leave `seed` "
                "out, and give the sampler a seed of its own."
            )
        return np.zeros((rows, 2), "uint32")
    if seed is None:
        seed = getattr(sampler, "seed", None)
    if seed is None:
        seed = int(np.random.randint(_SEEDS, dtype="uint32"))
    if is_int(seed):
        require_int("seed", seed, 0, _SEEDS)
        seeds = [(int(seed), row) for row in range(rows)]
    else:
        each = ops.convert_to_numpy(seed) if ops.is_tensor(seed) else seed
        each = each.tolist() if isinstance(each, np.ndarray) else each
        if not isinstance(each, Sequence) or isinstance(each, str | bytes):
            raise ValueError(
                f"`seed` must be a whole number, one for each row, or None; received {seed!r}."
            )
        for row, one in enumerate(each):
            require_int(f"seed[{row}]", one, 0, _SEEDS)
        seeds = [(int(one), 0) for one in each]
    if len(seeds) != rows:
        raise ValueError(
            f"`seed` must be an int, or one int for each of the {rows} rows; received "
            f"{len(seeds)} of them."
        )
    return np.array(seeds, "uint32")
