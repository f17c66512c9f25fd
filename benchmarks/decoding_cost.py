"""What a token costs after 100 tokens read, and after 100,000.

Writes the same number of tokens from the two states in turn, several times, and compares the
times; likewise with fast weights frozen, with the body's cache and without, and with a model
without fast weights.

    fwl-keras quickstart --to runs/quickstart
    python -m benchmarks.decoding_cost runs/quickstart          # about 3 minutes
"""

import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import make_parser, quickstart_models, write_json
from fwl_keras.runs.quickstart import BASELINE, FAST

FEW, MANY = 100, 100_000


def main() -> None:
    """Read, write in turn, print the table, keep the figures."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("quickstart", type=Path, help="a finished quickstart")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is timed")
    parser.add_argument("--tokens", type=int, default=128, help="tokens written each time")
    args = parser.parse_args()

    models = quickstart_models(args.quickstart)
    fast = models[FAST]
    ids = np.random.default_rng(0).integers(4, fast.block.vocab_size, MANY)
    states = {n: fast.read(ids[:n], progress=True) for n in (FEW, MANY)}
    fresh = models[BASELINE].read(ids[:FEW])

    def write(lm, state, **settings):
        began = time.perf_counter()
        length = args.tokens + 1
        lm.generate([ids[:1]], length, state=state, stop_token_ids=None, **settings)
        return 1e3 * (time.perf_counter() - began) / args.tokens

    cases = {
        f"after {FEW:,} tokens": lambda: write(fast, states[FEW]),
        f"after {MANY:,} tokens": lambda: write(fast, states[MANY]),
        "frozen": lambda: write(fast, states[FEW], adapt_while_generating=False),
        "without the body's cache": lambda: write(fast, states[FEW], use_cache=False),
        "a model without fast weights": lambda: write(models[BASELINE], fresh),
    }
    times = {name: [] for name in cases}
    for round_number in range(args.rounds + 1):
        for name, case in cases.items():
            took = case()
            # The first round compiles.
            if round_number:
                times[name].append(took)
    first = np.array(times[f"after {FEW:,} tokens"])
    rows = {
        name: {
            "ms_per_token": float(np.median(took)),
            "ratio": float(np.median(np.array(took) / first)),
            "ratio_low": float(np.min(np.array(took) / first)),
            "ratio_high": float(np.max(np.array(took) / first)),
        }
        for name, took in times.items()
    }
    results = {
        "command": f"{args.command} runs/quickstart",
        "unit": "median over rounds, one row; ratios are of times of the same round",
        "state_bytes": int(sum(np.asarray(v).nbytes for v in states[MANY].values())),
        "rows": rows,
    }
    write_json(args.results, results)
    table = Table("writing one row", "ms a token", "relative to the first", "lowest", "highest")
    for name, row in rows.items():
        ratios = (f"{row[key]:.2f}" for key in ("ratio", "ratio_low", "ratio_high"))
        table.add_row(name, f"{row['ms_per_token']:.2f}", *ratios)
    Console().print(table)
    many = rows[f"after {MANY:,} tokens"]
    print(
        f"A token costs {many['ratio']:.2f} times as much after {MANY:,} tokens as after {FEW:,}; "
        f"the state has {results['state_bytes']:,} bytes. Figures in {args.results}."
    )


if __name__ == "__main__":
    main()
