"""A text without end: 100,000 held-out tokens read through one state.

Reads held-out documents in shuffled order as one stream, window by window, once with the fast
weights' state carried along and once with a fresh state every window, and compares the two on the
same tokens, tenth by tenth.

    fwl-keras quickstart --to runs/quickstart
    python benchmarks/long_stream.py runs/quickstart/fast_weights        # about 2 minutes
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import fwl_keras  # noqa: F401  (registers the classes that the run's model is made of)
from fwl_keras.data import SentencePieceTokenizer, evaluation_windows, load_corpus, token_stream
from fwl_keras.evaluation import stream_losses
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory

RESULTS = Path(__file__).parent / "results" / "long_stream.json"
RESAMPLES = 2000


def held_out_stream(run: RunDirectory, tokens: int, seed: int) -> np.ndarray:
    """Consecutive windows [N, T + 1] over held-out documents in shuffled order."""
    config = RunConfig.load(run.config)
    corpus = load_corpus(config.corpus)
    tokenizer = SentencePieceTokenizer.load(run.tokenizer)
    documents = [*corpus.valid, *corpus.test]
    np.random.default_rng(seed).shuffle(documents)
    stream = token_stream(tokenizer.encode([d.text for d in documents]), eos_id=tokenizer.eos_id)
    if len(stream) <= tokens + config.length:
        raise SystemExit(f"{config.corpus} holds out {len(stream):,} tokens, not {tokens:,}.")
    # Whole windows, at least as many tokens as asked for.
    needed = -(-tokens // config.length) * config.length
    return evaluation_windows(stream[: needed + 1], config.length)


def bootstrap_error(values: np.ndarray, rng: np.random.Generator) -> float:
    """Standard deviation of the mean of `values` under resampling."""
    samples = rng.choice(values, size=(RESAMPLES, len(values)))
    return float(samples.mean(axis=1).std())


def main() -> None:
    """Read the stream twice, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run with fast weights")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    run = RunDirectory.open(args.run)
    lm = keras.saving.load_model(run.model)
    windows = held_out_stream(run, args.tokens, args.seed)
    carried = stream_losses(lm, windows, progress=True)
    reset = stream_losses(lm, windows, reset=True, progress=True)
    if not np.isfinite(carried).all():
        raise SystemExit("The stream's losses are not finite.")

    rng = np.random.default_rng(0)
    change = (carried - reset).mean(axis=1)
    rows = []
    for tenth in np.array_split(np.arange(len(windows)), 10):
        rows.append(
            {
                "tokens": len(tenth) * (windows.shape[1] - 1),
                "reset": float(reset[tenth].mean()),
                "carried": float(carried[tenth].mean()),
                "change": float(change[tenth].mean()),
                "error": bootstrap_error(change[tenth], rng),
            }
        )
    first, last = rows[0], rows[-1]
    error = float(np.hypot(first["error"], last["error"]))
    results = {
        "command": "python benchmarks/long_stream.py runs/quickstart/fast_weights",
        "unit": "nats per token",
        "tenths": rows,
        "perplexity_reset": float(np.exp(reset.mean())),
        "perplexity_carried": float(np.exp(carried.mean())),
        "last_tenth_negative": last["change"] < 0,
        "last_not_above_first": last["change"] <= first["change"] + error,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    beside = RESULTS.with_suffix(".tmp")
    beside.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    os.replace(beside, RESULTS)

    table = Table("tenth", "NLL reset", "NLL carried", "change", "bootstrap error")
    for i, row in enumerate(rows, 1):
        table.add_row(str(i), *(f"{row[k]:.3f}" for k in ("reset", "carried", "change", "error")))
    Console().print(table)
    print(
        f"Over {carried.size:,} tokens, carrying the state changed the perplexity per token from "
        f"{results['perplexity_reset']:.1f} to {results['perplexity_carried']:.1f}; the last "
        f"tenth's change is {last['change']:+.3f} nats, the first's {first['change']:+.3f} "
        f"(error of the difference {error:.3f}). Figures in {RESULTS}."
    )


if __name__ == "__main__":
    main()
