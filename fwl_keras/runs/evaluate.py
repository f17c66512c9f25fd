"""Measuring a finished run on held-out text."""

import math
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from fwl_keras.data import load_corpus, word_count
from fwl_keras.evaluation import document_losses, token_losses
from fwl_keras.evaluation.scored_document import ScoreTotals, perplexity_of
from fwl_keras.files import replace_file
from fwl_keras.models import FWLCausalLM
from fwl_keras.runs.config import SPLITS
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.held_out import HeldOut, held_out
from fwl_keras.runs.json_files import strict_json
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.terminal import say


def evaluate_run(
    path: str | Path,
    *,
    corpus: str | None = None,
    text_field: str | None = None,
    split: str = "valid",
    stream: bool = False,
    on_divergence: str = "ignore",
    progress: bool = False,
    console: Console | None = None,
) -> dict:
    """Measure a finished run and write `evaluation.json`, where numbers not finite are null.

    Args:
        path: the run's directory.
        corpus: another corpus's name or path; None for the run's own.
        text_field: the field of a `.jsonl` record that has the text; None for the run's own.
        split: `"valid"` or `"test"`.
        stream: whether to read the documents once more, the state carried to each one's end.
        on_divergence: what is done where fast weights diverge, as for `FWLCausalLM.read`.
        progress: whether to draw a progress bar.
        console: where to say that `evaluation.json` could not be written, which is no reason to
            keep the measures back; by default nowhere.

    Returns:
        The measures, see `measure`, with `corpus` and `split`; `stream` adds `carried`, see
        `measure_carried`. For WikiText both have `perplexity_per_word`.

    Raises:
        ValueError: if there is no finished run, or no text in the split.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}; received {split!r}.")
    run = RunDirectory.open(path)
    config = run.read_config()
    lm = load_run_model(path)
    tokenizer = lm.preprocessor.tokenizer
    field = config.text_field if text_field is None else text_field
    source = load_corpus(config.corpus if corpus is None else corpus, text_field=field)
    documents = getattr(source, split)
    if not documents:
        raise ValueError(
            f"`corpus` {source.name!r} has no text in its {split} split; give another split."
        )
    windows = held_out(documents, tokenizer, config.length)
    measures = measure(lm, windows, tokenizer.pad_id, config.batch_size, progress=progress)
    if stream:
        measures["carried"] = measure_carried(
            lm,
            windows,
            tokenizer.eos_id,
            config.batch_size,
            carry_context=config.carry_context,
            on_divergence=on_divergence,
            progress=progress,
        )
    if source.name.startswith("wikitext"):
        words = sum(word_count(document.text) for document in documents)
        for one in (measures, measures.get("carried")):
            if one is not None:
                one["perplexity_per_word"] = perplexity_of(one["total_nll_nats"], words)
    result = {"corpus": source.name, "split": split, **measures}
    text = strict_json(result, indent=2) + "\n"
    try:
        replace_file(run.evaluation, lambda file: file.write_text(text, "utf-8"))
    except OSError as error:
        problem = f"`{run.evaluation}` is not written: {error.strerror}."
        say(console or Console(quiet=True), problem)
    return result


def measure(
    lm: FWLCausalLM, data: HeldOut, pad_id: int, batch_size: int, *, progress: bool = False
) -> dict:
    """Measure a model on held-out windows, each read on its own.

    Args:
        lm: the model.
        data: the windows.
        pad_id: id that fills up windows.
        batch_size: windows read at once.
        progress: whether to draw a progress bar.

    Returns:
        `documents`, `tokens`, `tokens_not_finite` (those whose loss is not finite: the following
        are infinite then), `window_tokens`, `total_nll_nats`, `perplexity_per_token`,
        `bits_per_byte`, and in nats per token `adaptation_gain` and `total_gain` (diagnostics: the
        gain over the same model's slow weights, not over a model trained without fast weights).
    """
    losses = token_losses(
        lm, data.windows, batch_size=batch_size, pad_token_id=pad_id, progress=progress
    )
    losses = losses[~np.isnan(losses)]  # padding; a loss that is not finite is infinite
    return {
        "documents": len(data.texts),
        "tokens": losses.size,
        "window_tokens": int(data.windows.shape[1] - 1),
        **_totals(losses, data),
        **_gains(lm, data.windows, pad_id, batch_size),
    }


def measure_carried(
    lm: FWLCausalLM,
    data: HeldOut,
    eos_id: int,
    batch_size: int,
    *,
    carry_context: bool = False,
    on_divergence: str = "ignore",
    progress: bool = False,
) -> dict:
    """Measure a model on the same windows, the state carried to each document's end.

    Args:
        lm: the model.
        data: the windows.
        eos_id: id that stands before every document.
        batch_size: documents read at once.
        carry_context: whether the body goes on to the document's end, too.
        on_divergence: what is done where fast weights diverge, as for `FWLCausalLM.read`.
        progress: whether to draw a progress bar.

    Returns:
        `tokens_not_finite`, `total_nll_nats`, `perplexity_per_token` and `bits_per_byte`, the last
        three infinite where a loss is not finite.
    """
    losses = document_losses(
        lm,
        data.documents_ids(),
        length=data.windows.shape[1] - 1,
        batch_size=batch_size,
        eos_id=eos_id,
        pad_id=data.pad_id,
        carry_context=carry_context,
        on_divergence=on_divergence,
        progress=progress,
    )
    return _totals(np.concatenate(losses), data)


def _totals(losses: np.ndarray, data: HeldOut) -> dict:
    totals = ScoreTotals(losses.size, data.text_bytes(), float(losses.sum(dtype=np.float64)))
    return {
        "tokens_not_finite": int(np.isinf(losses).sum()),
        "total_nll_nats": totals.nats,
        "perplexity_per_token": totals.perplexity,
        "bits_per_byte": totals.bits_per_byte,
    }


def evaluation_table(result: dict) -> Table:
    """Return the measures as a table, both ways of reading side by side.

    Args:
        result: what `evaluate_run` returned.
    """
    columns = [result]
    caption = f"Windows of {result['window_tokens']} tokens, each read on its own."
    table = Table(title=f"{result['corpus']}, {result['split']}", show_header="carried" in result)
    table.add_column("")
    table.add_column("state reset at every window", justify="right")
    if "carried" in result:
        columns.append(result["carried"])
        table.add_column("carried to the document's end", justify="right")
        caption = (
            f"The same windows of {result['window_tokens']} tokens; carried: a document's windows "
            "one after the other, the fast weights' state going on from each to the next."
        )
    table.add_row("documents", f"{result['documents']:,}")
    table.add_row("tokens", f"{result['tokens']:,}")
    lost = [column.get("tokens_not_finite", 0) for column in columns]
    if any(lost):
        table.add_row("tokens whose loss is not finite", *(f"{count:,}" for count in lost))
    for name, places in (
        ("perplexity_per_token", 2),
        ("perplexity_per_word", 2),
        ("bits_per_byte", 3),
    ):
        if name in result:
            values = (number(column[name], places) for column in columns)
            table.add_row(name.replace("_", " "), *values)
    table.add_section()
    for name in ("adaptation_gain", "total_gain"):
        title = f"{name.replace('_', ' ')} (diagnostic, nats per token)"
        table.add_row(title, f"{result[name]:.4f}")
    table.caption = caption
    return table


def number(value: float | None, places: int) -> str:
    """Return a measure as a table shows it, those that are not finite too.

    Args:
        value: the measure; None where the model diverged.
        places: digits after the point.
    """
    if value is None or not math.isfinite(value):
        return "diverged" if value is None else "infinite"
    return f"{value:,.{places}f}"


def _gains(lm: FWLCausalLM, windows: np.ndarray, pad_id: int, batch_size: int) -> dict:
    """Measure the gain over the segment's and over the trained weights, nats per token."""
    if not lm.block.use_fast_weights:
        return {"adaptation_gain": 0.0, "total_gain": 0.0}
    inputs, labels = windows[:, :-1], windows[:, 1:]
    # Windows are filled up at their end, where no earlier token sees it: weights are enough.
    weights = (labels != pad_id).astype(np.float32)
    # On JAX the alternative is one operation at a time.
    lm.compile(jit_compile=keras.backend.backend() == "jax")
    logs = lm.evaluate(
        inputs, labels, sample_weight=weights, batch_size=batch_size, verbose=0, return_dict=True
    )
    return {name: float(logs[name]) for name in ("adaptation_gain", "total_gain")}
