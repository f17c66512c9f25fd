"""How the step sizes should be parameterised, and where they and the decays should start.

One small language model per cell, all with the same body, text and number of steps; one factor
changes at a time. Finished cells are kept in a JSON file and skipped, so that the table can be
filled over several sittings.

    python benchmarks/step_sizes.py              # about 25 minutes on 2 cores
    python benchmarks/step_sizes.py --show       # the table of what is finished
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
import numpy as np
from rich.console import Console
from rich.table import Table

import fwl_keras
from benchmarks.environment import environment
from fwl_keras.data import (
    SentencePieceTokenizer,
    TrainingBatches,
    evaluation_windows,
    load_corpus,
    token_stream,
)
from fwl_keras.evaluation import stream_losses, token_losses
from fwl_keras.files import replace_file

RESULTS = Path(__file__).parent / "results" / "step_sizes.json"
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


def read_results() -> dict:
    """What is finished: settings, environment, and one entry a cell."""
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text("utf-8"))
        if results["settings"] != SETTINGS:
            raise SystemExit(f"{RESULTS} has other settings; move it away to start anew.")
        return results
    return {
        "command": "python benchmarks/step_sizes.py",
        "settings": SETTINGS,
        "default": DEFAULT,
        "environment": environment(),
        "cells": {},
    }


def write_results(results: dict) -> None:
    """Replace the file in one step."""
    RESULTS.parent.mkdir(exist_ok=True)
    text = json.dumps(results, indent=2) + "\n"
    replace_file(RESULTS, lambda beside: beside.write_text(text, "utf-8"))


def load_text() -> tuple[SentencePieceTokenizer, np.ndarray, np.ndarray]:
    """Tokeniser, training stream, and consecutive validation windows [N, length + 1]."""
    corpus = load_corpus(SETTINGS["corpus"])
    tokenizer = SentencePieceTokenizer.train([d.text for d in corpus.train], SETTINGS["vocab_size"])
    train, valid = (
        token_stream(tokenizer.encode([d.text for d in part]), eos_id=tokenizer.eos_id)
        for part in (corpus.train, corpus.valid)
    )
    valid = valid[: SETTINGS["valid_tokens"] + 1]
    return tokenizer, train, evaluation_windows(valid, SETTINGS["length"])


def run_cell(changes: dict, vocab_size: int, stream: np.ndarray, windows: np.ndarray) -> dict:
    """Train one model and measure it in windows and as a stream."""
    s = SETTINGS
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.GemmaBackbone(
        vocabulary_size=vocab_size,
        num_layers=s["layers"],
        hidden_dim=s["width"],
        intermediate_dim=6 * s["width"],
        num_query_heads=4,
        num_key_value_heads=4,
        head_dim=s["width"] // 4,
    )
    block = fwl_keras.FWLBlock(s["width"], vocab_size, **{**DEFAULT, **changes})
    lm = fwl_keras.FWLCausalLM(backbone, block)
    warmup = s["steps"] // 10
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, s["steps"] - warmup, 0.05, warmup_target=s["learning_rate"], warmup_steps=warmup
    )
    lm.compile(
        keras.optimizers.AdamW(schedule, weight_decay=s["weight_decay"], beta_2=0.98, clipnorm=1.0),
        jit_compile=True,
    )
    batches = TrainingBatches(stream, s["length"], s["batch_size"], s["steps"], seed=0)
    start = time.perf_counter()
    lm.fit(batches.for_fit(), steps_per_epoch=len(batches), verbose=2)
    seconds = time.perf_counter() - start

    reset = token_losses(lm, windows)
    carried = reset if not block.use_fast_weights else stream_losses(lm, windows)
    learned = {"step_sizes": block.step_sizes(), "decays": block.decays()}
    return {
        "perplexity_windows": perplexity(reset),
        "perplexity_stream": perplexity(carried),
        "seconds": round(seconds, 1),
        **{
            kind: {name: [float(f"{v:.3g}") for v in (x.min(), x.max())] for name, x in d.items()}
            for kind, d in learned.items()
        },
    }


def perplexity(losses: np.ndarray) -> float | None:
    """exp of the mean loss; None where the model's losses are not finite."""
    mean = float(np.mean(losses, dtype="float64"))
    return round(float(np.exp(mean)), 2) if np.isfinite(mean) and mean < 300 else None


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--show", action="store_true", help="print what is finished and stop")
    results = read_results()
    if not parser.parse_args().show:
        missing = [name for name in CELLS if name not in results["cells"]]
        tokenizer, stream, windows = load_text() if missing else (None, None, None)
        for i, name in enumerate(missing, 1):
            print(f"cell {i} of {len(missing)}: {name}", flush=True)
            keras.backend.clear_session()
            results["cells"][name] = run_cell(CELLS[name], tokenizer.vocab_size, stream, windows)
            write_results(results)
    show(results)
    print(f"{len(results['cells'])} of {len(CELLS)} cells; perplexities per token, in {RESULTS}.")


if __name__ == "__main__":
    main()
