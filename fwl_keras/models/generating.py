"""Writing on from a prompt."""

from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops

from fwl_keras.models.beam_search import beam_search
from fwl_keras.models.divergence import Watch
from fwl_keras.models.generation import Generation
from fwl_keras.models.sampling import get_sampler, sampling_of
from fwl_keras.models.streaming import Streaming

_SEEDS = 2**32


class Generating(Streaming):
    """The part of FWLCausalLM that writes. Mixed into `keras.Model`."""

    def generate(
        self,
        prompts,
        max_length: int | None = None,
        state: dict | None = None,
        stop_token_ids="auto",
        strip_prompt: bool = False,
        *,
        seed: int | Sequence[int] | None = None,
        adapt_while_generating: bool = True,
        on_divergence: str = "ignore",
        use_cache: bool = True,
        return_state: bool = False,
    ):
        """Continue prompts; the fast weights adapt to the prompts and to what is written.

        The sampler is the one given to `compile`: a KerasHub sampler, greedy, top-k, top-p,
        random or beam search, or its name. Texts longer than `context_length` go on in a new
        context of the body, with what was before in the fast weights.

        Args:
            prompts: as `inputs` of `read`. With a state that has read something a prompt may be
                empty.
            max_length: tokens of every row, those of its prompt (and start token) included.
                None: the preprocessor's `sequence_length`, else `context_length`.
            state: state to go on from, or None for a fresh one.
            stop_token_ids: ids that end a row, which then stays as it is; `"auto"` for the
                preprocessor's end token, None for none.
            strip_prompt: whether to return what was written without the prompt.
            seed: row i's t-th token is drawn with the key (seed, i, t), or, with one int per row,
                (seed[i], 0, t), whatever the other rows are. None: the sampler's seed, else a
                random one.
            adapt_while_generating: False keeps the fast weights as they are after the prompt.
            on_divergence: as for `read`, of the prompts.
            use_cache: False computes the body's features of all tokens again for every new one,
                as bodies without a cache need it.
            return_state: whether to return the state after the last tokens, too.

        Returns:
            For texts a text, or a list of them; for token ids a dict of `token_ids` int32
            [B, max_length], 0 or the pad token where there is none, and `padding_mask` bool. With
            `return_state=True` a pair of that and the state.

        Warns:
            RuntimeWarning: once, where fast weights diverge on the prompts.

        Raises:
            ValueError: if an argument does not fit, or the model predicts nothing: its logits are
                not finite.

        Example:
            >>> lm.compile(sampler="top_p")
            >>> lm.generate("def main(", max_length=100, seed=1)
        """
        given, ids, state, settings = self._generation_arguments(
            prompts,
            max_length,
            state,
            stop_token_ids,
            seed,
            adapt_while_generating,
            on_divergence,
            use_cache,
        )
        sampler = get_sampler(self.sampler)
        if hasattr(sampler, "num_beams"):
            settings.pop("seeds")
            rows, state = beam_search(self, ids, state, sampler=sampler, **settings)
        else:
            generation = Generation(self, ids, state, sampling=sampling_of(sampler), **settings)
            generation.run()
            rows, state = generation.rows, generation.state
        settings["watch"].report()
        if strip_prompt:
            rows = [row[prompt.size :] for row, prompt in zip(rows, ids, strict=True)]
        result = self._present(given, rows, settings["max_length"])
        return (result, state) if return_state else result

    def stream(
        self,
        prompt,
        max_length: int | None = None,
        state: dict | None = None,
        stop_token_ids="auto",
        *,
        seed: int | None = None,
        adapt_while_generating: bool = True,
        on_divergence: str = "ignore",
        use_cache: bool = True,
        tokens_at_once: int = 1,
    ) -> Iterator:
        """What `generate` writes after one prompt, as it comes.

        Args:
            prompt: one text, or a vector of token ids.
            max_length: as for `generate`, like all arguments but the last.
            state: likewise.
            stop_token_ids: likewise.
            seed: likewise, an int.
            adapt_while_generating: likewise.
            on_divergence: likewise.
            use_cache: likewise.
            tokens_at_once: tokens that are written between two pieces.

        Yields:
            Pieces of text, never half a character; or int32 arrays of new token ids.

        Raises:
            ValueError: if an argument does not fit, or for beam search, whose text may still
                change at its beginning.

        Example:
            >>> for piece in lm.stream("def main(", max_length=100):
            ...     print(piece, end="", flush=True)
        """
        given, ids, state, settings = self._generation_arguments(
            prompt,
            max_length,
            state,
            stop_token_ids,
            seed,
            adapt_while_generating,
            on_divergence,
            use_cache,
        )
        if len(ids) != 1:
            raise ValueError(f"`prompt` must be one text; received {len(ids)} rows.")
        sampler = get_sampler(self.sampler)
        if hasattr(sampler, "num_beams"):
            raise ValueError("Beam search cannot be streamed: compile with another `sampler`.")
        generation = Generation(self, ids, state, sampling=sampling_of(sampler), **settings)
        settings["watch"].report()
        return self._pieces(generation, given.is_text, ids[0].size, tokens_at_once)

    def _pieces(self, generation, is_text, begin, tokens_at_once):
        shown = ""
        while not generation.finished:
            generation.run(tokens_at_once)
            row = generation.rows[0][begin:]
            if not is_text:
                begin += row.size
                yield row
                continue
            # Bytes of a character that is not complete yet are decoded as U+FFFD.
            text = self.codec.decode(row)
            whole = text if generation.finished else text.rstrip("\ufffd")
            if len(whole) > len(shown):
                yield whole[len(shown) :]
                shown = whole

    def _generation_arguments(
        self, prompts, max_length, state, stop_token_ids, seed, adapt, on_divergence, use_cache
    ):
        """The prompts as given and as ids, the state, and the settings of a generation."""
        given = self.codec.rows(prompts, "prompts")
        max_length = self._max_length(max_length)
        if stop_token_ids == "auto":
            if self.preprocessor is None:
                raise ValueError(
                    '`stop_token_ids="auto"` needs a model with a `preprocessor`; this one has '
                    "none. Give a tuple of ids, or None to write until `max_length`."
                )
            stop_token_ids = self.codec.end_token_ids
        ids, state = self._rows_and_state(prompts, state, begin=True, name="prompts")
        begun = ops.convert_to_numpy(state["pending_valid"])
        for i, row in enumerate(ids):
            if row.size >= max_length:
                raise ValueError(
                    f"`max_length`={max_length} leaves no room to write: prompt {i} has "
                    f"{row.size} tokens. Give a larger one."
                )
            if not row.size and not begun[i]:
                raise ValueError(
                    f"`prompts` is empty in row {i}, and its state has read nothing: there is "
                    "nothing to go on from."
                )
        settings = {
            "max_length": max_length,
            "stop_token_ids": tuple(sorted(set(map(int, stop_token_ids or ())))),
            "seeds": self._seeds(seed, len(ids)),
            "adapt": adapt and self.block.use_fast_weights,
            "watch": Watch(on_divergence),
            "use_cache": use_cache,
        }
        return given, ids, state, settings

    def _max_length(self, max_length):
        if max_length is None:
            max_length = getattr(self.preprocessor, "sequence_length", None) or self.context_length
        if not isinstance(max_length, int | np.integer) or max_length < 1:
            raise ValueError(f"`max_length` must be an int of at least 1; received {max_length!r}.")
        return int(max_length)

    def _seeds(self, seed, rows):
        """Keys [B, 2] of the rows' random numbers."""
        if seed is None:
            seed = getattr(get_sampler(self.sampler), "seed", None)
        if seed is None:
            seed = int(np.random.randint(_SEEDS, dtype="uint32"))
        if isinstance(seed, int | np.integer):
            seeds = [(int(seed), row) for row in range(rows)]
        else:
            seeds = [(int(one), 0) for one in seed]
        if len(seeds) != rows:
            raise ValueError(
                f"`seed` must be an int, or one int for each of the {rows} rows; received "
                f"{len(seeds)} of them."
            )
        if any(not 0 <= one < _SEEDS for one, _ in seeds):
            raise ValueError(f"`seed` must lie in [0, 2**32); received {seed!r}.")
        return np.array(seeds, "uint32")

    def _present(self, given, rows, max_length):
        """Rows in the form that the prompts had."""
        if given.is_text:
            texts = [self.codec.decode(row) for row in rows]
            return texts[0] if given.is_single else texts
        pad = 0 if self.pad_token_id is None else self.pad_token_id
        token_ids = np.full((len(rows), max_length), pad, "int32")
        padding_mask = np.zeros((len(rows), max_length), bool)
        for i, row in enumerate(rows):
            token_ids[i, : row.size] = row
            padding_mask[i, : row.size] = True
        return {"token_ids": token_ids, "padding_mask": padding_mask}
