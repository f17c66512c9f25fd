"""A text without end: 100,000 or 500,000 held-out tokens read through one state.

Reads held-out documents in shuffled order as one stream, window by window, once with the fast
weights' state carried along and once with a fresh state every window, and compares the two on the
same tokens, tenth by tenth. What a tenth gains depends on the documents in it, so several orders
are read, and errors are bootstrapped over documents.

    fwl-keras quickstart --to runs/quickstart
    python -m benchmarks.long_stream runs/quickstart/fast_weights        # about 4 minutes

    fwl-keras train wikitext-2 --preset quickstart --carry-state --steps 600 --to runs/wikitext-2
    python -m benchmarks.long_stream runs/wikitext-2 --tokens 500000 --orders 3     # about 15
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, held_out_ids, make_parser, write_json
from benchmarks.environment import resident_bytes
from fwl_keras.data import evaluation_windows, token_stream
from fwl_keras.evaluation import token_losses
from fwl_keras.evaluation.bootstrap import bootstrap_means
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.load import load_run_model

RESAMPLES = 2000


def bootstrap_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the standard deviation of the mean of `values`, whole groups of them resampled."""
    _, members = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(members, values), np.bincount(members)
    return float(bootstrap_means(sums, counts, resamples=RESAMPLES).std())


def read_carried(lm, stream: np.ndarray, length: int) -> tuple[np.ndarray, list[int]]:
    """Return losses [N, length] with the state carried, and memory in use after every tenth."""
    # Of a tenth's last window the last label is the next tenth's first token.
    cuts = [tenth[0] * length for tenth in np.array_split(np.arange(len(stream) // length), 10)]
    state, losses, memory = lm.initial_state(1), [], []
    for start, stop in zip(cuts, [*cuts[1:], len(stream)], strict=True):
        score = lm.score([stream[start:stop]], state=state, progress=True)
        state = score.state
        losses.append(-score.log_probabilities[0])
        memory.append(resident_bytes())
    losses = np.concatenate(losses)[1:].reshape(-1, length)
    if not np.isfinite(losses).all():
        raise SystemExit("The stream's losses are not finite.")
    return losses, memory


def read_order(lm, documents: list[np.ndarray], length: int, tokens: int, seed: int) -> dict:
    """Read the documents in one order, and return its figures."""
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
    tenths = [
        {
            "reset": float(reset[tenth].mean()),
            "carried": float(carried[tenth].mean()),
            "change": float(change[tenth].mean()),
            "error": bootstrap_error(change[tenth], document[tenth]),
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
    parser = make_parser(__file__, __doc__)
    parser.set_defaults(results=None)
    parser.add_argument("run", type=Path, help="a finished run with fast weights")
    parser.add_argument("--tokens", type=int, default=100_000, help="tokens of each stream")
    parser.add_argument("--orders", type=int, default=5, help="orders of the documents to read")
    args = parser.parse_args()

    run = RunDirectory.open(args.run)
    lm = load_run_model(args.run)
    eos_id = lm.preprocessor.tokenizer.eos_id
    documents = [token_stream([ids], eos_id=eos_id) for ids in held_out_ids(run)]
    length = RunConfig.load(run.config).length
    orders = [read_order(lm, documents, length, args.tokens, seed) for seed in range(args.orders)]
    options = "".join(
        f" --{name} {getattr(args, name)}"
        for name in ("tokens", "orders")
        if getattr(args, name) != parser.get_default(name)
    )
    path = args.results or RESULTS / f"long_stream_{args.tokens}.json"
    results = {
        "command": f"{args.command} RUN{options}",
        "corpus": Path(RunConfig.load(run.config).corpus).name,
        "unit": "nats per token; error: bootstrap over documents, one standard deviation",
        "orders": orders,
    }
    write_json(path, results)

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
