"""What a row costs: seconds relative to plain reading, and memory.

A process of its own for every row, `python -m benchmarks.rivals.costs REQUEST.json`, since a
process's peak of memory is that of all it ever did. Its model is not trained: no cost depends on
what the weights are.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from benchmarks.environment import resident_bytes
from benchmarks.rivals.models import ROWS, Row
from benchmarks.rivals.workspace import Workspace
from fwl_keras.runs.build_model import build_model
from fwl_keras.runs.directory import RunDirectory

# What is read: so many documents, so many windows of each.
_DOCUMENTS = 8
_WINDOWS = 2

# Both are timed in turn, at least so often, and for so many seconds: what is short is all noise.
_ROUNDS = 3
_SECONDS = 5.0

_MEGABYTE = 1024**2

# Two models that have these in common compute the same when they read.
_SHAPE = ("body", "layers", "width", "heads", "segment_length", "fast_weights", "dtype")


def measure_cost(workspace: Workspace, row: Row, settings: dict) -> dict:
    """Measure what a row costs, or return what was measured before, be it for another row.

    Args:
        workspace: the benchmark.
        row: the row.
        settings: its method's settings.

    Returns:
        `seconds`, relative to plain reading (the same body without fast weights, documents side by
        side), `megabytes` of memory that loading and reading took at most, `tokens_per_second`.
    """
    found = workspace.read_json("costs", row.name) or _cost_of_twin(workspace, row, settings)
    if found is None:
        found = _measure_apart(workspace, row, settings)
    workspace.write_json("costs", row.name, found)
    return found


def _cost_of_twin(workspace, row, settings):
    """Return what a row cost that reads in the same way with a model of the same shape."""

    def shape(one):
        config = workspace.model_config(one.model, 0)
        return one.method, [getattr(config, name) for name in _SHAPE]

    for twin in ROWS.values():
        cell = workspace.read_json("cells", f"{twin.name}-0")
        if cell and cell["settings"] == settings and shape(twin) == shape(row):
            found = workspace.read_json("costs", twin.name)
            if found is not None:
                return found
    return None


def _measure_apart(workspace, row, settings):
    length = workspace.config.length
    documents_ids = [
        ids[: _WINDOWS * length] for ids in workspace.documents_ids("valid")[:_DOCUMENTS]
    ]
    with tempfile.TemporaryDirectory() as directory:
        arrays = Path(directory) / "text.npz"
        np.savez(
            arrays,
            training_windows=workspace.training_windows()[:_DOCUMENTS],
            **{f"document_{i}": ids for i, ids in enumerate(documents_ids)},
        )
        run = _untrained_run(workspace, row.model, Path(directory) / "run")
        request = {
            "model": str(run.path),
            "text": str(arrays),
            "method": row.method,
            "settings": settings,
        }
        file = Path(directory) / "request.json"
        file.write_text(json.dumps(request), "utf-8")
        command = [sys.executable, "-m", "benchmarks.rivals.costs", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Measuring the cost of {row.title!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _untrained_run(workspace, model, path):
    config, text = workspace.model_config(model, 0), workspace.text
    run = RunDirectory.create(path, config, text.tokenizer, text.description())
    build_model(config, text.tokenizer).save(run.model)
    keras.backend.clear_session()
    return run


def _measure(request: dict) -> dict:
    from benchmarks.rivals.methods import METHODS, Reader

    method = METHODS[request["method"]]
    with np.load(request["text"]) as arrays:
        text = dict(arrays)
    windows = text.pop("training_windows")
    documents_ids = [text[f"document_{i}"] for i in range(len(text))]

    def reader(fast_weights):
        return Reader.open(request["model"], windows, fast_weights=fast_weights, progress=False)

    before = resident_bytes()
    adapting = reader(method.adds_fast_weights or None)

    def read():
        method.losses(adapting, documents_ids, request["settings"])

    read()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    plain = reader(False)

    def read_plain():
        METHODS["plain"].losses(plain, documents_ids, {})

    read_plain()
    seconds = {"row": [], "plain": []}
    while len(seconds["row"]) < _ROUNDS or sum(map(sum, seconds.values())) < _SECONDS:
        for name, function in (("row", read), ("plain", read_plain)):
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    ratios = np.divide(seconds["row"], seconds["plain"])
    return {
        "seconds": float(np.median(ratios)),
        "megabytes": peak / _MEGABYTE,
        "tokens_per_second": sum(map(len, documents_ids)) / float(np.median(seconds["row"])),
    }


if __name__ == "__main__":
    print(json.dumps(_measure(json.loads(Path(sys.argv[1]).read_text("utf-8")))))
