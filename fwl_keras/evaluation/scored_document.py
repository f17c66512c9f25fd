"""A text with the probability of each of its tokens."""

from dataclasses import dataclass

import numpy as np

from fwl_keras.evaluation.score_totals import ScoreTotals


@dataclass(frozen=True)
class ScoredDocument:
    """What a model made of one text, and maybe what another made of it.

    Attributes:
        name: The document's name.
        token_ids: int [T].
        token_bytes: T byte strings, which joined are the text in UTF-8; one of them may be a part
            of a character only.
        log_probabilities: float [T] in nats; NaN where a token was not predicted, minus infinity
            where the model gave it no finite one.
        reference: The same of the model to compare with, or None.

    Raises:
        ValueError: The lengths differ.
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
                    f"{name} has {len(values)} entries for {length} token_ids; give one a token"
                )

    @property
    def gain(self) -> np.ndarray:
        """Nats by which the model is better than the one compared with [T]; below 0 where worse."""
        with np.errstate(invalid="ignore"):  # both may be infinite
            return self.log_probabilities - self.reference

    def totals(self) -> ScoreTotals:
        """Returns the text's sums."""
        return ScoreTotals(
            tokens=int((~np.isnan(self.log_probabilities)).sum()),
            text_bytes=sum(map(len, self.token_bytes)),
            nats=_nats(self.log_probabilities),
            reference_nats=None if self.reference is None else _nats(self.reference),
        )


def _nats(log_probabilities: np.ndarray) -> float:
    return -float(np.nansum(log_probabilities, dtype=np.float64))
