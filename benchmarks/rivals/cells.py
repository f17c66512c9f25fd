"""What a benchmark measures: one row with one seed at a time."""

import math

import keras
import numpy as np
from rich.console import Console

from benchmarks.rivals.hill_climb import Trial, hill_climb
from benchmarks.rivals.methods import METHODS, Reader
from benchmarks.rivals.models import THIRD, Row
from benchmarks.rivals.workspace import Workspace

# Settings are searched with the first seed's model.
SEARCH_SEED = 0


def measure_cell(workspace: Workspace, row: Row, seed: int, console: Console) -> dict:
    """Measure a row with a seed, or return what was measured before.

    Trains the model and searches the method's settings, if that was not done.

    Args:
        workspace: the benchmark.
        row: the row.
        seed: the seed of its model.
        console: where to report.

    Returns:
        `settings`, and by split `total_nll_nats`, `tokens` and `perplexity` (None where the losses
        grow beyond all numbers).
    """
    name = f"{row.name}-{seed}"
    found = workspace.read_json("cells", name)
    if found is not None:
        return found
    workspace.train(row.model, seed, console)
    settings = search_settings(workspace, row, console)
    console.print(f"{row.title}, seed {seed}")
    reader = open_reader(workspace, row.model, row.method, seed, progress=not console.quiet)
    losses, splits = {}, {}
    for split in ("third",) if row.group == THIRD else ("valid", "test"):
        documents_ids = workspace.documents_ids(split)
        if not documents_ids:
            continue
        read = METHODS[row.method].losses(reader, documents_ids, settings)
        losses[split] = np.concatenate(read)
        splits[split] = _summary(losses[split], workspace.units(split))
    workspace.write_losses(name, losses)
    result = {"row": row.name, "seed": seed, "settings": settings, "splits": splits}
    workspace.write_json("cells", name, result)
    keras.backend.clear_session()
    return result


def open_reader(
    workspace: Workspace, model: str, method: str, seed: int, *, progress: bool = True
) -> Reader:
    """Return a trained model, ready to read in some way.

    Args:
        workspace: the benchmark.
        model: name of the model.
        method: name of the way of reading.
        seed: the model's seed.
        progress: whether to draw progress bars.
    """
    return Reader.open(
        workspace.run(model, seed).path,
        workspace.training_windows(),
        fast_weights=METHODS[method].adds_fast_weights or None,
        progress=progress,
    )


def search_settings(workspace: Workspace, row: Row, console: Console) -> dict:
    """Find a row's settings on validation text, or what an earlier search has found.

    Args:
        workspace: the benchmark.
        row: the row.
        console: where to report.

    Returns:
        The settings, empty where there is nothing to tune.
    """
    method = METHODS[row.method]
    if not method.start:
        return {}
    kept = workspace.read_json("searches", row.search) or {"finished": False, "trials": []}
    if kept["finished"]:
        return kept["trials"][0]["settings"]
    model = row.settings_of or row.model
    workspace.train(model, SEARCH_SEED, console)
    reader = open_reader(workspace, model, row.method, SEARCH_SEED, progress=not console.quiet)
    documents_ids = workspace.documents_ids("search")
    tokens = sum(map(len, documents_ids))
    console.print(f"Searching settings of {method.title} ({model}) on {tokens:,} tokens ...")
    trials = [
        Trial(t["settings"], math.inf if t["nll"] is None else t["nll"]) for t in kept["trials"]
    ]

    def objective(settings):
        losses = method.losses(reader, documents_ids, settings)
        return float(np.mean(np.concatenate(losses), dtype=np.float64))

    def keep(trial=None, *, finished=False):
        if trial is not None:
            trials.append(trial)
            console.print(f"  {trial.value:.4f} nats per token: {trial.settings}")
        ordered = sorted(trials, key=lambda one: one.value)
        values = [
            {"settings": t.settings, "nll": t.value if math.isfinite(t.value) else None}
            for t in ordered
        ]
        workspace.write_json(
            "searches",
            row.search,
            {"tokens": tokens, "finished": finished, "trials": values},
        )

    scales = method.scales(workspace.config.length)
    best = hill_climb(
        objective,
        method.start,
        scales,
        together=method.together,
        on_trial=keep,
        trials=tuple(trials),
    )[0]
    keep(finished=True)
    keras.backend.clear_session()
    return best.settings


def _summary(losses: np.ndarray, units: int) -> dict:
    total = float(losses.sum(dtype=np.float64))
    mean = total / units if math.isfinite(total) else math.inf
    return {
        "tokens": int(losses.size),
        "units": units,
        "total_nll_nats": total if math.isfinite(total) else None,
        "perplexity": math.exp(mean) if mean < 700 else None,
    }
