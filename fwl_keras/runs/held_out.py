"""Held-out documents as windows that know where they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fwl_keras.data import Document, SentencePieceTokenizer, evaluation_windows


@dataclass(frozen=True)
class HeldOut:
    """Documents to evaluate on; every token of them is predicted exactly once.

    Attributes:
        windows: int32 [N, T + 1]; tokens 1 .. T of a window are predicted. A document's first
            window begins with `eos`, as in training; its last one is filled up with `pad`.
        documents: int32 [N], the document of each window.
        starts: int32 [N], tokens of the document before the first predicted one.
        texts: the documents' texts, as far as they are in the windows.
        pad_id: the id of `pad`.
    """

    windows: np.ndarray
    documents: np.ndarray
    starts: np.ndarray
    texts: tuple[str, ...]
    pad_id: int

    @property
    def positions(self) -> np.ndarray:
        """Place in its document of each predicted token, from 1; int32 [N, T]."""
        steps = np.arange(1, self.windows.shape[1], dtype=np.int32)
        return self.starts[:, np.newaxis] + steps

    def documents_ids(self) -> list[np.ndarray]:
        """Return the documents' token ids, every one of them a label; int32 [tokens] each."""
        firsts = np.flatnonzero(self.starts == 0)[1:]
        labels = [part.ravel() for part in np.split(self.windows[:, 1:], firsts)]
        return [ids[ids != self.pad_id] for ids in labels]

    def text_bytes(self) -> int:
        """Return the number of bytes of the texts in UTF-8."""
        return sum(len(text.encode("utf-8")) for text in self.texts)


def held_out(
    documents: Sequence[Document],
    tokenizer: SentencePieceTokenizer,
    length: int,
    *,
    max_windows: int | None = None,
) -> HeldOut:
    """Cut documents into windows, each document on its own.

    Args:
        documents: the documents.
        tokenizer: the model's tokeniser.
        length: predictions in a window.
        max_windows: windows of a document that are kept, from its beginning; None for all.

    Returns:
        The windows.

    Raises:
        ValueError: if there is no text.
    """
    encoded = tokenizer.encode_arrays([document.text for document in documents])
    if max_windows is not None:
        encoded = [ids[: max_windows * length] for ids in encoded]
    encoded = [ids for ids in encoded if len(ids)]
    if not encoded:
        raise ValueError("`documents` have no text in them; give a corpus with text in this split.")
    pieces = [
        evaluation_windows(
            np.concatenate([np.array([tokenizer.eos_id], np.int32), ids]),
            length,
            pad_id=tokenizer.pad_id,
        )
        for ids in encoded
    ]
    counts = [len(piece) for piece in pieces]
    return HeldOut(
        windows=np.concatenate(pieces),
        documents=np.repeat(np.arange(len(pieces), dtype=np.int32), counts),
        starts=np.concatenate([np.arange(n, dtype=np.int32) * length for n in counts]),
        texts=tuple(tokenizer.decode(ids) for ids in encoded),
        pad_id=tokenizer.pad_id,
    )
