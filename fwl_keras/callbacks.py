"""Keras callbacks for every `fit`."""

import threading
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

# Names of weights that a message has room for.
_NAMES = 3


class NotFiniteError(ValueError):
    """Training came to a loss or to weights that are not finite.

    Args:
        message: what happened and what to try.
        step: optimizer steps at the end of which it was found, counted from 1.
        epoch: the epoch, as Keras counts, from 0.
        batch: the batch within the epoch, as Keras counts, from 0.
    """

    def __init__(self, message: str, *, step: int, epoch: int, batch: int) -> None:
        super().__init__(message)
        self.step = step
        self.epoch = epoch
        self.batch = batch


class StopWhenNotFinite(keras.callbacks.Callback):
    """Ends `fit` with an error as soon as the loss, or an epoch's weights, are NaN or infinite.

    Unlike `keras.callbacks.TerminateOnNaN` it says which step it was and what to try, and what
    comes after it in the list of callbacks does not see the end of that epoch: a checkpoint of an
    earlier epoch is not overwritten with weights that are worth nothing. Put it first.

    It makes `fit` no slower. On TensorFlow Keras fetches every step's loss anyway; on JAX, where
    all callbacks allow that, losses are looked at in a thread of Keras's while the next steps are
    computed, and the error comes a step or so later. With
    `steps_per_execution` above 1 a loss is seen at the end of every execution; the message then
    names all of its steps.

    Attributes:
        async_safe: True: Keras may call it from another thread.

    Raises:
        NotFiniteError: if that is so, in `fit`; a `ValueError` with `step`, `epoch` and `batch`.

    Example:
        >>> lm.fit(ids, callbacks=[fwl_keras.callbacks.StopWhenNotFinite(),
        ...                        keras.callbacks.ModelCheckpoint("lm.keras")])
    """

    async_safe = True

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        # Only here: within an epoch JAX's variables are elsewhere.
        self._steps_before = _iterations(self.model)
        self._batch = self._finite = -1

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        with self._lock:
            self._batch = max(self._batch, batch)
            if np.isfinite(loss):
                # The loss is a mean over the epoch so far: once not finite, it stays so.
                self._finite = max(self._finite, batch)
                return
            first = min(self._finite + 1, batch)
        raise NotFiniteError(
            f"The loss is not finite ({float(loss)}) at {self._place(first, batch)}; {_ADVICE}.",
            step=self._steps_before + batch + 1,
            epoch=self._epoch,
            batch=batch,
        )

    def on_epoch_end(self, epoch, logs=None):
        # The last step's loss was computed before it changed the weights.
        names = names_not_finite(all_variables(self.model))
        if names:
            raise NotFiniteError(
                f"Weights are not finite after {self._place(self._batch, self._batch)}: "
                f"{_some(names)}; {_ADVICE}.",
                step=self._steps_before + self._batch + 1,
                epoch=epoch,
                batch=self._batch,
            )

    def _place(self, first: int, last: int) -> str:
        steps = [str(self._steps_before + batch + 1) for batch in (first, last)]
        batches = [str(first), str(last)]
        if first == last:
            return f"step {steps[0]} (batch {batches[0]} of epoch {self._epoch}, counted from 0)"
        return (
            f"one of the steps {' to '.join(steps)} (batches {' to '.join(batches)} of epoch "
            f"{self._epoch}, counted from 0)"
        )


_ADVICE = (
    "try a lower learning rate, smaller step sizes of the fast weights (`initial_step_size`), "
    "shorter segments, or float32 where the dtype is a mixed one"
)


def names_not_finite(variables: Iterable[keras.Variable]) -> list[str]:
    """Name the variables that have a NaN or an infinity.

    Args:
        variables: Keras variables of any dtype and shape; those of integers always are finite.

    Returns:
        Their paths.

    Example:
        >>> names_not_finite(lm.variables)
        []
    """
    floats = [v for v in variables if "float" in keras.backend.standardize_dtype(v.dtype)]
    if not floats:
        return []
    # One value for all of them comes from the device, not one for each.
    finite = ops.stack([ops.all(ops.isfinite(ops.convert_to_tensor(v))) for v in floats])
    return [v.path for v, ok in zip(floats, ops.convert_to_numpy(finite), strict=True) if not ok]


def all_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the variables of a model and of its optimizer, if it has one.

    Args:
        model: any model.
    """
    optimizer = getattr(model, "optimizer", None)
    return [*model.variables, *(optimizer.variables if optimizer is not None else ())]


def _iterations(model: keras.Model) -> int:
    optimizer = getattr(model, "optimizer", None)
    return 0 if optimizer is None else int(optimizer.iterations)


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")
