"""The signatures of a served model: functions of tensors, every one with a leading [batch]."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from fwl_keras.inference.samplers import Sampling
from fwl_keras.inference.writing_loop import next_logits
from fwl_keras.ops.reset_rows import reset_rows, select_rows
from fwl_keras.serving.checks import RowChecks
from fwl_keras.serving.graph_loops import read_rows, write_rows
from fwl_keras.serving.graph_tokenizer import GraphTokenizer, keep_rows, prepend
from fwl_keras.serving.options import ServingOptions


class Signature(NamedTuple):
    """One signature.

    Attributes:
        function: from a dict of tensors to a dict of tensors.
        inputs: dict of `tf.TensorSpec`.
        description: what it is for, in a sentence.
    """

    function: Callable
    inputs: dict
    description: str

    def compiled(self) -> tf.types.experimental.Callable:
        """Return the function as a graph, each of whose inputs and outputs has its name."""
        function = self.function

        def checked(inputs):
            with tf.control_dependencies([_same_rows(inputs)]):
                return function({name: tf.identity(value) for name, value in inputs.items()})

        settings = {"input_signature": [self.inputs], "autograph": False}
        traced = tf.function(checked, **settings).get_concrete_function()
        # A tf.function that is saved is traced twice, and both graphs are written: here that costs
        # one node.
        return tf.function(lambda inputs: traced(inputs), **settings)


def _same_rows(inputs):
    """Return a check of a whole request: is it known what belongs to which row?"""
    rows = tf.stack([tf.shape(inputs[name])[0] for name in sorted(inputs)])
    fine = tf.logical_and(tf.reduce_all(tf.equal(rows, rows[0])), rows[0] > 0)
    message = (
        "All inputs of a request must have the same number of rows, at least one; rows of "
        f"{', '.join(sorted(inputs))}:"
    )
    return tf.debugging.Assert(fine, [message, rows], summarize=len(inputs))


_TEXT = {"text": ((None,), tf.string)}
_IDS = {"token_ids": ((None, None), tf.int32), "lengths": ((None,), tf.int32)}
_WRITING = {
    "max_new_tokens": ((None,), tf.int32),
    "temperature": ((None,), tf.float32),
    "top_k": ((None,), tf.int32),
    "top_p": ((None,), tf.float32),
    "seed": ((None,), tf.int64),
}


def _specs(inputs):
    """Return `tf.TensorSpec`s by name of pairs of shape and dtype."""
    return {name: tf.TensorSpec(*spec, name=name) for name, spec in inputs.items()}


def _no_refusals(rows):
    """Return the checks of as many rows as a tensor [B] has."""
    return RowChecks(tf.zeros_like(rows, tf.int32))


def _once(wrap, function, specs):
    """Return a function that is one graph in all graphs that call it: most of them is in two."""

    @functools.cache
    def graph():
        with tf.init_scope():
            settings = {"input_signature": specs, "autograph": False}
            return tf.function(wrap(function), **settings).get_concrete_function()

    def call(*arguments):
        return graph()(*arguments) if tf.inside_function() else function(*arguments)

    return call


class Signatures:
    """All signatures of a model.

    Args:
        lm: FWLCausalLM with a SentencePiece preprocessor.
        options: caps.
        wrap: applied to what is to be a graph, as a whole or by itself within others.

    Attributes:
        tokenizer: the GraphTokenizer, to be tracked by whoever saves the functions.

    Raises:
        ValueError: if the model cannot take text.
    """

    def __init__(self, lm, options: ServingOptions, wrap: Callable = lambda function: function):
        self._lm = lm
        self._wrap = wrap
        self._options = options
        self._window = lm.context_length or options.max_tokens
        self.tokenizer = GraphTokenizer(lm.codec, options.max_tokens, options.max_bytes)
        self._state = {
            name: ((None, *value.shape[1:]), value.dtype)
            for name, value in lm.initial_state(1).items()
        }
        ids = tf.RaggedTensorSpec([None, None], tf.int32)
        state, status = _specs(self._state), tf.TensorSpec([None], tf.int32)
        writing = _specs({**_TEXT, **_WRITING})
        self._read_rows = _once(wrap, self._read_rows, [ids, state])
        self._score_rows = _once(wrap, self._score_rows, [writing["text"], state, status])
        self._write_rows = _once(wrap, self._write_rows, [writing, state, status])

    def all(self) -> dict[str, Signature]:
        """Return the signatures by name; `score` is also to be the default one."""
        state = self._state
        described = {
            "score": (self._score, _TEXT, "Log-probabilities of a text's tokens."),
            "score_tokens": (self._score_tokens, _IDS, "The same of token ids, taken as they are."),
            "generate": (self._generate, {**_TEXT, **_WRITING}, "Goes on from a text."),
            "initial_state": (
                self._initial_state,
                _TEXT,
                "A fresh state for every row; the text is not read.",
            ),
            "read": (self._read, {**_TEXT, **state}, "Reads a text into a state."),
            "score_from": (self._score_from, {**_TEXT, **state}, "As score, from a state."),
            "generate_from": (
                self._generate_from,
                {**_TEXT, **_WRITING, **state},
                "As generate, from a state; the text may be empty if it has read something.",
            ),
            "tokenize": (self._tokenize, _TEXT, "The token ids of a text."),
            "detokenize": (self._detokenize, _IDS, "The text of token ids."),
        }
        return {
            name: Signature(self._wrap(function), _specs(inputs), description)
            for name, (function, inputs, description) in described.items()
        }

    def _score(self, inputs):
        checks, state = self._fresh(inputs["text"])
        outputs, _ = self._score_rows(inputs["text"], state, checks.status)
        return outputs

    def _score_from(self, inputs):
        checks, given = self._given(inputs)
        outputs, state = self._score_rows(inputs["text"], given, checks.status)
        return {**outputs, **state}

    def _score_rows(self, text, given, status):
        checks = RowChecks(status)
        ids = self.tokenizer.encode(text, checks)
        begun = self._begin(ids, given)
        losses, scored, state = self._read_ids(begun, given, checks)
        # Row by row without the start token's own place.
        shift = tf.cast(begun.row_lengths() - ids.row_lengths(), tf.int32)
        width = tf.shape(losses)[1] - tf.reduce_min(shift)
        places = tf.minimum(tf.range(width) + shift[:, None], tf.shape(losses)[1] - 1)
        there = tf.sequence_mask(ids.row_lengths(), width)
        losses = tf.where(there, tf.gather(losses, places, batch_dims=1), 0.0)
        scored = tf.logical_and(there, tf.gather(scored, places, batch_dims=1))
        outputs = self._scores(losses, scored, ids, state, checks)
        return outputs, select_rows(checks.fine, state, given)

    def _score_tokens(self, inputs):
        checks, state = self._fresh(inputs["lengths"])
        ids = self.tokenizer.check_ids(inputs["token_ids"], inputs["lengths"], checks)
        losses, scored, state = self._read_ids(ids, state, checks)
        return self._scores(losses, scored, ids, state, checks)

    def _scores(self, losses, scored, ids, state, checks):
        total = tf.reduce_sum(tf.where(scored, losses, 0.0), axis=1)
        checks.refuse_overflow({**state, "total": total})
        fine = checks.fine
        scored = tf.logical_and(scored, fine[:, None])
        total = tf.where(fine, total, 0.0)
        count = tf.reduce_sum(tf.cast(scored, tf.int32), axis=1)
        mean = total / tf.cast(tf.maximum(count, 1), tf.float32)
        return {
            "log_probabilities": tf.where(scored, -losses, 0.0),
            "lengths": tf.where(fine, tf.cast(ids.row_lengths(), tf.int32), 0),
            "total_log_probability": tf.where(count > 0, -total, 0.0),
            "token_count": count,
            # The largest number that float32 has is finite, and as good as infinity.
            "perplexity": tf.exp(tf.minimum(mean, 88.0)),
            **checks.outputs(),
        }

    def _initial_state(self, inputs):
        checks, state = self._fresh(inputs["text"])
        return {**state, **checks.outputs()}

    def _read(self, inputs):
        checks, given = self._given(inputs)
        ids = self.tokenizer.encode(inputs["text"], checks)
        _, _, state = self._read_ids(self._begin(ids, given), given, checks)
        checks.refuse_overflow(state)
        fine = checks.fine
        count = tf.where(fine, tf.cast(ids.row_lengths(), tf.int32), 0)
        state = select_rows(fine, state, given)
        return {"token_count": count, **state, **checks.outputs()}

    def _generate(self, inputs):
        checks, state = self._fresh(inputs["text"])
        outputs, _ = self._write_rows(inputs, state, checks.status)
        return outputs

    def _generate_from(self, inputs):
        checks, given = self._given(inputs)
        asked = {name: inputs[name] for name in (*_TEXT, *_WRITING)}
        outputs, state = self._write_rows(asked, given, checks.status)
        return {**outputs, **state}

    def _write_rows(self, inputs, given, status):
        checks = RowChecks(status)
        # A row that has read something may go on at once.
        ids = self.tokenizer.encode(inputs["text"], checks, given["pending_valid"])
        checks.refuse_drawing(inputs, self._options.max_new_tokens)
        fine = checks.fine
        ids = self._begin(keep_rows(ids, fine), given)
        top_k, seed = inputs["top_k"], tf.cast(tf.where(fine, inputs["seed"], 0), tf.uint32)
        found = write_rows(
            self._lm,
            ids,
            given,
            self._window,
            read=self._read_rows,
            new_tokens=tf.where(fine, inputs["max_new_tokens"], 0),
            draw=Sampling(
                temperature=tf.where(fine, inputs["temperature"], 1.0),
                top_k=tf.where(tf.logical_and(fine, top_k > 0), top_k, self.tokenizer.vocab_size),
                top_p=tf.where(fine, inputs["top_p"], 1.0),
            ),
            seeds=tf.stack([seed, tf.zeros_like(seed)], axis=1),
            active=fine,
            stop_token_ids=self.tokenizer.end_token_ids,
        )
        state = found.state
        checks.warn("diverged", found.diverged)
        checks.refuse("overflow", tf.logical_not(found.finite))
        # Logits overflow before the state does.
        checks.refuse_overflow({**state, "logits": next_logits(self._lm, state)})
        fine = checks.fine
        written = keep_rows(found.ids, fine)
        count = tf.cast(written.row_lengths(), tf.int32)
        ends = tf.zeros_like(written.flat_values, tf.bool)
        for stop in self.tokenizer.end_token_ids:
            ends = tf.logical_or(ends, tf.equal(written.flat_values, stop))
        stopped = tf.reduce_any(written.with_flat_values(ends), axis=1)
        reason = tf.where(fine, tf.where(stopped, "stop", "length"), "refused")
        outputs = {
            "text": self.tokenizer.continuation(ids, written),
            "token_count": count,
            "finish_reason": reason,
            **checks.outputs(),
        }
        return outputs, select_rows(fine, state, given)

    def _tokenize(self, inputs):
        checks = _no_refusals(inputs["text"])
        ids = self.tokenizer.encode(inputs["text"], checks)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        return {"token_ids": ids.to_tensor(), "lengths": lengths, **checks.outputs()}

    def _detokenize(self, inputs):
        checks = _no_refusals(inputs["lengths"])
        ids = self.tokenizer.check_ids(inputs["token_ids"], inputs["lengths"], checks)
        return {"text": self.tokenizer.decode(ids), **checks.outputs()}

    def _read_ids(self, ids, state, checks):
        found = self._read_rows(ids, state)
        checks.warn("diverged", found.diverged)
        return found.losses, found.scored, found.state

    def _read_rows(self, ids, state):
        return read_rows(self._lm, ids, state, self._window)

    def _begin(self, ids, state):
        """Return ids with the start token before the first one of a text."""
        begins = tf.logical_and(ids.row_lengths() > 0, tf.logical_not(state["pending_valid"]))
        return prepend(ids, self.tokenizer.start_token_id, begins)

    def _fresh(self, rows):
        return _no_refusals(rows), self._lm.initial_state(tf.shape(rows)[0])

    def _given(self, inputs):
        """Return the checks of a request and its state, fresh in rows where that is damaged."""
        state = {name: inputs[name] for name in self._state}
        checks = _no_refusals(inputs["text"])
        damaged = checks.refuse_state(state, self._lm.block.segment_length or 1)
        return checks, reset_rows(state, damaged)
