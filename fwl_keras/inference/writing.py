"""Writing on from a prompt: the methods of a model."""

from collections.abc import Iterator, Sequence

from keras import ops

from fwl_keras._arguments import require_bools, require_count
from fwl_keras.inference.beam_search import beam_search
from fwl_keras.inference.padding import pad_rows
from fwl_keras.inference.reading import Reader
from fwl_keras.inference.samplers import searches
from fwl_keras.inference.writing_loop import Generation
from fwl_keras.inference.writing_settings import writing_settings


class Writer(Reader):
    """The part of FWLCausalLM that writes. Mixed into `keras.Model`.

    Attributes:
        sampler: a KerasHub sampler or its name, see `compile`.
    """

    sampler: object

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
        random or beam search, or its name, or one of your own. Texts longer than `context_length`
        go on in a new context of the backbone, with what was before in the fast weights.

        Args:
            prompts: as `inputs` of `read`. With a state that has read something a prompt may be
                empty.
            max_length: tokens of every row, those of its prompt (and start token) included.
                None: the preprocessor's `sequence_length`, else `context_length`.
            state: state to go on from, or None for a fresh one.
            stop_token_ids: ids in [0, V) that end a row, which then stays as it is; `"auto"` for
                the preprocessor's end token, None for none.
            strip_prompt: whether to return what was written without the prompt: for texts, what
                the pieces of `stream` are when they are joined.
            seed: row i's t-th token is drawn with the key (seed, i, t), or, with one int per row,
                (seed[i], 0, t), whatever the other rows are. None: the sampler's seed, else a
                random one. A sampler of your own draws by itself: only None.
            adapt_while_generating: False keeps the fast weights as they are after the prompt.
            on_divergence: as for `read`, of the prompts.
            use_cache: False computes the backbone's features of all tokens again for every new
                one, as backbones without a cache need it.
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
        given, ids, state, settings = self._prepared(
            prompts,
            state,
            max_length=max_length,
            stop_token_ids=stop_token_ids,
            seed=seed,
            adapt_while_generating=adapt_while_generating,
            on_divergence=on_divergence,
            use_cache=use_cache,
        )
        require_bools(strip_prompt=strip_prompt, return_state=return_state)
        if searches(settings.sampler):
            rows, state = beam_search(self, ids, state, settings)
        else:
            generation = Generation(self, ids, state, settings)
            generation.run()
            rows, state = generation.rows, generation.state
        settings.watch.report()
        result = self._present(given, ids, rows, settings.max_length, strip_prompt)
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
        """Write what `generate` does after one prompt, piece by piece.

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
        require_count("tokens_at_once", tokens_at_once)
        given, ids, state, settings = self._prepared(
            prompt,
            state,
            max_length=max_length,
            stop_token_ids=stop_token_ids,
            seed=seed,
            adapt_while_generating=adapt_while_generating,
            on_divergence=on_divergence,
            use_cache=use_cache,
        )
        if len(ids) != 1:
            raise ValueError(f"`prompt` must be one text; received {len(ids)} rows.")
        if searches(settings.sampler):
            raise ValueError("Beam search cannot be streamed: compile with another `sampler`.")
        generation = Generation(self, ids, state, settings)
        settings.watch.report()
        return self._pieces(generation, given.is_text, ids[0], tokens_at_once)

    def _pieces(self, generation, is_text, prompt, tokens_at_once):
        shown, begin = "", prompt.size
        if is_text:
            decode, replacement = self.codec.continuation(prompt), self.codec.replacement
        while not generation.finished:
            generation.run(tokens_at_once)
            row = generation.rows[0][begin:]
            if not is_text:
                begin += row.size
                yield row
                continue
            text = decode(row)
            # Bytes of a character that is not complete yet may become one.
            whole = text if generation.finished else text.rstrip(replacement)
            if len(whole) > len(shown):
                yield whole[len(shown) :]
                shown = whole

    def _prepared(self, prompts, state, **arguments):
        """Return the prompts as given and as ids, the state, and the settings."""
        given = self.codec.rows(prompts, "prompts")
        settings = writing_settings(self, len(given.ids), **arguments)
        ids, state = self._rows_and_state(given, state, begin=True, name="prompts")
        begun = ops.convert_to_numpy(state["pending_valid"])
        for i, row in enumerate(ids):
            if row.size >= settings.max_length:
                raise ValueError(
                    f"`max_length`={settings.max_length} leaves no room to write: prompt {i} has "
                    f"{row.size} tokens. Give a larger one."
                )
            if not row.size and not begun[i]:
                raise ValueError(
                    f"`prompts` is empty in row {i}, and its state has read nothing: there is "
                    "nothing to go on from."
                )
        return given, ids, state, settings

    def _present(self, given, prompts, rows, max_length, strip_prompt):
        """Return rows in the form that the prompts had, with them or without."""
        pairs = list(zip(prompts, rows, strict=True))
        if given.is_text:
            texts = [
                # After an empty prompt a text goes on from its state.
                self.codec.continuation(prompt)(row[prompt.size :])
                if strip_prompt or not prompt.size
                else self.codec.decode(row)
                for prompt, row in pairs
            ]
            return texts[0] if given.is_single else texts
        if strip_prompt:
            rows = [row[prompt.size :] for prompt, row in pairs]
        pad = 0 if self.pad_token_id is None else self.pad_token_id
        token_ids, padding_mask = pad_rows(rows, max_length, pad)
        return {"token_ids": token_ids, "padding_mask": padding_mask}
