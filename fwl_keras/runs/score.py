"""Texts scored token by token with a finished run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fwl_keras.data import load_documents
from fwl_keras.evaluation.scored_document import ScoredDocument, ScoreTotals
from fwl_keras.evaluation.token_page import token_page
from fwl_keras.files import replace_file
from fwl_keras.models import FWLCausalLM
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.progress import windows_with_bar


@dataclass(frozen=True)
class ScoredTexts:
    """What `score_texts` found.

    Attributes:
        documents: the scored documents.
        model: what the model is, as a sentence's object.
        against: what it was compared with, likewise; empty for nothing.
        labels: a word or two for each.
        note: a sentence about how the texts were read.
    """

    documents: tuple[ScoredDocument, ...]
    model: str
    against: str
    labels: tuple[str, str]
    note: str

    def table(self) -> Table:
        """Return a row for each document, and one for all of them."""
        title = f"{self.model}, against {self.against}" if self.against else self.model
        table = Table(title=Text(_capital(title)), caption=Text(self.note))
        first, second = self.labels
        table.add_column("document", overflow="fold")
        table.add_column("tokens", justify="right")
        if self.against:
            for label in (first, second):
                table.add_column(Text(f"perplexity, {label}"), justify="right", overflow="fold")
            table.add_column("gain, nats per token", justify="right")
        else:
            table.add_column("perplexity per token", justify="right")
        table.add_column("bits per byte", justify="right")
        totals = [document.totals() for document in self.documents]
        for document, total in zip(self.documents, totals, strict=True):
            self._add_row(table, document.name, total)
        if len(totals) > 1:
            table.add_section()
            self._add_row(table, "all", ScoreTotals.sum(totals))
        return table

    def write_page(self, path: str | Path) -> None:
        """Write the page that `token_page` makes, whole or not at all.

        Args:
            path: a file in an existing directory; replaced if it is there.

        Raises:
            ValueError: if there was nothing to compare with.
        """
        if not self.against:
            raise ValueError(
                f"{_capital(self.model)} has nothing to be compared with on a page; give another "
                "run with `--against`."
            )
        page = token_page(**vars(self))
        # newline="": what is in the page is what is in the texts.
        replace_file(Path(path), lambda file: file.write_text(page, "utf-8", newline=""))

    def _add_row(self, table: Table, name: str, total: ScoreTotals) -> None:
        cells = [f"{total.tokens:,}", f"{total.perplexity:,.2f}"]
        if self.against:
            cells += [f"{total.reference_perplexity:,.2f}", f"{total.gain:+.3f}"]
        table.add_row(Text(name), *cells, f"{total.bits_per_byte:.3f}")


def score_texts(
    path: str | Path,
    files: Sequence[str | Path],
    *,
    against: str | Path | None = None,
    carry: bool = False,
    text_field: str = "text",
    on_divergence: str = "ignore",
    console: Console | None = None,
) -> ScoredTexts:
    """Score texts with a run's model, which adapts while it reads.

    Args:
        path: the run's directory.
        files: what `load_documents` takes.
        against: another run to compare with; None for the run's own trained weights, without
            adaptation, where it has fast weights.
        carry: whether a document goes on with the state that the one before left; otherwise each
            begins with a fresh one.
        text_field: the field of a `.jsonl` record that has the text.
        on_divergence: what is done where fast weights diverge, as for `FWLCausalLM.read`.
        console: where to draw a progress bar; by default nowhere.

    Returns:
        The scores.

    Raises:
        ValueError: if a file cannot be read, a run is not finished, or the two runs have different
            tokenisers.
    """
    documents = [document for file in files for document in load_documents(file, text_field)]
    lm = load_run_model(path)
    tokenizer = lm.preprocessor.tokenizer
    other = None
    if against is not None:
        other = load_run_model(against)
        if other.preprocessor.tokenizer.proto != tokenizer.proto:
            raise ValueError(
                f"`{against}` has another tokeniser than `{path}`, so their tokens cannot be "
                "compared; give a run of the same text and vocabulary size."
            )
    encoded = tokenizer.encode_arrays([document.text for document in documents])
    compared = against is not None or lm.block.use_fast_weights
    start = np.array([lm.preprocessor.start_token_id], np.int32)
    total = (1 + compared) * sum(1 + len(ids) for ids in encoded)
    with windows_with_bar(console, total) as windows:
        texts = [np.concatenate([start, ids]) for ids in encoded]
        mine = _score(lm, texts, carry, windows, on_divergence=on_divergence)
        reference = [None] * len(texts)
        if other is not None:
            reference = _score(other, texts, carry, windows, on_divergence=on_divergence)
        elif compared:
            reference = _score(lm, texts, carry, windows, use_fast_weights=False)
    scored = tuple(
        ScoredDocument(document.name, ids, tuple(tokenizer.token_bytes(ids)), *both)
        for document, ids, *both in zip(documents, encoded, mine, reference, strict=True)
    )
    note = _note(carry, len(scored)) + _not_finite(mine, reference)
    return ScoredTexts(scored, *_described(path, lm, against, other), note)


def _score(
    lm: FWLCausalLM,
    texts: Sequence[np.ndarray],
    carry: bool,
    windows: Callable[[np.ndarray, int], Iterator[np.ndarray]],
    **options,
) -> list[np.ndarray]:
    """Log-probabilities of each text's tokens but the first, which marks its beginning."""
    results, state = [], None
    for ids in texts:
        state = state if carry else None
        parts = []
        for window in windows(ids, lm.context_length):
            score = lm.score(window, state, **options)
            state = score.state
            parts.append(score.log_probabilities[0])
        results.append(np.concatenate(parts)[1:])
    return results


def _described(
    path: str | Path, lm: FWLCausalLM, against: str | Path | None, other: FWLCausalLM | None
) -> tuple[str, str, tuple[str, str]]:
    """Say what the model is, what it is compared with, and both in short."""
    model = _name(path, lm)
    if other is not None:
        names = Path(path).resolve().name, Path(against).resolve().name
        labels = names if names[0] != names[1] else (str(path), str(against))
        return model, _name(against, other), labels
    if lm.block.use_fast_weights:
        return model, "its own trained weights, without adaptation", ("adapting", "trained weights")
    return model, "", (str(path), "")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _name(path: str | Path, lm: FWLCausalLM) -> str:
    how = "adapting as it reads" if lm.block.use_fast_weights else "without fast weights"
    return f"the model in {path} ({how})"


def _not_finite(mine: Sequence[np.ndarray], reference: Sequence[np.ndarray | None]) -> str:
    """Return a sentence about tokens whose loss is not finite, if there are any."""
    pairs = zip(mine, reference, strict=True)
    both = [np.isinf(one) | (False if other is None else np.isinf(other)) for one, other in pairs]
    count, total = (int(sum(map(f, both))) for f in (np.sum, np.size))
    if not count:
        return ""
    return f" The loss of {count:,} of {total:,} tokens is not finite: so is the perplexity."


def _note(carry: bool, documents: int) -> str:
    if documents == 1:
        return "The text was read from its beginning with a fresh state."
    if carry:
        return "The texts were read as one stream: each with the state that the one before left."
    return "Each text was read from its beginning with a fresh state."
