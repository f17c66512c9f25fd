"""A text with the probability of each of its tokens, and the sums of such texts."""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np


@dataclass(frozen=True)
class ScoreTotals:
    """The sums of one scored text or several.

    Attributes:
        tokens: predicted tokens.
        text_bytes: bytes of the text in UTF-8.
        nats: negative log-likelihood of the tokens.
        reference_nats: the same of the model compared with, or None.
    """

    tokens: int
    text_bytes: int
    nats: float
    reference_nats: float | None = None

    @classmethod
    def sum(cls, totals: Iterable["ScoreTotals"]) -> "ScoreTotals":
        """Return the sums of several texts together.

        Args:
            totals: at least one; all of them compared, or none.

        Raises:
            ValueError: if there are none, or some are compared and some are not.
        """
        totals = list(totals)
        if len({one.reference_nats is None for one in totals}) != 1:
            raise ValueError(
                "`totals` must be of at least one text, and all of them compared, or none; "
                f"received {totals}."
            )
        columns = zip(*map(astuple, totals), strict=True)
        return cls(*(None if None in column else sum(column) for column in columns))

    @property
    def perplexity(self) -> float:
        """Perplexity per token; NaN without tokens."""
        return perplexity_of(self.nats, self.tokens)

    @property
    def reference_perplexity(self) -> float:
        """Perplexity of the model compared with."""
        return perplexity_of(self.reference_nats, self.tokens)

    @property
    def gain(self) -> float:
        """Nats per token by which the model is better than the one compared with."""
        return (self.reference_nats - self.nats) / self.tokens if self.tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the whole text, comparable across tokenisers."""
        return self.nats / math.log(2.0) / self.text_bytes if self.text_bytes else math.nan


def perplexity_of(nats: float, tokens: int = 1) -> float:
    """Return exp(nats / tokens); infinite where no float holds it, NaN without tokens.

    Args:
        nats: negative log-likelihood of all tokens.
        tokens: their number, or that of the words, or 1 for a mean.
    """
    try:
        return math.exp(nats / tokens) if tokens else math.nan
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class ScoredDocument:
    """What a model made of one text, and maybe what another made of it.

    Attributes:
        name: the document's name.
        token_ids: int [T].
        token_bytes: T byte strings, which joined are the text in UTF-8; one of them may be a part
            of a character only.
        log_probabilities: float [T] in nats; NaN where a token was not predicted, minus infinity
            where the model gave it no finite one.
        reference: the same of the model to compare with, or None.

    Raises:
        ValueError: if the lengths differ.
    """

    name: str
    token_ids: np.ndarray
    token_bytes: tuple[bytes, ...]
    log_probabilities: np.ndarray
    reference: np.ndarray | None = None

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        for name in ("token_bytes", "log_probabilities", "reference"):
            values = getattr(self, name)
            if values is not None and len(values) != length:
                raise ValueError(
                    f"`{name}` has {len(values)} entries for {length} `token_ids`; give one a "
                    "token."
                )

    @property
    def gain(self) -> np.ndarray:
        """Nats by which the model is better than the one compared with [T]; below 0 where worse."""
        with np.errstate(invalid="ignore"):  # both may be infinite
            return self.log_probabilities - self.reference

    def totals(self) -> ScoreTotals:
        """Return the text's sums."""
        return ScoreTotals(
            tokens=int((~np.isnan(self.log_probabilities)).sum()),
            text_bytes=sum(map(len, self.token_bytes)),
            nats=_nats(self.log_probabilities),
            reference_nats=None if self.reference is None else _nats(self.reference),
        )


def _nats(log_probabilities: np.ndarray) -> float:
    return -float(np.nansum(log_probabilities, dtype=np.float64))
