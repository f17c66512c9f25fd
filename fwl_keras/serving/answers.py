"""What a served model says about one text."""

from dataclasses import dataclass

import numpy as np

# From this status on a row was answered, and there is something to say about it.
FIRST_WARNING = 100


def is_refusal(status):
    """Whether a status, a number or an array of them, says that a row was refused."""
    return (status != 0) & (status < FIRST_WARNING)


@dataclass(frozen=True)
class Score:
    """How likely a text is.

    Attributes:
        log_probabilities: float32 [T] in nats, a token each; 0 for a first token that nothing
            predicted.
        total_log_probability: their sum.
        token_count: tokens that were predicted.
        perplexity: exp(-total_log_probability / token_count).
        status: 0, or why the text was refused; from 100 on it was answered, with a warning.
        message: the same in words.
    """

    log_probabilities: np.ndarray
    total_log_probability: float
    token_count: int
    perplexity: float
    status: int = 0
    message: str = ""


@dataclass(frozen=True)
class Written:
    """What was written after a text.

    Attributes:
        text: the new text.
        token_count: its tokens.
        finish_reason: `"stop"` at the text's own end, `"length"` at the limit, or `"refused"`.
        status: 0, or why the text was refused; from 100 on it was answered, with a warning.
        message: the same in words.
    """

    text: str
    token_count: int
    finish_reason: str
    status: int = 0
    message: str = ""


def scores_of(outputs: dict[str, np.ndarray]) -> list[Score]:
    """Rows of the outputs of `score` or `score_from`."""
    return [
        Score(
            outputs["log_probabilities"][row, : outputs["lengths"][row]],
            float(outputs["total_log_probability"][row]),
            int(outputs["token_count"][row]),
            float(outputs["perplexity"][row]),
            *_status_of(outputs, row),
        )
        for row in range(len(outputs["status"]))
    ]


def written_of(outputs: dict[str, np.ndarray]) -> list[Written]:
    """Rows of the outputs of `generate` or `generate_from`."""
    return [
        Written(
            outputs["text"][row].decode("utf-8", "replace"),
            int(outputs["token_count"][row]),
            outputs["finish_reason"][row].decode(),
            *_status_of(outputs, row),
        )
        for row in range(len(outputs["status"]))
    ]


def _status_of(outputs, row):
    return int(outputs["status"][row]), outputs["message"][row].decode()
