"""Reading and scoring texts that have no end: the methods of a model."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from fwl_keras._arguments import require_bools, require_count
from fwl_keras.backend.compiled import CompiledFunctions
from fwl_keras.inference.bodies import Body
from fwl_keras.inference.divergence import Watch, warn_of_lost_tokens
from fwl_keras.inference.reading_loop import read_rows
from fwl_keras.inference.state import begin_again, checked_state, join_state
from fwl_keras.inference.texts import Codec, Rows
from fwl_keras.layers.fwl_block import FWLBlock


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


class Reader:
    """The part of FWLCausalLM that reads on and on. Mixed into `keras.Model`.

    A state is a flat dict of tensors of constant size: the block's (see
    `FWLBlock.initial_state`), `pending_features` float32 [B, D] and `pending_valid` bool [B] (the
    features of the last token, whose label is the next token to come), and, with
    `carry_context=True`, the backbone's own `context_...`.

    Attributes:
        body: how the backbone is run.
        functions: what was compiled for reading and writing.
    """

    backbone: keras.layers.Layer
    block: FWLBlock
    preprocessor: object
    pad_token_id: int | None
    context_length: int | None
    body: Body
    functions: CompiledFunctions

    def initial_state(
        self, batch_size: int, *, carry_context: bool = False, context_length: int | None = None
    ) -> dict:
        """Return a fresh state: nothing read yet.

        Args:
            batch_size: number of rows B.
            carry_context: whether the backbone goes on from call to call where it stopped, too, for
                those that can (KerasHub's with a key/value cache, `RecurrentBackbone`). By
                default it starts a new context with each call, and what was before lives on in
                the fast weights alone.
            context_length: tokens that a carried context can hold; None: as many as the model
                reads at once, or a Transformer-XL's memory.

        Returns:
            The state. Its size in bytes a row is 8 times the block's fast weights, plus 4 * D +
            5, plus the backbone's context.

        Raises:
            ValueError: if a number is not a positive int, the backbone keeps no context, or its
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
                    "`context_length` must be given, the tokens that the backbone's cache holds: "
                    "the model has none of its own."
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
                state = begin_again(state, rows)
            _, state = read_rows(self, rows, state, watch=watch, progress=progress)
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
        """Compute log-probabilities of texts, the model adapting while it reads.

        Args:
            inputs: as for `read`.
            state: as for `read`. With a state that has read something a row's first token is
                predicted too.
            final: as for `read`.
            use_fast_weights: False scores with the trained weights, without any step.
            on_divergence: as for `read`. What was predicted before stays as it was predicted.
            progress: whether to draw a progress bar.

        Returns:
            Log-probabilities [B, T], perplexity [B], and the state after the last tokens.

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
        (losses, scored), state = read_rows(self, rows, state, mode, watch=watch, progress=progress)
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
    def codec(self) -> Codec:
        """What is between texts and token ids."""
        return Codec(self.preprocessor, self.block.vocab_size, self.pad_token_id)

    def _rows_and_state(self, inputs, state, final=False, begin=False, name="inputs"):
        """Return rows of ids with start and end tokens where they belong, and a state that fits."""
        rows = inputs if isinstance(inputs, Rows) else self.codec.rows(inputs, name)
        ids = rows.ids
        if state is None:
            state = self.initial_state(len(ids))
        state = checked_state(self, state, len(ids))
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
