"""What is wrong with a row of a request. Nothing raises: a bad row never hurts another."""

import tensorflow as tf

# Status of a row and its message; the first that applies counts.
MESSAGES = {
    "": "",
    "empty": "empty: give at least one token of text",
    "encoding": "not UTF-8",
    "character": "has U+2581, which the tokeniser uses for a space",
    "long": "too long: more than {limit} tokens; send it in parts, through read or score_from",
    "ids": "has an id outside the vocabulary, or a length that does not fit",
    "new_tokens": "max_new_tokens outside [1, {limit}]",
    "temperature": "temperature must be a finite number of at least 0",
    "top_k": "top_k must not be negative; 0 for no limit",
    "top_p": "top_p must be above 0 and at most 1",
    "seed": "seed outside [0, 2**32)",
    "state": "state is damaged: not finite, or position out of range",
    "overflow": "computed numbers are not finite: begin with a fresh state",
}
STATUS = {name: number for number, name in enumerate(MESSAGES)}


class RowChecks:
    """Collects what is wrong with each row of a request.

    Args:
        batch_size: int tensor, number of rows B.
    """

    def __init__(self, batch_size: tf.Tensor):
        self.status = tf.zeros([batch_size], tf.int32)
        self._limits = {}

    def refuse(self, name: str, rows: tf.Tensor, limit: int | None = None) -> None:
        """Refuse rows for a reason.

        Args:
            name: a key of MESSAGES.
            rows: bool tensor [B].
            limit: what `{limit}` in the message stands for.
        """
        self._limits[name] = limit
        first = tf.logical_and(rows, self.fine)
        self.status = tf.where(first, STATUS[name], self.status)

    @property
    def fine(self) -> tf.Tensor:
        """Bool tensor [B], rows that nothing is wrong with."""
        return tf.equal(self.status, 0)

    def outputs(self) -> dict[str, tf.Tensor]:
        """`status` int32 [B], 0 where the row is fine, and `message` string [B]."""
        texts = [text.format(limit=self._limits.get(name)) for name, text in MESSAGES.items()]
        return {"status": self.status, "message": tf.gather(tf.constant(texts), self.status)}


def is_utf8(text: tf.Tensor) -> tf.Tensor:
    """Bool tensor [B], strings that are UTF-8."""
    repaired = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    return tf.equal(text, repaired)


def is_finite(state: dict[str, tf.Tensor]) -> tf.Tensor:
    """Bool tensor [B], rows of a state whose numbers are all finite."""
    fine = [
        tf.reduce_all(tf.math.is_finite(value), axis=list(range(1, value.shape.rank)))
        for value in state.values()
        if value.dtype.is_floating
    ]
    return tf.reduce_all(tf.stack(fine), axis=0)


def keep_state(rows: tf.Tensor, state: dict, given: dict) -> dict[str, tf.Tensor]:
    """The state where `rows` (bool tensor [B]) is true, the one given elsewhere."""

    def choose(name, value):
        chosen = tf.reshape(rows, [-1] + [1] * (value.shape.rank - 1))
        return tf.where(chosen, value, given[name])

    return {name: choose(name, value) for name, value in state.items()}
