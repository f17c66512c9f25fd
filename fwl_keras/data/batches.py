"""What all schedules of training batches have in common."""

import abc
import copy
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fwl_keras._arguments import require_count, require_int

if TYPE_CHECKING:
    import tensorflow as tf


class Batches(abc.ABC):
    """A schedule of batches: batch `step` follows from the text, the sizes, the seed and `step`.

    Nothing depends on what was read before, so a run that was stopped goes on exactly.

    Args:
        length: predictions in a window.
        batch_size: rows of a batch.
        steps: batches in the whole schedule.
        seed: seed of the order, at least 0.
        start: first batch that is given out; see `from_step`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, length: int, batch_size: int, steps: int, seed: int, start: int = 0) -> None:
        require_count("length", length)
        require_count("batch_size", batch_size)
        require_count("steps", steps)
        require_int("seed", seed, 0)
        self.length = length
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.start = self._check_start(start)

    @property
    @abc.abstractmethod
    def tokens_per_step(self) -> float:
        """Labels of a batch, padding left out, on the average of the whole schedule."""

    @abc.abstractmethod
    def _batch(self, step: int) -> Any:
        """Return batch `step` of the whole schedule."""

    def __len__(self) -> int:
        """Return the number of batches that are left from `start` on."""
        return self.steps - self.start

    def __getitem__(self, index: int) -> Any:
        """Return batch `start + index`, NumPy arrays."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in [0, {len(self)}); received {index}.")
        return self._batch(self.start + index)

    def __iter__(self) -> Iterator:
        """Yield the batches in order."""
        return (self[index] for index in range(len(self)))

    def from_step(self, start: int) -> Self:
        """Return the rest of the schedule: what is left after `start` of its `steps` batches.

        Args:
            start: batches of the whole schedule that are done, 0 to `steps`.

        Returns:
            The same schedule, given out from batch `start` on.
        """
        rest = copy.copy(self)
        rest.start = self._check_start(start)
        return rest

    def for_fit(self, start: int | None = None) -> "tf.data.Dataset | Iterator[tuple]":
        """Return the batches in the form that is best for `fit` on the Keras backend in use.

        Args:
            start: batches of the whole schedule that are done; by default this object's own start.

        Returns:
            On TensorFlow `to_tf_dataset(start)`. On other backends, which need no TensorFlow, a
            generator of tuples of NumPy arrays: for one call of `fit`, which with several epochs
            needs `steps_per_epoch`.

        Example:
            >>> lm.fit(batches.for_fit())
        """
        # Here and not above: packing works without any framework.
        import keras

        if keras.backend.backend() == "tensorflow":
            return self.to_tf_dataset(start)
        rest = self if start is None else self.from_step(start)
        # Not a keras.utils.PyDataset: `fit` would shuffle its batches.
        return (batch if isinstance(batch, tuple) else (batch,) for batch in rest)

    def to_tf_dataset(self, start: int | None = None) -> "tf.data.Dataset":
        """Return the batches as a `tf.data.Dataset` of known size.

        Args:
            start: batches of the whole schedule that are done; by default this object's own start.

        Returns:
            A dataset of what indexing gives, as tensors.
        """
        import tensorflow as tf

        rest = self if start is None else self.from_step(start)
        dataset = tf.data.Dataset.from_generator(
            lambda: iter(rest),
            # All batches are alike.
            output_signature=tf.nest.map_structure(_tensor_spec, self._batch(0)),
        )
        return dataset.apply(tf.data.experimental.assert_cardinality(len(rest))).prefetch(2)

    def _check_start(self, start: int) -> int:
        require_int("start", start, 0)
        if start > self.steps:
            raise ValueError(
                f"`start` must be between 0 and `steps`={self.steps}; received {start}."
            )
        return start

    def _random(self, epoch: int) -> np.random.RandomState:
        """Return the source of an epoch's random numbers."""
        # NumPy promises to keep RandomState's numbers the same; Generator's may change, and a run
        # resumed with another NumPy would then see other batches.
        return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([self.seed, epoch])))


def _tensor_spec(array: np.ndarray) -> "tf.TensorSpec":
    import tensorflow as tf

    return tf.TensorSpec(array.shape, array.dtype)
