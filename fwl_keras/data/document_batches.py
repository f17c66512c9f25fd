"""A deterministic schedule of training batches whose rows walk through whole documents."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from fwl_keras._arguments import require_count
from fwl_keras.data.batches import Batches
from fwl_keras.data.lanes import DocumentBatch, MarkedDocuments, assign_lanes


class DocumentBatches(Batches):
    """Batches in which every row reads documents from beginning to end, window after window.

    A row's windows are consecutive: each begins with the last label of the one before. When its
    document ends, the row takes the next one of the epoch's shuffled order; epochs follow each
    other without a gap. `starts` marks the rows that begin a document, where a state that is
    carried from batch to batch must be reset. Document and window of every row follow from the
    documents, the sizes and the seed, and from nothing that was read before, so a run that was
    stopped goes on exactly.

    Batches of rows that read the same few documents for many steps are all alike. With `groups`,
    several groups of rows take turns: row r of batch i goes on where row r of batch i - groups
    ended, and `batch_size * groups` documents are read at a time.

    A document stands between two end marks, as in a packed stream: the first is its first input,
    the second its last label. The rest of its last window is padding. With fewer documents than
    rows, several rows have to read the same one: in the first batch they begin at places spread
    over it, so that they do not read the same windows at the same time.

    A batch is a dict of `token_ids` int32 [batch_size, length], `padding_mask` bool of the same
    shape, True exactly where there is a label, and `starts` bool [batch_size]; and the labels,
    int32 [batch_size, length].

    Args:
        documents_ids: token ids of each document; empty ones are left out.
        length: predictions in a window.
        batch_size: rows of a batch.
        steps: batches in the whole schedule.
        seed: seed of the documents' order, at least 0.
        eos_id: id of the mark before and after every document.
        pad_id: id that fills up a document's last window.
        groups: groups of rows that take turns, at least 1.
        start: first batch that is given out; see `from_step`.

    Raises:
        ValueError: if an argument is out of its range, or the documents hold no token.

    Example:
        >>> batches = DocumentBatches(
        ...     [[5, 6, 7], [8]], 2, batch_size=1, steps=3, seed=0, eos_id=1, pad_id=0)
        >>> [(x["token_ids"].tolist(), x["starts"].tolist(), y.tolist()) for x, y in batches]
        [([[1, 8]], [True], [[8, 1]]), ([[1, 5]], [True], [[5, 6]]), ([[6, 7]], [False], [[7, 1]])]
    """

    def __init__(
        self,
        documents_ids: Sequence[Sequence[int]],
        length: int,
        batch_size: int,
        steps: int,
        seed: int,
        *,
        eos_id: int,
        pad_id: int,
        groups: int = 1,
        start: int = 0,
    ) -> None:
        super().__init__(length, batch_size, steps, seed, start)
        require_count("groups", groups)
        self.groups = groups
        self._source = MarkedDocuments(
            documents_ids, length, eos_id=eos_id, pad_id=pad_id, ends=True
        )
        lanes = assign_lanes(self._queue(), batch_size * groups, -(-steps // groups))
        self._documents, self._windows = (each.reshape(-1, batch_size)[:steps] for each in lanes)

    @property
    def tokens_per_step(self) -> float:
        """Labels of a batch, padding left out, on the average of the whole schedule."""
        predictions = self._source.predictions(self._documents, self._windows)
        return float(predictions.sum() / self.steps)

    def _batch(self, step: int) -> DocumentBatch:
        inputs, labels = self._source.cut(self._documents[step], self._windows[step])
        # In a group's first batch a row may begin in the middle of a document.
        return {**inputs, "starts": (self._windows[step] == 0) | (step < self.groups)}, labels

    def _queue(self) -> Iterator[tuple[int, int, int]]:
        """Yield documents for ever, epoch by epoch; see `assign_lanes`."""
        documents = np.flatnonzero(self._source.counts)
        rows = self.batch_size * self.groups
        rounds = -(-rows // len(documents))
        places = itertools.count()
        for epoch in itertools.count():
            for document in self._random(epoch).permutation(documents):
                count = int(self._source.counts[document])
                # The rows' first documents: one that several rows begin with is spread over them.
                in_first_batch = next(places) < rows
                first = count * epoch // rounds if in_first_batch else 0
                yield int(document), first, count
