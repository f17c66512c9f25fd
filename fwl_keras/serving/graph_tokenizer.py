"""Text to token ids and back, in the graph."""

from typing import Any

import tensorflow as tf

from fwl_keras.data.sentencepiece_tokenizer import SentencePieceTokenizer
from fwl_keras.data.space_sign import SPACE_SIGN
from fwl_keras.serving.checks import RowChecks, is_utf8


class GraphTokenizer(tf.Module):
    """The model's SentencePiece tokeniser as TensorFlow operations that refuse single rows.

    Args:
        codec: the model's Codec.
        max_tokens: tokens of a row.
        max_bytes: bytes of a row.

    Raises:
        ValueError: if the model has no SentencePiece tokeniser.
    """

    def __init__(self, codec, max_tokens: int, max_bytes: int):
        super().__init__()
        import tensorflow_text

        tokenizer = getattr(codec.preprocessor, "tokenizer", None)
        proto = getattr(tokenizer, "proto", None)
        if not isinstance(proto, bytes):
            raise ValueError(
                "A served model needs a `preprocessor` with a SentencePiece tokeniser, whose "
                f"operations TensorFlow Serving has; received {codec.preprocessor!r}."
            )
        self.start_token_id = codec.start_token_id
        self.end_token_ids = codec.end_token_ids
        self.vocab_size = codec.vocab_size
        self.max_tokens = max_tokens
        self.max_bytes = max_bytes
        # Others take the sign for a space, in Python too: what they cannot give back is refused.
        self._takes_sign = isinstance(tokenizer, SentencePieceTokenizer)
        self._tokenizer: Any = (
            tokenizer.to_tf()
            if isinstance(tokenizer, SentencePieceTokenizer)
            else tensorflow_text.SentencepieceTokenizer(model=proto, out_type=tf.int32)
        )

    def encode(
        self, text: tf.Tensor, checks: RowChecks, may_be_empty: tf.Tensor | None = None
    ) -> tf.RaggedTensor:
        """Return the token ids of texts, without start tokens.

        Args:
            text: string tensor [B].
            checks: told which rows are refused; those become empty.
            may_be_empty: bool tensor [B], or None for no row.

        Returns:
            int32 [B, (T)].
        """

        def refuse_empty(empty):
            if may_be_empty is not None:
                empty = tf.logical_and(empty, tf.logical_not(may_be_empty))
            checks.refuse("empty", empty)

        refuse_empty(tf.equal(tf.strings.length(text), 0))
        checks.refuse("long", tf.strings.length(text) > self.max_bytes, self.max_tokens)
        text = tf.where(checks.fine, text, "")
        checks.refuse("encoding", tf.logical_not(is_utf8(text)))
        if not self._takes_sign:
            has_sign = tf.strings.regex_full_match(text, f"(?s).*{SPACE_SIGN}.*")
            checks.refuse("character", tf.logical_and(checks.fine, has_sign))
        text = tf.where(checks.fine, text, "")
        ids = self._tokenizer.tokenize(text)
        # A tokeniser that drops spaces may leave nothing.
        refuse_empty(tf.equal(ids.row_lengths(), 0))
        checks.refuse("long", ids.row_lengths() > self.max_tokens, self.max_tokens)
        return keep_rows(ids, checks.fine)

    def check_ids(
        self, token_ids: tf.Tensor, lengths: tf.Tensor, checks: RowChecks
    ) -> tf.RaggedTensor:
        """Return token ids as they were sent.

        Args:
            token_ids: int32 tensor [B, T].
            lengths: int32 tensor [B].
            checks: told which rows are refused; those become empty.

        Returns:
            int32 [B, (T)].
        """
        width = tf.shape(token_ids)[1]
        checks.refuse("empty", tf.equal(lengths, 0))
        checks.refuse("ids", tf.logical_or(lengths < 0, lengths > width))
        checks.refuse("long", lengths > self.max_tokens, self.max_tokens)
        lengths = tf.where(checks.fine, lengths, 0)
        there = tf.sequence_mask(lengths, width)
        outside = tf.logical_or(token_ids < 0, token_ids >= self.vocab_size)
        checks.refuse("ids", tf.reduce_any(tf.logical_and(outside, there), axis=1))
        ids = tf.RaggedTensor.from_tensor(token_ids, lengths)
        return keep_rows(ids, checks.fine)

    def decode(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """Return texts, string tensor [B], of ids int32 [B, (T)]; special ids disappear."""
        kept = tf.ones_like(ids.flat_values, tf.bool)
        for special in {self.start_token_id, *self.end_token_ids} - {None}:
            kept = tf.logical_and(kept, tf.not_equal(ids.flat_values, special))
        return self._tokenizer.detokenize(_keep(ids, kept))

    def continuation(self, before: tf.RaggedTensor, ids: tf.RaggedTensor) -> tf.Tensor:
        """Return texts, string tensor [B], of what comes after other tokens.

        As `Codec.continuation`.

        Args:
            before: int32 [B, (T)], the tokens before; none stands for a text that is not known.
            ids: int32 [B, (T)], those that come next.
        """
        before, ids = (one.with_row_splits_dtype(tf.int64) for one in (before, ids))
        known = before.row_lengths() > 0
        some = self._tokenizer.tokenize(tf.fill([tf.shape(known)[0]], "a"))
        before = tf.concat([before, keep_rows(some, tf.logical_not(known))], axis=1)
        text = self.decode(before)
        whole = self.decode(tf.concat([before, ids], axis=1))
        begin = tf.minimum(tf.strings.length(text), tf.strings.length(whole))
        return tf.strings.substr(whole, begin, tf.strings.length(whole) - begin)


def keep_rows(ids: tf.RaggedTensor, rows: tf.Tensor) -> tf.RaggedTensor:
    """Return ragged rows, empty where `rows` (bool tensor [B]) is false."""
    return _keep(ids, tf.repeat(rows, ids.row_lengths()))


def _keep(ids, kept):
    """Return ragged rows of the ids at which `kept`, bool for every one, is true.

    `tf.ragged.boolean_mask` does the same with ten times as many operations.
    """
    before = tf.pad(tf.cumsum(tf.cast(kept, ids.row_splits.dtype)), [[1, 0]])
    return tf.RaggedTensor.from_row_splits(
        tf.boolean_mask(ids.flat_values, kept), tf.gather(before, ids.row_splits), validate=False
    )


def prepend(ids: tf.RaggedTensor, token_id: int | None, rows: tf.Tensor) -> tf.RaggedTensor:
    """Return ragged rows with an id before the first where `rows` (bool tensor [B]) is true."""
    if token_id is None:
        return ids
    counts = tf.cast(rows, ids.row_splits.dtype)
    first = tf.fill([tf.reduce_sum(counts)], tf.constant(token_id, ids.dtype))
    first = tf.RaggedTensor.from_row_lengths(first, counts, validate=False)
    return tf.concat([first, ids], axis=1)
