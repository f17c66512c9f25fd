"""Losses of whole documents, however long, several side by side."""

from collections.abc import Sequence

import keras
import numpy as np
from rich.progress import track

from fwl_keras.data import DocumentPass
from fwl_keras.evaluation.token_losses import infinite_where_not_finite
from fwl_keras.models.compiled import Compiled
from fwl_keras.models.divergence import Watch
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
    """Negative log-likelihood of every token of every document.

    Documents are read in windows of `length` predictions, each window beginning with the last
    token of the one before. The body starts a new context with every window, or goes on as the fast
    weights' state does, to the document's end. Rows of a batch read documents of their own, the
    longest first, and a row that is done takes the next with a fresh state.

    Args:
        lm: FWLCausalLM.
        documents_ids: token ids of each document.
        length: predictions in a window, the context that the body was trained with.
        batch_size: documents read at once.
        eos_id: id that stands before every document; its own place is not predicted.
        pad_id: id that fills up windows; it may occur in documents.
        carry: False begins every window with a fresh state instead, for comparison.
        carry_context: whether the body goes on from window to window too (see
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
        ValueError: if a size is below 1, there is no token in the documents, or the body cannot go
            on.

    Example:
        >>> losses = document_losses(lm, ids, length=256, eos_id=1, pad_id=0)
        >>> np.exp(np.concatenate(losses).mean())  # perplexity per token
    """
    batches = DocumentPass(documents_ids, length, batch_size, eos_id=eos_id, pad_id=pad_id)

    watches = carry and lm.block.use_fast_weights

    def read(inputs, labels, frozen, state):
        # The mask marks the positions that have a label, the window's last one among them.
        weights = keras.ops.cast(inputs["padding_mask"], "float32")
        arguments = {"labels": labels, "weights": weights, "training": False}
        if not carry:
            return lm(inputs, output="loss", **arguments)["loss"], frozen, state
        if watches:
            arguments["weights"] = keras.ops.where(frozen[:, None], 0.0, weights)
        found, state = lm(
            inputs,
            state=state,
            return_state=True,
            output="watched" if watches else "loss",
            **arguments,
        )
        return found["loss"], found["diverged"] if watches else frozen, state

    compiled = {} if compiled is None else compiled
    kind = "document_losses", carry, watches
    if kind not in compiled:
        compiled[kind] = Compiled(lm, read)
    read = compiled[kind]
    result = [np.zeros(len(ids), np.float32) for ids in documents_ids]
    if carry_context and not carry:
        raise ValueError("`carry_context=True` needs `carry=True`: the two go on together.")
    state = lm.document_state(batch_size, carry_context) if carry else {}
    watch = Watch(on_divergence)
    frozen = np.zeros(batch_size, bool)
    steps = track(range(len(batches)), "reading documents", disable=not progress)
    for step in steps:
        inputs, labels = batches[step]
        tensors = {name: keras.ops.convert_to_tensor(value) for name, value in inputs.items()}
        if carry and inputs["starts"].any():
            # Not in `read`: a row that is frozen later goes back to this state.
            state = reset_rows(state, tensors["starts"])
            frozen &= ~inputs["starts"]
        losses, diverged, after = read(
            tensors, keras.ops.convert_to_tensor(labels), keras.ops.convert_to_tensor(frozen), state
        )
        if watches:
            after, frozen = watch.after(diverged, after, state, frozen)
        state = after
        batches.scatter(step, keras.ops.convert_to_numpy(losses), result)
    watch.report()
    return [infinite_where_not_finite(losses) for losses in result]
