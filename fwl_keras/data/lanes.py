"""Whole documents read side by side, each row of a batch walking through one after the other."""

import heapq
from collections.abc import Iterable, Sequence

import numpy as np

from fwl_keras._arguments import require_count, require_int
from fwl_keras.data.packing import ids_array

# The inputs of a batch, by name, and its labels.
DocumentBatch = tuple[dict[str, np.ndarray], np.ndarray]


class MarkedDocuments:
    """Documents in one array, each after an end mark, cut into windows that overlap by one token.

    Args:
        documents_ids: token ids of each document.
        length: predictions in a window.
        eos_id: id that stands before every document.
        pad_id: id that fills up a document's last window.
        ends: whether the mark after a document is predicted too.

    Attributes:
        counts: windows of each document, int64; 0 where there is nothing to predict.

    Raises:
        ValueError: if `length` is below 1, or there is no token in the documents.

    Example:
        >>> MarkedDocuments([[5, 6, 7], []], 2, eos_id=1, pad_id=0, ends=False).counts
        array([2, 0])
    """

    def __init__(
        self,
        documents_ids: Sequence[Sequence[int]],
        length: int,
        *,
        eos_id: int,
        pad_id: int,
        ends: bool,
    ) -> None:
        require_count("length", length)
        require_int("eos_id", eos_id, 0)
        require_int("pad_id", pad_id, 0)
        self.length = length
        self.pad_id = pad_id
        sizes = np.array([len(ids) for ids in documents_ids], dtype=np.int64)
        if not sizes.sum():
            raise ValueError(
                "`documents_ids` holds no tokens; give at least one document with text."
            )
        mark = np.array([eos_id], dtype=np.int32)
        parts = [part for ids in documents_ids for part in (ids_array(ids), mark)]
        # One mark ends a document and begins the next.
        self._tokens = np.concatenate([mark, *parts])
        self._begins = np.concatenate([[0], np.cumsum(sizes + 1)[:-1]])
        self._ends = self._begins + 1 + sizes + ends
        predictions = np.where(sizes, sizes + ends, 0)
        self.counts = -(-predictions // length)

    def predictions(self, documents: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Count the labels of windows; integers of the arguments' shape, see `cut`."""
        left = self._ends[documents] - self._begins[documents] - 1 - windows * self.length
        return np.where(documents < 0, 0, np.minimum(left, self.length))

    def cut(self, documents: np.ndarray, windows: np.ndarray) -> DocumentBatch:
        """Cut windows of documents, as a batch.

        Args:
            documents: integers, shape [B]; -1 for a row of padding.
            windows: number of the window in its document, shape [B].

        Returns:
            `token_ids` int32 and `padding_mask` bool, True exactly where there is a label, both
            [B, length], by name; and the labels, int32 [B, length], `pad_id` where there is none.
        """
        begins = self._begins[documents] + windows * self.length
        index = begins[:, np.newaxis] + np.arange(self.length + 1)
        mask = (index[:, 1:] < self._ends[documents, np.newaxis]) & (documents >= 0)[:, np.newaxis]
        tokens = self._tokens[np.clip(index, 0, len(self._tokens) - 1)]
        inputs, labels = (
            np.where(mask, part, self.pad_id) for part in (tokens[:, :-1], tokens[:, 1:])
        )
        return {"token_ids": inputs.astype(np.int32), "padding_mask": mask}, labels.astype(np.int32)


def assign_lanes(
    queue: Iterable[tuple[int, int, int]], lanes: int, steps: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Give every document in turn to the row that is free first.

    Args:
        queue: for each document its index, the window to begin with, and its number of windows.
        lanes: rows of a batch.
        steps: batches to fill, from a queue that is long enough; None to empty the queue.

    Returns:
        The document and its window that each row reads at each step, int32 [steps, lanes], both -1
        where there is none.

    Example:
        >>> documents, windows = assign_lanes([(7, 0, 1), (8, 0, 3), (9, 0, 1)], lanes=2)
        >>> documents
        array([[ 7,  8],
               [ 9,  8],
               [-1,  8]], dtype=int32)
    """
    free = [(0, lane) for lane in range(lanes)]
    runs = []
    for document, first, count in queue:
        step, lane = free[0]
        if steps is not None and step >= steps:
            break
        runs.append((step, lane, document, first, count))
        heapq.heapreplace(free, (step + count - first, lane))
    total = max(free)[0] if steps is None else steps
    documents = np.full((total, lanes), -1, dtype=np.int32)
    windows = documents.copy()
    for step, lane, document, first, count in runs:
        last = min(total, step + count - first)
        documents[step:last, lane] = document
        windows[step:last, lane] = np.arange(first, first + last - step)
    return documents, windows
