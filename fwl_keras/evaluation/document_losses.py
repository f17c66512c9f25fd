"""Losses of every token of a text: of whole documents, of a stream, of single windows."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from keras import ops

from fwl_keras._arguments import require_count
from fwl_keras._progress import track
from fwl_keras.backend.compiled import Compiled
from fwl_keras.data import DocumentPass
from fwl_keras.inference.divergence import Watch
from fwl_keras.ops.reset_rows import reset_rows


def document_losses(
    lm,
    documents_ids: Sequence[Sequence[int]],
    *,
    length: int,
    batch_size: int = 8,
    eos_id: int,
    pad_id: int,
    carry: bool = True,
    carry_context: bool = False,
    on_divergence: str = "ignore",
    compiled: dict | None = None,
    progress: bool = False,
) -> list[np.ndarray]:
    """Return the negative log-likelihood of every token of every document.

    Documents are read in windows of `length` predictions, each window beginning with the last
    token of the one before. The backbone starts a new context with every window, or goes on as the
    fast weights' state does, to the document's end. Rows of a batch read documents of their own,
    the longest first, and a row that is done takes the next with a fresh state.

    Args:
        lm: FWLCausalLM.
        documents_ids: token ids of each document.
        length: predictions in a window, the context that the backbone was trained with.
        batch_size: documents read at once.
        eos_id: id that stands before every document; its own place is not predicted.
        pad_id: id that fills up windows; it may occur in documents.
        carry: False begins every window with a fresh state instead, for comparison.
        carry_context: whether the backbone goes on from window to window too (see
            `FWLCausalLM.carry_state`).
        on_divergence: what is done where fast weights diverge, as for `FWLCausalLM.read`. A row
            stays frozen until its next document.
        compiled: dict in which to keep what was compiled for this model, to be given again; None:
            nothing is kept.
        progress: whether to draw a progress bar.

    Returns:
        For each document a float32 array [tokens] in nats; infinity where the model's loss is not
        finite.

    Warns:
        RuntimeWarning: once, where fast weights diverge.

    Raises:
        ValueError: if a size is below 1, there is no token in the documents, or the backbone
            cannot go on.

    Example:
        >>> losses = document_losses(lm, ids, length=256, eos_id=1, pad_id=0)
        >>> np.exp(np.concatenate(losses).mean())  # perplexity per token
    """
    batches = DocumentPass(documents_ids, length, batch_size, eos_id=eos_id, pad_id=pad_id)
    if carry_context and not carry:
        raise ValueError("`carry_context=True` needs `carry=True`: the two go on together.")
    state = lm.document_state(batch_size, carry_context) if carry else {}
    watches = carry and lm.block.use_fast_weights
    watch = Watch(on_divergence)
    compiled = {} if compiled is None else compiled
    kind = "document_losses", carry, watches
    if kind not in compiled:
        compiled[kind] = _compiled(lm, carry=carry, watches=watches)
    losses = _read(compiled[kind], batches, map(len, documents_ids), state, watch, progress)
    watch.report()
    return losses


def stream_losses(
    lm, windows: np.ndarray, *, reset: bool = False, progress: bool = False
) -> np.ndarray:
    """Return the losses of one long text read window by window, with the state carried along.

    The backbone starts a new context with every window; the text before lives on in the fast
    weights' state alone.

    Args:
        lm: FWLCausalLM.
        windows: int array [N, T + 1], consecutive: each begins with the last token of the one
            before (see `fwl_keras.data.evaluation_windows`).
        reset: whether to begin every window with a fresh state instead.
        progress: whether to draw a progress bar.

    Returns:
        float32 array [N, T] in nats; infinity where the model's loss is not finite.

    Raises:
        ValueError: if there is no window, or if windows are not consecutive.

    Example:
        >>> stream_losses(lm, windows)  # of `evaluation_windows(ids, 512)`
    """
    _check(windows)
    if (windows[1:, 0] != windows[:-1, -1]).any():
        raise ValueError(
            "`windows` are not consecutive: each must begin with the last token of the one before."
        )
    if reset:
        return token_losses(lm, windows, progress=progress)
    # One document, with the first token for the mark before it.
    first, tokens = windows[0, 0], windows[:, 1:].ravel()
    batches = DocumentPass([tokens], windows.shape[1] - 1, 1, eos_id=first, pad_id=first)
    run, state = _compiled(lm, carry=True, watches=False), lm.block.initial_state(1)
    (losses,) = _read(run, batches, [tokens.size], state, Watch("ignore"), progress)
    return losses.reshape(len(windows), -1)


def token_losses(
    lm,
    windows: np.ndarray,
    *,
    batch_size: int = 8,
    pad_token_id: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Return the negative log-likelihood of every predicted token, each window on its own.

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

    Example:
        >>> np.exp(token_losses(lm, windows, batch_size=8).mean())  # perplexity
    """
    _check(windows)
    require_count("batch_size", batch_size)

    def read(batch):
        inputs, labels, weights = batch[:, :-1], batch[:, 1:], None
        if pad_token_id is not None:
            inputs = {"token_ids": inputs, "padding_mask": inputs != pad_token_id}
            weights = ops.cast(labels != pad_token_id, "float32")
        return lm(inputs, labels=labels, weights=weights, output="loss", training=False)["loss"]

    read = Compiled(lm, read)
    losses = []
    for start in track(range(0, len(windows), batch_size), "evaluating", shown=progress):
        batch = windows[start : start + batch_size]
        # The last batch is filled up, so that it has the shape already compiled.
        full = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        losses.append(ops.convert_to_numpy(read(ops.convert_to_tensor(full))))
    losses = infinite_where_not_finite(np.concatenate(losses)[: len(windows)])
    if pad_token_id is not None:
        losses[windows[:, 1:] == pad_token_id] = np.nan
    return losses


def infinite_where_not_finite(losses: np.ndarray) -> np.ndarray:
    """Return losses of which those that are no number are infinite: NaN stands for tokens left out.

    Args:
        losses: float array of any shape, in nats.

    Returns:
        Float array of the same shape and dtype.

    Example:
        >>> infinite_where_not_finite(np.array([1.0, np.nan]))
        array([ 1., inf])
    """
    return np.where(np.isfinite(losses), losses, np.inf).astype(losses.dtype)


def _compiled(lm, **settings: bool) -> Compiled:
    return Compiled(lm, functools.partial(_read_batch, lm, **settings))


def _read_batch(lm, inputs, labels, frozen, state, *, carry: bool, watches: bool):
    """Return losses [B, T], the rows [B] that diverged, and the state; those frozen take no steps.

    Without `watches` the rows are those given, without `carry` the state is.
    """
    # The mask marks the positions that have a label, the window's last one among them.
    weights = ops.cast(inputs["padding_mask"], "float32")
    if watches:
        weights = ops.where(frozen[:, None], 0.0, weights)
    arguments = {"labels": labels, "weights": weights, "training": False}
    if not carry:
        return lm(inputs, output="loss", **arguments)["loss"], frozen, state
    output = "watched" if watches else "loss"
    found, state = lm(inputs, state=state, return_state=True, output=output, **arguments)
    return found["loss"], found["diverged"] if watches else frozen, state


def _read(
    run: Compiled,
    batches: DocumentPass,
    sizes: Iterable[int],
    state: dict,
    watch: Watch,
    progress: bool,
) -> list[np.ndarray]:
    """Go over documents of such sizes window by window, the state going on from each to the next.

    An empty state carries nothing.
    """
    losses = [np.zeros(size, np.float32) for size in sizes]
    frozen = np.zeros(batches.documents.shape[1], bool)
    for step in track(range(len(batches)), "reading documents", shown=progress):
        inputs, labels = batches[step]
        tensors = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
        if inputs["starts"].any():
            # Not in `run`: a row that is frozen later goes back to this state.
            state = reset_rows(state, tensors["starts"])
            frozen &= ~inputs["starts"]
        found, diverged, after = run(
            tensors, ops.convert_to_tensor(labels), ops.convert_to_tensor(frozen), state
        )
        state, frozen = watch.after(diverged, after, state, frozen)
        batches.scatter(step, ops.convert_to_numpy(found), losses)
    return [infinite_where_not_finite(one) for one in losses]


def _check(windows):
    if len(windows) == 0:
        raise ValueError("`windows` is empty: there is no text to evaluate.")
    shape, dtype = np.shape(windows), np.asarray(windows).dtype
    if len(shape) != 2 or shape[1] < 2 or dtype.kind not in "iu":
        raise ValueError(
            "`windows` must be an int array [windows, tokens] of at least two tokens; received "
            f"shape {shape} and dtype {dtype}."
        )
