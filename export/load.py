"""Put load on a served model: throughput, and how long its answers take.

    python load.py --model my_lm --requests 400 --concurrency 8
    python load.py --in-process models/my_lm/1              # no server, this process's threads
    python load.py --mix score=8,generate=1 --texts my_lines.txt --tokens 64

Kinds of requests: score, generate, and session, which reads a text into a state and writes on from
it (three requests). Exit status 1 if any request failed.
"""

import argparse
import os
import random
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

TEXTS = [
    "def main(arguments):",
    "for name, value in sorted(items):\n    print(name, value)\n",
    "The server keeps nothing: the state travels with every request and comes back with it.",
    "import json\n\n\nclass Reader:\n    def __init__(self, path):\n        self.path = path\n" * 8,
]
PERCENTILES = (50, 90, 99)


class InProcess:
    """A SavedModel in this process, in the place of a connection to a server."""

    def __init__(self, directory: Path):
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  (the tokeniser's operations)

        self._constant = tf.constant
        self._signatures = tf.saved_model.load(str(directory)).signatures

    def call(self, signature: str, inputs: dict) -> dict:
        """As `RestTransport.call`."""
        signature = self._signatures[signature]
        specs = signature.structured_input_signature[1]
        outputs = signature(**{k: self._constant(v, specs[k].dtype) for k, v in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}


def ask(client, kind: str, text: str, tokens: int, seed: int) -> None:
    """One request of a kind."""
    if kind == "score":
        client.score(text)
    elif kind == "generate":
        client.generate(text, max_new_tokens=tokens, seed=seed)
    else:
        session = client.session()
        session.read(text)
        session.generate(max_new_tokens=tokens, seed=seed)


def parse_mix(text: str) -> dict[str, float]:
    """Weights of the kinds, from `score=8,generate=1`."""
    kinds = ("score", "generate", "session")
    try:
        mix = {
            name: float(weight) for name, weight in (part.split("=") for part in text.split(","))
        }
    except ValueError:
        mix = {}
    if not mix or set(mix) - set(kinds) or min(mix.values()) < 0 or not sum(mix.values()):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be like score=8,generate=1; kinds are {', '.join(kinds)}"
        )
    return mix


def run(client, mix, texts, requests: int, concurrency: int, tokens: int, seed: int = 0):
    """Seconds of every request by kind, errors, and seconds in all.

    Args:
        client: the Client.
        mix: weights by kind.
        texts: what is asked.
        requests: how many in all.
        concurrency: how many at a time.
        tokens: tokens to write.
        seed: of the choice of kinds and texts.
    """
    choose = random.Random(seed)
    plan = [
        (choose.choices(list(mix), list(mix.values()))[0], choose.choice(texts), number)
        for number in range(requests)
    ]
    for kind in mix:
        # What is slow once is not what a load test is about.
        ask(client, kind, texts[0], 1, 0)
    seconds, errors = defaultdict(list), Counter()

    def one(kind, text, number):
        begin = time.perf_counter()
        try:
            ask(client, kind, text, tokens, number)
        except (ConnectionError, RuntimeError, ValueError) as error:
            errors[f"{kind}: {error}"] += 1
            return
        seconds[kind].append(time.perf_counter() - begin)

    with Progress(transient=True) as progress, ThreadPoolExecutor(concurrency) as pool:
        begin = time.perf_counter()
        tasks = [pool.submit(one, *item) for item in plan]
        for task in progress.track(tasks, description="requests"):
            task.result()
        return seconds, errors, time.perf_counter() - begin


def show(console: Console, seconds: dict, errors: Counter, elapsed: float, where: str) -> None:
    """A table, the errors, and a sentence."""
    table = Table("request", *(f"p{p} (ms)" for p in PERCENTILES), "longest (ms)", "answers")
    rows = {**seconds, "all": [one for part in seconds.values() for one in part]}
    for kind, values in sorted(rows.items(), key=lambda row: row[0] == "all"):
        if values:
            found = [*np.percentile(values, PERCENTILES), max(values)]
            table.add_row(kind, *(f"{1000 * one:,.1f}" for one in found), f"{len(values):,}")
    console.print(table)
    for error, count in errors.most_common(5):
        console.print(f"{count} times: {error}", soft_wrap=True, markup=False, highlight=False)
    count, failed = len(rows["all"]), sum(errors.values())
    console.print(
        f"{where} gave {count:,} answers in {elapsed:.1f} s, {count / elapsed:.1f} a second; "
        f"{failed:,} requests failed.",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default="http://localhost:8501")
    parser.add_argument("--model", default="my_lm")
    parser.add_argument("--in-process", type=Path, metavar="DIR", help="a version directory")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--mix", type=parse_mix, default=parse_mix("score=6,generate=2,session=1"))
    parser.add_argument("--tokens", type=int, default=32, help="tokens to write")
    parser.add_argument("--texts", type=Path, help="a file, a text a line")
    args = parser.parse_args(arguments)
    for name in ("requests", "concurrency", "tokens"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1; received {getattr(args, name)}")
    texts = TEXTS
    if args.texts is not None:
        texts = [line for line in args.texts.read_text("utf-8").splitlines() if line]
        if not texts:
            parser.error(f"--texts {args.texts} has no text in it")

    from fwl_keras.serving.client import Client

    console = Console()
    if args.in_process is None:
        where = args.server
        client = Client.rest(args.server, args.model)
    else:
        where = str(args.in_process)
        with console.status("Loading"):
            client = Client(InProcess(args.in_process))
    try:
        result = run(client, args.mix, texts, args.requests, args.concurrency, args.tokens)
    except (ConnectionError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    show(console, *result, where)
    return 1 if result[1] else 0


if __name__ == "__main__":
    sys.exit(main())
