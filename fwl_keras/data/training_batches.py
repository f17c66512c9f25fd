"""A deterministic schedule of training batches."""

import numpy as np

from fwl_keras.data.batches import Batches
from fwl_keras.data.packing import check_stream


class TrainingBatches(Batches):
    """Batches of windows from one stream, in an order that follows from the seed alone.

    An epoch cuts the stream into windows at an offset of its own and shuffles them, so no two
    epochs see the same windows. Epochs follow each other without a gap: a batch may hold the end
    of one and the start of the next. Batch `step` depends on the stream, the sizes, the seed and
    `step`, and on nothing that was read before, so a run that was stopped goes on exactly.

    Args:
        stream: token ids, integers, shape [tokens].
        length: tokens in a window.
        batch_size: windows in a batch.
        steps: batches in the whole schedule.
        seed: seed of offsets and order, at least 0.
        start: first batch that is given out; see `from_step`.

    Raises:
        ValueError: if an argument is out of its range or the stream is shorter than one window.

    Example:
        >>> batches = TrainingBatches(np.arange(100), length=8, batch_size=2, steps=5, seed=0)
        >>> len(batches), batches[0].shape, batches[0].dtype
        (5, (2, 8), dtype('int32'))
        >>> np.array_equal(batches[3], batches.from_step(3)[0])
        True
    """

    def __init__(
        self,
        stream: np.ndarray,
        length: int,
        batch_size: int,
        steps: int,
        seed: int,
        *,
        start: int = 0,
    ) -> None:
        super().__init__(length, batch_size, steps, seed, start)
        self._stream = check_stream(stream)
        if self._stream.size < length:
            raise ValueError(
                f"`stream` has {self._stream.size} tokens, too few for one window of "
                f"`length`={length}; give more text or a smaller `length`."
            )
        # The same number of windows whatever the offset, so that a step tells its epoch.
        self.windows_per_epoch = max(1, (self._stream.size - length + 1) // length)
        spare = self._stream.size - self.windows_per_epoch * length
        self._offsets = min(length, spare + 1)
        self._epoch_starts: tuple[int, np.ndarray] | None = None

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch."""
        return self.batch_size * self.length

    def _batch(self, step: int) -> np.ndarray:
        first = step * self.batch_size
        starts = [
            self._starts(epoch)[place]
            for epoch, place in (
                divmod(sample, self.windows_per_epoch)
                for sample in range(first, first + self.batch_size)
            )
        ]
        return self._stream[np.asarray(starts)[:, np.newaxis] + np.arange(self.length)]

    def _starts(self, epoch: int) -> np.ndarray:
        """Return where the epoch's windows start, shuffled; shape [windows_per_epoch]."""
        # One attribute, so that threads that read different epochs cannot mix them up.
        cached = self._epoch_starts
        if cached is None or cached[0] != epoch:
            random = self._random(epoch)
            offset = random.randint(self._offsets)
            cached = (epoch, offset + self.length * random.permutation(self.windows_per_epoch))
            self._epoch_starts = cached
        return cached[1]
