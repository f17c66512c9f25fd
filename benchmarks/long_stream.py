"""A text without end: 100,000 or 500,000 held-out tokens read through one state.

Reads held-out documents in shuffled order as one stream, window by window, once with the fast
weights' state carried along and once with a fresh state every window, and compares the two on the
same tokens, tenth by tenth. What a tenth gains depends on the documents in it, so several orders
are read, and errors are bootstrapped over documents.

    fwl-keras quickstart --to runs/quickstart
    python benchmarks/long_stream.py runs/quickstart/fast_weights        # about 4 minutes

    fwl-keras train wikitext-2 --preset quickstart --carry-state --steps 600 --to runs/wikitext-2
    python benchmarks/long_stream.py runs/wikitext-2 --tokens 500000 --orders 3     # about 15
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.table import Table

from fwl_keras.data import SentencePieceTokenizer, evaluation_windows, load_corpus, token_stream
from fwl_keras.evaluation import token_losses
from fwl_keras.files import replace_file
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.load import load_run_model

RESULTS = Path(__file__).parent / "results"
RESAMPLES = 2000


def held_out_documents(run: RunDirectory) -> list[np.ndarray]:
    """Token ids of every held-out document, each with the end mark."""
    config = RunConfig.load(run.config)
    corpus = load_corpus(config.corpus, text_field=config.text_field)
    tokenizer = SentencePieceTokenizer.load(run.tokenizer)
    texts = [d.text for d in (*corpus.valid, *corpus.test)]
    return [token_stream([ids], eos_id=tokenizer.eos_id) for ids in tokenizer.encode(texts)]


def bootstrap_error(values: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> float:
    """Standard deviation of the mean of `values` when whole groups of them are resampled."""
    _, members = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(members, values), np.bincount(members)
    picks = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    return float((sums[picks].sum(axis=1) / counts[picks].sum(axis=1)).std())


def read_carried(lm, stream: np.ndarray, length: int) -> tuple[np.ndarray, list[int]]:
    """Losses [N, length] with the state carried, and the memory in use after every tenth."""
    # Of a tenth's last window the last label is the next tenth's first token.
    cuts = [tenth[0] * length for tenth in np.array_split(np.arange(len(stream) // length), 10)]
    state, losses, memory = lm.initial_state(1), [], []
    for start, stop in zip(cuts, [*cuts[1:], len(stream)], strict=True):
        score = lm.score([stream[start:stop]], state=state, progress=True)
        state = score.state
        losses.append(-score.log_probabilities[0])
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
    losses = np.concatenate(losses)[1:].reshape(-1, length)
    if not np.isfinite(losses).all():
        raise SystemExit("The stream's losses are not finite.")
    return losses, memory


def read_order(lm, documents: list[np.ndarray], length: int, tokens: int, seed: int) -> dict:
    """Figures of one order of the documents."""
    order = np.random.default_rng(seed).permutation(len(documents))
    stream = np.concatenate([documents[i] for i in order])
    # Whole windows, at least as many tokens as asked for.
    needed = -(-tokens // length) * length
    if len(stream) <= needed:
        raise SystemExit(f"The run holds out {len(stream):,} tokens, not {tokens:,}.")
    windows = evaluation_windows(stream[: needed + 1], length)
    ends = np.cumsum([len(documents[i]) for i in order])
    document = np.searchsorted(ends, np.arange(len(windows)) * length, side="right")

    carried, memory = read_carried(lm, stream[: needed + 1], length)
    reset = token_losses(lm, windows, progress=True)
    change = (carried - reset).mean(axis=1, dtype="float64")
    rng = np.random.default_rng(0)
    tenths = [
        {
            "reset": float(reset[tenth].mean()),
            "carried": float(carried[tenth].mean()),
            "change": float(change[tenth].mean()),
            "error": bootstrap_error(change[tenth], document[tenth], rng),
            "memory_bytes": memory[i],
        }
        for i, tenth in enumerate(np.array_split(np.arange(len(windows)), 10))
    ]
    return {
        "seed": seed,
        "tokens": int(carried.size),
        "perplexity_reset": float(np.exp(reset.mean(dtype="float64"))),
        "perplexity_carried": float(np.exp(carried.mean(dtype="float64"))),
        "tenths": tenths,
    }


def main() -> None:
    """Read the streams, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run with fast weights")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--orders", type=int, default=5, help="orders of the documents to read")
    args = parser.parse_args()

    run = RunDirectory.open(args.run)
    lm = load_run_model(args.run)
    documents = held_out_documents(run)
    length = RunConfig.load(run.config).length
    orders = [read_order(lm, documents, length, args.tokens, seed) for seed in range(args.orders)]
    options = "".join(
        f" --{name} {getattr(args, name)}"
        for name in ("tokens", "orders")
        if getattr(args, name) != parser.get_default(name)
    )
    path = RESULTS / f"long_stream_{args.tokens}.json"
    results = {
        "command": f"python benchmarks/long_stream.py RUN{options}",
        "corpus": Path(RunConfig.load(run.config).corpus).name,
        "unit": "nats per token; error: bootstrap over documents, one standard deviation",
        "orders": orders,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(results, indent=2) + "\n"
    replace_file(path, lambda beside: beside.write_text(text, "utf-8"))

    table = Table("tenth", *(f"order {order['seed']}" for order in orders), "mean")
    for i in range(10):
        cells = [order["tenths"][i] for order in orders]
        mean = np.mean([cell["change"] for cell in cells])
        table.add_row(
            str(i + 1), *(f"{c['change']:+.3f} ± {c['error']:.3f}" for c in cells), f"{mean:+.3f}"
        )
    for name in ("perplexity_reset", "perplexity_carried"):
        values = [order[name] for order in orders]
        table.add_row(
            name.replace("_", ", "), *(f"{v:.1f}" for v in values), f"{np.mean(values):.1f}"
        )
    Console().print(table)
    changes = np.array([[tenth["change"] for tenth in order["tenths"]] for order in orders])
    first, last = changes[:, 0], changes[:, -1]
    memory = np.array([[tenth["memory_bytes"] for tenth in order["tenths"]] for order in orders])
    grown = (memory[:, -1] - memory[:, 0]).max() / 2**20
    print(
        f"Carrying the state through {orders[0]['tokens']:,} tokens changes the loss by "
        f"{changes.mean():+.3f} nats a token; by {first.mean():+.3f} in the first tenth and "
        f"{last.mean():+.3f} in the last, mean of {len(orders)} orders. Memory grew by at most "
        f"{grown:.0f} MiB between them. Figures in {path}."
    )


if __name__ == "__main__":
    main()
