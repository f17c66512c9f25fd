"""What is wrong with a row of a request. Nothing raises: a bad row never hurts another."""

import tensorflow as tf

from fwl_keras.serving.status import FIRST_WARNING, MESSAGES, STATUS, WARNINGS


class RowChecks:
    """Collects what is wrong with each row of a request.

    Args:
        status: int32 tensor [B], what was refused before; 0 for rows that are not.

    Attributes:
        status: int32 tensor [B], 0 for rows that are not refused.
    """

    def __init__(self, status: tf.Tensor):
        self.status = status
        self._warning = tf.zeros_like(status)
        self._limits: dict[str, int | None] = {}

    @property
    def fine(self) -> tf.Tensor:
        """Bool tensor [B], rows that are not refused."""
        return tf.equal(self.status, 0)

    def refuse(self, name: str, rows: tf.Tensor, limit: int | None = None) -> None:
        """Refuse rows for a reason.

        Args:
            name: a key of `MESSAGES`.
            rows: bool tensor [B].
            limit: what `{limit}` in the message stands for.
        """
        self._limits[name] = limit
        first = tf.logical_and(rows, self.fine)
        self.status = tf.where(first, STATUS[name], self.status)

    def refuse_drawing(self, inputs: dict[str, tf.Tensor], limit: int) -> None:
        """Refuse rows of which it is not known how to write on.

        Args:
            inputs: tensors [B] by name, as `generate` takes them.
            limit: tokens that may be written at most.
        """
        new_tokens, seed = inputs["max_new_tokens"], inputs["seed"]
        temperature, top_p = inputs["temperature"], inputs["top_p"]
        sane = {
            "new_tokens": (new_tokens >= 1) & (new_tokens <= limit),
            "temperature": tf.math.is_finite(temperature) & (temperature >= 0),
            "top_k": inputs["top_k"] >= 0,
            "top_p": (top_p > 0) & (top_p <= 1),
            "seed": (seed >= 0) & (seed < 2**32),
        }
        for name, rows in sane.items():
            self.refuse(name, tf.logical_not(rows), limit)

    def refuse_state(self, state: dict[str, tf.Tensor], length: int) -> tf.Tensor:
        """Refuse rows whose state is damaged.

        Args:
            state: tensors [B, ...] by name.
            length: tokens of a segment, in which the state has a position.

        Returns:
            Bool tensor [B], the damaged rows.
        """
        position = state["position"]
        damaged = (position < 0) | (position >= length) | tf.logical_not(is_finite(state))
        self.refuse("state", damaged)
        return damaged

    def refuse_overflow(self, computed: dict[str, tf.Tensor]) -> None:
        """Refuse rows in which a number ran over.

        Args:
            computed: tensors [B, ...] by name.
        """
        self.refuse("overflow", tf.logical_not(is_finite(computed)))

    def warn(self, name: str, rows: tf.Tensor) -> None:
        """Answer rows, and say something about them in `status`.

        Args:
            name: a key of `WARNINGS`.
            rows: bool tensor [B].
        """
        number = FIRST_WARNING + list(WARNINGS).index(name)
        self._warning = tf.where(rows, number, self._warning)

    def outputs(self) -> dict[str, tf.Tensor]:
        """Return `status` int32 [B], 0 where there is nothing to say, and `message` string [B]."""
        refusals = [text.format(limit=self._limits.get(name)) for name, text in MESSAGES.items()]
        warned = tf.logical_and(self.fine, self._warning > 0)
        said = tf.gather(
            tf.constant(list(WARNINGS.values())), tf.maximum(self._warning - FIRST_WARNING, 0)
        )
        message = tf.where(warned, said, tf.gather(tf.constant(refusals), self.status))
        return {"status": tf.where(warned, self._warning, self.status), "message": message}


def is_utf8(text: tf.Tensor) -> tf.Tensor:
    """Return a bool tensor [B], strings that are UTF-8."""
    repaired = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    return tf.equal(text, repaired)


def is_finite(values: dict[str, tf.Tensor]) -> tf.Tensor:
    """Return a bool tensor [B], rows of tensors [B, ...] whose numbers are all finite."""
    fine = [
        tf.reduce_all(tf.math.is_finite(value), axis=list(range(1, value.shape.rank)))
        for value in values.values()
        if value.dtype.is_floating
    ]
    return tf.reduce_all(tf.stack(fine), axis=0)
