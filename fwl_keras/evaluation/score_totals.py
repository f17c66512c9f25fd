"""Sums over scored texts, and the measures that follow from them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreTotals:
    """The sums of one scored text or several.

    Attributes:
        tokens: Predicted tokens.
        text_bytes: Bytes of the text in UTF-8.
        nats: Negative log-likelihood of the tokens.
        reference_nats: The same of the model compared with, or None.
    """

    tokens: int
    text_bytes: int
    nats: float
    reference_nats: float | None = None

    @classmethod
    def sum(cls, totals: Iterable["ScoreTotals"]) -> "ScoreTotals":
        """Returns the totals of several texts together.

        Args:
            totals: At least one; all of them compared, or none.

        Raises:
            ValueError: There are none, or some are compared and some are not.
        """
        totals = list(totals)
        if len({one.reference_nats is None for one in totals}) != 1:
            raise ValueError(
                "totals must be of at least one text, and all of them compared, or none; received "
                f"{totals}"
            )
        compared = totals[0].reference_nats is not None
        return cls(
            sum(one.tokens for one in totals),
            sum(one.text_bytes for one in totals),
            sum(one.nats for one in totals),
            sum(one.reference_nats for one in totals) if compared else None,
        )

    @property
    def perplexity(self) -> float:
        """Per token; NaN without tokens."""
        return _exp_mean(self.nats, self.tokens)

    @property
    def reference_perplexity(self) -> float:
        """That of the model compared with."""
        return _exp_mean(self.reference_nats, self.tokens)

    @property
    def gain(self) -> float:
        """Nats per token by which the model is better than the one compared with."""
        return (self.reference_nats - self.nats) / self.tokens if self.tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Of the whole text, comparable across tokenisers."""
        return self.nats / math.log(2.0) / self.text_bytes if self.text_bytes else math.nan


def _exp_mean(nats: float, tokens: int) -> float:
    try:
        return math.exp(nats / tokens) if tokens else math.nan
    except OverflowError:
        return math.inf
