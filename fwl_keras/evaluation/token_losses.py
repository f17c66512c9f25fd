"""Losses of single tokens, from which every table and picture is made."""

import keras
import numpy as np
from rich.progress import track

from fwl_keras._arguments import require_count
from fwl_keras.models.compiled import Compiled


def token_losses(
    lm,
    windows: np.ndarray,
    *,
    batch_size: int = 8,
    pad_token_id: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Negative log-likelihood of every predicted token, each window on its own.

    Args:
        lm: FWLCausalLM.
        windows: int array [N, T + 1]; tokens 1 .. T are predicted from those before.
        batch_size: windows read at once.
        pad_token_id: id that marks padding, or None.
        progress: whether to draw a progress bar.

    Returns:
        float32 array [N, T] in nats; NaN where the predicted token is padding, and infinity where
        the model's loss is not finite, which no mean leaves out then.

    Raises:
        ValueError: if there is no window.
    """
    _check(windows)
    require_count("batch_size", batch_size)

    def read(batch):
        inputs, labels, weights = batch[:, :-1], batch[:, 1:], None
        if pad_token_id is not None:
            inputs = {"token_ids": inputs, "padding_mask": inputs != pad_token_id}
            weights = keras.ops.cast(labels != pad_token_id, "float32")
        return lm(inputs, labels=labels, weights=weights, output="loss", training=False)["loss"]

    read = Compiled(lm, read)
    losses = []
    for start in track(range(0, len(windows), batch_size), "evaluating", disable=not progress):
        batch = windows[start : start + batch_size]
        # The last batch is filled up, so that it has the shape already compiled.
        full = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        losses.append(keras.ops.convert_to_numpy(read(keras.ops.convert_to_tensor(full))))
    losses = infinite_where_not_finite(np.concatenate(losses)[: len(windows)])
    if pad_token_id is not None:
        losses[windows[:, 1:] == pad_token_id] = np.nan
    return losses


def stream_losses(
    lm, windows: np.ndarray, *, reset: bool = False, progress: bool = False
) -> np.ndarray:
    """Losses of one long text read window by window, the fast weights' state carried along.

    The body starts a new context with every window; the text before lives on in the state alone.

    Args:
        lm: FWLCausalLM.
        windows: int array [N, T + 1], consecutive: each begins with the last token of the one
            before (see fwl_keras.data.evaluation_windows).
        reset: whether to begin every window with a fresh state instead.
        progress: whether to draw a progress bar.

    Returns:
        float32 array [N, T] in nats; infinity where the model's loss is not finite.

    Raises:
        ValueError: if there is no window, or if windows are not consecutive.
    """
    _check(windows)
    if (windows[1:, 0] != windows[:-1, -1]).any():
        raise ValueError(
            "`windows` are not consecutive: each must begin with the last token of the one before."
        )
    if reset:
        return token_losses(lm, windows, progress=progress)

    def read(window, state):
        inputs, labels = window[:, :-1], window[:, 1:]
        losses, state = lm(
            inputs, labels=labels, state=state, return_state=True, output="loss", training=False
        )
        return losses["loss"], state

    read = Compiled(lm, read)
    state = lm.block.initial_state(1)
    losses = []
    for window in track(windows, "reading", disable=not progress):
        loss, state = read(keras.ops.convert_to_tensor(window[None]), state)
        losses.append(keras.ops.convert_to_numpy(loss))
    return infinite_where_not_finite(np.concatenate(losses))


def infinite_where_not_finite(losses: np.ndarray) -> np.ndarray:
    """Losses of which those that are no number are infinite: NaN stands for tokens left out.

    Args:
        losses: float array of any shape, in nats.

    Returns:
        float array of the same shape and dtype.

    Example:
        >>> infinite_where_not_finite(np.array([1.0, np.nan]))
        array([ 1., inf])
    """
    return np.where(np.isfinite(losses), losses, np.inf).astype(losses.dtype)


def _check(windows):
    if len(windows) == 0:
        raise ValueError("`windows` is empty: there is no text to evaluate.")
    shape, dtype = np.shape(windows), np.asarray(windows).dtype
    if len(shape) != 2 or shape[1] < 2 or dtype.kind not in "iu":
        raise ValueError(
            "`windows` must be an int array [windows, tokens] of at least two tokens; received "
            f"shape {shape} and dtype {dtype}."
        )
