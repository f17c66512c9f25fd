"""A deterministic schedule of training batches whose rows walk through whole documents."""

import copy
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fwl_keras.data.lanes import DocumentBatch, MarkedDocuments, assign_lanes

if TYPE_CHECKING:
    import tensorflow as tf


class DocumentBatches:
    """Batches in which every row reads documents from beginning to end, window after window.

    A row's windows are consecutive: each begins with the last label of the one before. When its
    document ends, the row takes the next one of the epoch's shuffled order; epochs follow each
    other without a gap. `starts` marks the rows that begin a document, where a state that is
    carried from batch to batch must be reset. Document and window of every row follow from the
    documents, the sizes and the seed, and from nothing that was read before, so a run that was
    stopped goes on exactly.

    A document stands between two end marks, as in a packed stream: the first is its first input,
    the second its last label. The rest of its last window is padding. With fewer documents than
    rows, several rows have to read the same one: in the first batch they begin at places spread
    over it, so that they do not read the same windows at the same time.

    Args:
        documents_ids: Token ids of each document; empty ones are left out.
        length: Predictions in a window.
        batch_size: Rows of a batch.
        steps: Batches in the whole schedule.
        seed: Seed of the documents' order, at least 0.
        eos_id: Id of the mark before and after every document.
        pad_id: Id that fills up a document's last window.
        start: First batch that is given out; see `from_step`.

    Raises:
        ValueError: An argument is out of its range, or the documents hold no token.

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
        start: int = 0,
    ) -> None:
        for name, value, minimum in (
            ("batch_size", batch_size, 1),
            ("steps", steps, 1),
            ("seed", seed, 0),
        ):
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}; received {name}={value}")
        self._source = MarkedDocuments(
            documents_ids, length, eos_id=eos_id, pad_id=pad_id, ends=True
        )
        self.length = length
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self._documents, self._windows = assign_lanes(self._queue(), batch_size, steps)
        self.start = self._check_start(start)

    def __len__(self) -> int:
        """Returns the number of batches that are left from `start` on."""
        return self.steps - self.start

    @property
    def tokens_per_step(self) -> float:
        """Labels of a batch, padding left out, on the average of the whole schedule."""
        predictions = self._source.predictions(self._documents, self._windows)
        return float(predictions.sum() / self.steps)

    def __getitem__(self, index: int) -> DocumentBatch:
        """Returns batch `start + index`.

        Args:
            index: int from 0.

        Returns:
            A dict of `token_ids` int32 [batch_size, length], `padding_mask` bool of the same
            shape, True exactly where there is a label, and `starts` bool [batch_size]; and the
            labels, int32 [batch_size, length].
        """
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        step = self.start + index
        inputs, labels = self._source.cut(self._documents[step], self._windows[step])
        # In the first batch a row may begin in the middle of a document.
        return {**inputs, "starts": (self._windows[step] == 0) | (step == 0)}, labels

    def __iter__(self) -> Iterator[DocumentBatch]:
        """Yields the batches in order."""
        return (self[index] for index in range(len(self)))

    def from_step(self, start: int) -> "DocumentBatches":
        """Returns the rest of the schedule: what is left after `start` of its `steps` batches.

        Args:
            start: Batches of the whole schedule that are done, 0 to `steps`.

        Returns:
            The same schedule, given out from batch `start` on.
        """
        rest = copy.copy(self)
        rest.start = self._check_start(start)
        return rest

    def to_tf_dataset(self, start: int | None = None) -> "tf.data.Dataset":
        """Returns the batches as a `tf.data.Dataset` of known size, for `fit`.

        Args:
            start: Batches of the whole schedule that are done; by default this object's own start.

        Returns:
            A dataset of pairs of a dict and labels, see `__getitem__`.
        """
        # Here and not above: packing works without TensorFlow.
        import tensorflow as tf

        rest = self if start is None else self.from_step(start)
        shape = [self.batch_size, self.length]
        spec = (
            {
                "token_ids": tf.TensorSpec(shape, tf.int32),
                "padding_mask": tf.TensorSpec(shape, tf.bool),
                "starts": tf.TensorSpec(shape[:1], tf.bool),
            },
            tf.TensorSpec(shape, tf.int32),
        )
        dataset = tf.data.Dataset.from_generator(lambda: iter(rest), output_signature=spec)
        return dataset.apply(tf.data.experimental.assert_cardinality(len(rest))).prefetch(2)

    def _check_start(self, start: int) -> int:
        if not 0 <= start <= self.steps:
            raise ValueError(
                f"start must be between 0 and steps={self.steps}; received start={start}"
            )
        return start

    def _queue(self) -> Iterator[tuple[int, int, int]]:
        """Yields documents for ever, epoch by epoch; see `assign_lanes`."""
        documents = np.flatnonzero(self._source.counts)
        rounds = -(-self.batch_size // len(documents))
        places = itertools.count()
        for epoch in itertools.count():
            # NumPy promises to keep RandomState's numbers the same; Generator's may change.
            bits = np.random.MT19937(np.random.SeedSequence([self.seed, epoch]))
            for document in np.random.RandomState(bits).permutation(documents):
                count = int(self._source.counts[document])
                # The rows' first documents: one that several rows begin with is spread over them.
                in_first_batch = next(places) < self.batch_size
                first = count * epoch // rounds if in_first_batch else 0
                yield int(document), first, count
