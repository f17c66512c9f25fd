"""What is wrong with a row of a request. Nothing raises: a bad row never hurts another."""

import tensorflow as tf

from fwl_keras.serving.answers import FIRST_WARNING

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

# What is said about rows that are answered.
WARNINGS = {
    "diverged": (
        "answered, but the fast weights diverged: they predict worse than the trained weights, by "
        "more than a nat per token; begin with a fresh state"
    ),
}


class RowChecks:
    """Collects what is wrong with each row of a request.

    Args:
        batch_size: int tensor, number of rows B.
    """

    def __init__(self, batch_size: tf.Tensor):
        self.status = tf.zeros([batch_size], tf.int32)
        self._warning = tf.zeros([batch_size], tf.int32)
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

    def warn(self, name: str, rows: tf.Tensor) -> None:
        """Answer rows, and say something about them in `status`.

        Args:
            name: a key of WARNINGS.
            rows: bool tensor [B].
        """
        number = FIRST_WARNING + list(WARNINGS).index(name)
        self._warning = tf.where(rows, number, self._warning)

    @property
    def fine(self) -> tf.Tensor:
        """Bool tensor [B], rows that are not refused."""
        return tf.equal(self.status, 0)

    def outputs(self) -> dict[str, tf.Tensor]:
        """`status` int32 [B], 0 where there is nothing to say, and `message` string [B]."""
        refusals = [text.format(limit=self._limits.get(name)) for name, text in MESSAGES.items()]
        warned = tf.logical_and(self.fine, self._warning > 0)
        said = tf.gather(
            tf.constant(list(WARNINGS.values())), tf.maximum(self._warning - FIRST_WARNING, 0)
        )
        message = tf.where(warned, said, tf.gather(tf.constant(refusals), self.status))
        return {"status": tf.where(warned, self._warning, self.status), "message": message}


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
