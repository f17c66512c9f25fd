"""SentencePiece as TensorFlow operations, with the ids of `SentencePieceTokenizer`."""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text

from fwl_keras.data.space_sign import SPACE_SIGN


class TFSentencePieceTokenizer(tensorflow_text.Tokenizer, tensorflow_text.Detokenizer):
    """Turns texts into ids and back in a graph; made by `SentencePieceTokenizer.to_tf`.

    Args:
        proto: a serialised SentencePiece model.
        sign_ids: ids of the bytes of U+2581, which SentencePiece itself would take for a space.
        bos_ids: ids before each text.
        eos_ids: ids behind each text.

    Example:
        >>> in_graph = tokenizer.to_tf()
        >>> in_graph.detokenize(in_graph.tokenize(["one text", "another"]))
        <tf.Tensor: shape=(2,), dtype=string, numpy=array([b'one text', b'another'], dtype=object)>
    """

    def __init__(
        self,
        proto: bytes,
        sign_ids: Sequence[int],
        bos_ids: Sequence[int] = (),
        eos_ids: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self._sentencepiece = tensorflow_text.SentencepieceTokenizer(proto, out_type=tf.int32)
        self._sign_ids = list(sign_ids)
        self._bos_ids = list(bos_ids)
        self._eos_ids = list(eos_ids)

    def tokenize(self, input: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        """Turn texts into ids.

        Args:
            input: strings in UTF-8, of any shape; or a list of them.

        Returns:
            int32, with one more axis than `input`, which is ragged unless `input` is one string.
        """
        texts = tf.ragged.constant(input, tf.string) if isinstance(input, list) else input
        if isinstance(texts, tf.RaggedTensor):
            return texts.with_flat_values(self.tokenize(texts.flat_values))
        texts = tf.convert_to_tensor(texts)
        if texts.shape.rank == 0:
            return self.tokenize(texts[None])[0]
        if texts.shape.rank > 1:
            ragged = tf.RaggedTensor.from_tensor(texts, ragged_rank=texts.shape.rank - 1)
            return self.tokenize(ragged)
        ids = self._join(tf.strings.split(texts, SPACE_SIGN))
        count = tf.ones_like(texts, tf.int64)
        return tf.concat(
            [_rows(self._bos_ids, count), ids, _rows(self._eos_ids, count)],
            axis=1,
        )

    def _join(self, parts: tf.RaggedTensor) -> tf.RaggedTensor:
        """Join the ids of texts' parts, [texts, (parts)], the sign's own between them."""
        ids = self._sentencepiece.tokenize(parts.flat_values)
        text_of_part = parts.value_rowids()
        next_one = tf.concat([text_of_part[1:], [-1]], axis=0)[: tf.size(text_of_part)]
        is_followed = tf.cast(tf.equal(text_of_part, next_one), tf.int64)
        ids = tf.concat([ids, _rows(self._sign_ids, is_followed)], axis=1)
        splits = tf.gather(ids.row_splits, parts.row_splits)
        return tf.RaggedTensor.from_row_splits(ids.values, splits)

    def detokenize(self, input: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        """Turn ids back into texts; special ids disappear.

        Args:
            input: int32, of any shape, ragged or not; the last axis is a text's ids.

        Returns:
            Strings in UTF-8, with one axis less.
        """
        return self._sentencepiece.detokenize(input)

    def vocab_size(self) -> tf.Tensor:
        """Return the number of ids, int32, shape []."""
        return self._sentencepiece.vocab_size()


def _rows(ids: Sequence[int], is_there: tf.Tensor) -> tf.RaggedTensor:
    """Make rows that hold all of `ids` where `is_there` (int64 [rows]) is 1, none where it is 0."""
    values = tf.tile(tf.constant(ids, tf.int32), [tf.reduce_sum(tf.cast(is_there, tf.int32))])
    return tf.RaggedTensor.from_row_lengths(values, is_there * len(ids))
