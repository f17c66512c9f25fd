"""One pass over whole documents, several side by side."""

import operator
from collections.abc import Iterator, Sequence

import numpy as np

from fwl_keras._arguments import require_count
from fwl_keras.data.lanes import DocumentBatch, MarkedDocuments, assign_lanes


class DocumentPass:
    """Batches that predict every token of every document once, to evaluate on.

    As in DocumentBatches every row reads a document window by window, then takes the next; the
    longest come first, so that the rows end together. The first window of a document begins with
    the end mark that comes before it; the mark after it is not predicted.

    Args:
        documents_ids: token ids of each document; those of empty ones are read in no time.
        length: predictions in a window.
        batch_size: rows of a batch.
        eos_id: id of the mark before every document.
        pad_id: id that fills up a document's last window, and rows that have nothing left to read.

    Attributes:
        documents: int32 [steps, batch_size], index of the document that a row reads; -1 for none.
        positions: int32 [steps, batch_size], tokens of that document before the window's first
            label; -1 for none.

    Raises:
        ValueError: if a size is below 1, or the documents hold no token.

    Example:
        >>> one = DocumentPass([[5], [6, 7, 8]], 2, batch_size=2, eos_id=1, pad_id=0)
        >>> one.documents, one.positions
        (array([[ 1,  0],
               [ 1, -1]], dtype=int32), array([[ 0,  0],
               [ 2, -1]], dtype=int32))
        >>> one[1]
        ({'token_ids': array([[7, 0],
               [0, 0]], dtype=int32), 'padding_mask': array([[ True, False],
               [False, False]]), 'starts': array([False, False])}, array([[8, 0],
               [0, 0]], dtype=int32))
    """

    def __init__(
        self,
        documents_ids: Sequence[Sequence[int]],
        length: int,
        batch_size: int,
        *,
        eos_id: int,
        pad_id: int,
    ) -> None:
        require_count("batch_size", batch_size)
        self._source = MarkedDocuments(
            documents_ids, length, eos_id=eos_id, pad_id=pad_id, ends=False
        )
        counts = self._source.counts
        queue = [
            (int(document), 0, int(counts[document]))
            for document in np.argsort(-counts, kind="stable")
            if counts[document]
        ]
        self.documents, self._windows = assign_lanes(queue, batch_size)
        self.positions = np.where(self._windows < 0, -1, self._windows * length).astype(np.int32)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.documents)

    def __getitem__(self, step: int) -> DocumentBatch:
        """Return one batch, in the form of DocumentBatches'."""
        step = operator.index(step)
        if not 0 <= step < len(self):
            raise IndexError(f"`step` must be in [0, {len(self)}); received {step}.")
        inputs, labels = self._source.cut(self.documents[step], self._windows[step])
        return {**inputs, "starts": self._windows[step] == 0}, labels

    def scatter(self, step: int, values: np.ndarray, results: Sequence[np.ndarray]) -> None:
        """Write one batch's values to their documents' places.

        Args:
            step: number of the batch.
            values: one for each place of the batch, shape [batch_size, length].
            results: for each document an array [tokens] to write to.
        """
        counts = self._source.predictions(self.documents[step], self._windows[step])
        rows = zip(self.documents[step], self.positions[step], counts, values, strict=True)
        for document, position, count, row in rows:
            if document >= 0:
                results[document][position : position + count] = row[:count]

    def __iter__(self) -> Iterator[DocumentBatch]:
        """Yield the batches in order."""
        return (self[step] for step in range(len(self)))
