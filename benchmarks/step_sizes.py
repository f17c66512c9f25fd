"""How the step sizes should be parameterised, and where they and the decays should start.

One small language model per cell, all with the same body, text and number of steps; one factor
changes at a time. Finished cells are kept in a JSON file and skipped, so that the table can be
filled over several sittings.

    python -m benchmarks.step_sizes              # about 25 minutes on 2 cores
    python -m benchmarks.step_sizes --show       # the table of what is finished
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import fwl_keras
from benchmarks.common import (
    load_text,
    make_parser,
    perplexity,
    read_results,
    small_gemma,
    warm_adamw,
    write_json,
)
from benchmarks.environment import environment
from fwl_keras.data import TrainingBatches
from fwl_keras.evaluation import stream_losses, token_losses

SETTINGS = {
    "corpus": "python-stdlib",
    "vocab_size": 2048,
    "layers": 2,
    "width": 64,
    "length": 256,
    "batch_size": 8,
    "steps": 200,
    "learning_rate": 4e-3,
    "weight_decay": 0.05,
    "valid_tokens": 40_000,
}
DEFAULT = {
    "initial_step_size": 1e-3,
    "step_size_gain": 10.0,
    "step_size_per_unit": False,
    "initial_decay": 0.95,
    "segment_length": 128,
}
CELLS = {
    "no fast weights": {"use_fast_weights": False},
    "default": {},
    "step size per output unit": {"step_size_per_unit": True},
    "gain 1": {"step_size_gain": 1.0},
    "gain 30": {"step_size_gain": 30.0},
    "step sizes fixed": {"train_step_sizes": False},
    "eta0 1e-4": {"initial_step_size": 1e-4},
    "eta0 3e-3": {"initial_step_size": 3e-3},
    "eta0 1e-2": {"initial_step_size": 1e-2},
    "decay0 0.5": {"initial_decay": 0.5},
    "decay0 0.8": {"initial_decay": 0.8},
    "decay0 0.99": {"initial_decay": 0.99},
    "segments of 32": {"segment_length": 32},
    "segments of 64": {"segment_length": 64},
    "segments of 256 (the window)": {"segment_length": 256},
}


def run_cell(changes: dict, vocab_size: int, stream: np.ndarray, windows: np.ndarray) -> dict:
    """Train one model and measure it in windows and as a stream."""
    s = SETTINGS
    keras.utils.set_random_seed(0)
    block = fwl_keras.FWLBlock(s["width"], vocab_size, **{**DEFAULT, **changes})
    lm = fwl_keras.FWLCausalLM(small_gemma(s, vocab_size), block)
    lm.compile(warm_adamw(s, s["steps"], s["learning_rate"]), jit_compile=True)
    batches = TrainingBatches(stream, s["length"], s["batch_size"], s["steps"], seed=0)
    start = time.perf_counter()
    lm.fit(batches.for_fit(), steps_per_epoch=len(batches), verbose=2)
    seconds = time.perf_counter() - start

    reset = token_losses(lm, windows)
    carried = reset if not block.use_fast_weights else stream_losses(lm, windows)
    learned = {"step_sizes": block.step_sizes(), "decays": block.decays()}
    return {
        "perplexity_windows": perplexity(reset, 2),
        "perplexity_stream": perplexity(carried, 2),
        "seconds": round(seconds, 1),
        **{
            kind: {name: [float(f"{v:.3g}") for v in (x.min(), x.max())] for name, x in d.items()}
            for kind, d in learned.items()
        },
    }


def show(results: dict) -> None:
    """Print the table."""
    table = Table("cell", "valid, windows reset", "valid, state carried", "training s")
    for name, cell in results["cells"].items():
        values = (
            "diverged" if cell[f"perplexity_{kind}"] is None else f"{cell[f'perplexity_{kind}']}"
            for kind in ("windows", "stream")
        )
        table.add_row(name, *values, f"{cell['seconds']:.0f}")
    Console().print(table)


def main() -> None:
    """Fill in the cells that are missing."""
    args = make_parser(__file__, __doc__, resumable=True).parse_args()
    new = {
        "command": args.command,
        "settings": SETTINGS,
        "default": DEFAULT,
        "environment": environment(),
        "cells": {},
    }
    results = read_results(args, new)
    missing = [name for name in CELLS if name not in results["cells"]]
    if missing and not args.show:
        vocab_size, stream, windows = load_text(SETTINGS)
        for i, name in enumerate(missing, 1):
            print(f"cell {i} of {len(missing)}: {name}", flush=True)
            keras.backend.clear_session()
            results["cells"][name] = run_cell(CELLS[name], vocab_size, stream, windows)
            write_json(args.results, results)
    show(results)
    print(
        f"{len(results['cells'])} of {len(CELLS)} cells; perplexities per token, in {args.results}."
    )


if __name__ == "__main__":
    main()
