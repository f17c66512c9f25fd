"""What a benchmark's pictures show, and the words and documents that gain and lose most."""

import math

import numpy as np

from benchmarks.rivals.counts import model_parameters, row_operations
from benchmarks.rivals.models import ROWS
from benchmarks.rivals.workspace import Workspace
from fwl_keras.evaluation.token_analysis import (
    TokenTable,
    doubling_edges,
    gain_by,
    gain_by_document,
    gain_by_word,
)

BASELINE = "baseline.plain"

# Rows of the picture of gains, by label.
_GAINS = {
    "fast weights, state carried": "fast_weights.carried",
    "dynamic evaluation, RMS": "baseline.rms",
    "fast weights, windows": "fast_weights.windows",
}
_GAINS_THIRD = {
    "fast weights, state carried": "two_thirds_fast_weights.carried",
    "dynamic evaluation, RMS": "two_thirds_baseline.rms",
}

# Rows of the picture of sizes: by label, pairs of a row and the baseline of the same body.
_SIZES = {
    "fast weights, windows": [
        ("smaller_fast_weights.windows", "smaller_baseline.plain"),
        ("fast_weights.windows", BASELINE),
        ("larger_fast_weights.windows", "larger_baseline.plain"),
    ],
    "fast weights, state carried": [
        ("smaller_fast_weights.carried", "smaller_baseline.plain"),
        ("fast_weights.carried", BASELINE),
        ("larger_fast_weights.carried", "larger_baseline.plain"),
    ],
    "the same, tuned on documents": [
        ("documents.carried", BASELINE),
        ("larger_documents.carried", "larger_baseline.plain"),
    ],
    "dynamic evaluation, RMS": [
        ("baseline.rms", BASELINE),
        ("larger_baseline.rms", "larger_baseline.plain"),
    ],
}

# Rows of the picture of effort, by label; and searches that have tried several efforts.
_EFFORTS = {
    "baseline": BASELINE,
    "fast weights, windows": "fast_weights.windows",
    "fast weights, state carried": "fast_weights.carried",
    "the same, tuned on documents": "documents.carried",
}
_SEARCHED = {
    "dynamic evaluation, SGD": "baseline.sgd",
    "dynamic evaluation, RMS": "baseline.rms",
}

# Words that occur less often say little; so many of each kind are named.
_MIN_OCCURRENCES = 10
_NAMED = 12

# Bins with few tokens are all noise.
_MIN_DOCUMENTS = 20


def gains(workspace: Workspace, *, third: bool = False) -> dict:
    """Find where the gains come from, as the paper's Figure 2, on the first seed's models.

    Args:
        workspace: the benchmark.
        third: whether to read what two thirds of the training documents leave out, as the paper
            does, instead of the test documents.

    Returns:
        What `plot_gains` draws, in lists; empty where too little was measured.
    """
    split, rows, base = "test", _GAINS, BASELINE
    if third:
        split, rows, base = "third", _GAINS_THIRD, "two_thirds_baseline.plain"
    baseline = _losses(workspace, base, split)
    found = {label: _losses(workspace, row, split) for label, row in rows.items()}
    found = {label: losses for label, losses in found.items() if losses is not None}
    if baseline is None or not found:
        return {}
    training = workspace.two_thirds[0].stream if third else workspace.text.stream
    table = TokenTable.make(
        workspace.documents_ids(split), training, workspace.text.tokenizer.vocab_size
    )
    kinds = {
        "position in the document": (table.positions, False),
        "times in the training text": (table.frequencies, True),
        "times earlier in the document": (table.occurrences, True),
    }
    curves: dict[str, dict] = {}
    for what, (values, zero) in kinds.items():
        edges = doubling_edges(int(values.max()), zero=zero and bool((values == 0).any()))
        documents = min(_MIN_DOCUMENTS, int(table.documents.max()) + 1)
        curves[what] = {}
        for label, losses in found.items():
            curve = gain_by(
                baseline - losses, values, table.documents, edges, min_documents=documents
            )
            curves[what][label] = {name: numbers.tolist() for name, numbers in curve.items()}
    return curves


def efforts(workspace: Workspace) -> dict:
    """Find perplexity against operations per token, on the documents of the searches.

    Dynamic evaluation has a point for each number of tokens between two steps, the best of all
    that its search has tried.

    Args:
        workspace: the benchmark.

    Returns:
        What `plot_effort` draws; empty where there is nothing to compare.
    """
    units = workspace.units("search")
    points = {}
    for label, row in _EFFORTS.items():
        losses = workspace.read_losses(f"{row}-0")
        operations = row_operations(workspace, ROWS[row], {})
        if losses is not None and operations is not None:
            total = float(workspace.in_search(losses["valid"]).sum(dtype=np.float64))
            points[label] = [[operations, math.exp(total / units)]]
    for label, row in _SEARCHED.items():
        search = workspace.read_json("searches", row)
        best: dict[float, float] = {}
        for trial in search["trials"] if search else []:
            operations = row_operations(workspace, ROWS[row], trial["settings"])
            if trial["nll"] is not None and operations is not None:
                best[operations] = min(trial["nll"], best.get(operations, math.inf))
        if best:
            points[label] = [
                [operations, math.exp(nll * search["tokens"] / units)]
                for operations, nll in sorted(best.items())
            ]
    return points if len(points) > 1 else {}


def extremes(workspace: Workspace) -> dict[str, list[str]]:
    """Name the test words and documents that fast weights, carried, help and hurt most.

    Returns:
        By title, lines; empty where too little was measured.
    """
    baseline = _losses(workspace, BASELINE, "test")
    losses = _losses(workspace, "fast_weights.carried", "test")
    if baseline is None or losses is None:
        return {}
    gain = baseline - losses
    documents_ids = workspace.documents_ids("test")
    table = TokenTable.make(
        documents_ids, workspace.text.stream, workspace.text.tokenizer.vocab_size
    )
    pieces = workspace.text.tokenizer.token_bytes(range(workspace.text.tokenizer.vocab_size))
    words = [
        (total / count, total, count, word)
        for word, (total, count) in gain_by_word(gain, documents_ids, pieces).items()
        if count >= _MIN_OCCURRENCES
    ]
    totals, tokens = gain_by_document(gain, table.documents)
    names = [one.name for one in workspace.documents("test")]
    documents = sorted(zip(totals / tokens, tokens, names, strict=True), reverse=True)

    def of_words(chosen):
        return [
            f"`{word}`: {total:+.0f} nats in all, {mean:+.2f} each of {count}"
            for mean, total, count, word in chosen
        ]

    def of_documents(chosen):
        return [
            f"{name}: {mean:+.3f} nats per token, {size:,} tokens" for mean, size, name in chosen
        ]

    by_total = sorted(words, key=lambda one: one[1])
    return {
        "Words that gain most": of_words(by_total[::-1][:_NAMED]),
        "Words that lose most": of_words([one for one in by_total[:_NAMED] if one[1] < 0]),
        "Documents that gain most": of_documents(documents[:_NAMED]),
        "Documents that gain least": of_documents(documents[::-1][:_NAMED]),
    }


def sizes(workspace: Workspace) -> dict:
    """Find gains on the test documents against the number of parameters.

    Args:
        workspace: the benchmark.

    Returns:
        What `plot_sizes` draws, without what was measured for one size only.
    """
    points: dict[str, list] = {}
    for label, pairs in _SIZES.items():
        for better, baseline in pairs:
            cells = [workspace.read_json("cells", f"{name}-0") for name in (better, baseline)]
            if None in cells:
                continue
            values = [cell["splits"]["test"]["perplexity"] for cell in cells]
            size = model_parameters(workspace, ROWS[better].model)
            if None not in values:
                points.setdefault(label, []).append([size, 100 * (1 - values[0] / values[1])])
    return {label: pairs for label, pairs in points.items() if len(pairs) > 1}


def _losses(workspace: Workspace, row: str, split: str) -> np.ndarray | None:
    losses = workspace.read_losses(f"{row}-0")
    return None if losses is None else losses.get(split)
