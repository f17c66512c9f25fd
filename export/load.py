"""Put load on a served model: throughput, and how long its answers take.

    python load.py --model my_lm --requests 400 --concurrency 8
    python load.py --in-process models/my_lm/1              # no server, this process's threads
    python load.py --mix score=8,generate=1 --texts my_lines.txt --tokens 64
    python load.py --mix all --rows 3 --in-process models/my_lm/1

Kinds of requests: a signature, asked with random texts, ids and settings, and session, which reads
a text into a state and writes on from it (three requests). A request fails if there is no answer,
if a row is refused, or, of a signature, if there is anything to say about it or a number is not
finite. Exit status 1 if any request failed.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
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
_WRITING = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
# What a signature takes besides a state, and whether it takes one.
SIGNATURES = {
    "score": (("text",), False),
    "score_tokens": (("token_ids", "lengths"), False),
    "generate": (("text", *_WRITING), False),
    "initial_state": (("text",), False),
    "read": (("text",), True),
    "score_from": (("text",), True),
    "generate_from": (("text", *_WRITING), True),
    "tokenize": (("text",), False),
    "detokenize": (("token_ids", "lengths"), False),
}
KINDS = (*SIGNATURES, "session")
# Every vocabulary has these ids: the bytes'.
_IDS = (4, 260)


class InProcess:
    """A SavedModel in this process, in the place of a connection to a server.

    Args:
        model: what `tf.saved_model.load` returned.
    """

    def __init__(self, model):
        self._signatures = model.signatures

    def call(self, signature: str, inputs: dict) -> dict:
        """Call a signature; see `Transport.call`."""
        import tensorflow as tf

        function = self._signatures[signature]
        specs = function.structured_input_signature[1]
        outputs = function(**{k: tf.constant(v, specs[k].dtype) for k, v in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}


class Asker:
    """Makes requests and looks at their answers.

    Args:
        client: the Client.
        texts: what is asked, at random.
        rows: rows of a request at most.
    """

    def __init__(self, client, texts: list[str], rows: int = 1):
        self._client, self._texts, self._rows = client, texts, rows
        self._state = client.session().state

    def ask(self, kind: str, tokens: int, rng: np.random.Generator) -> None:
        """Make a request.

        Args:
            kind: of `KINDS`.
            tokens: tokens to write.
            rng: what is random about it.

        Raises:
            ConnectionError: if there is no answer.
            RuntimeError: if the whole request is refused.
            ValueError: if the answer is not one to a request without anything wrong.
        """
        if kind == "session":
            session = self._client.session()
            session.read(str(rng.choice(self._texts)))
            session.generate(max_new_tokens=tokens, seed=int(rng.integers(2**32)))
            return
        outputs = self._client.call(kind, self._inputs(kind, tokens, rng))
        wrong = [one.decode() for one in outputs["message"] if one]
        wrong += [
            f"`{name}` is not finite"
            for name, value in outputs.items()
            if value.dtype.kind == "f" and not np.isfinite(value).all()
        ]
        if wrong:
            raise ValueError("; ".join(wrong))

    def _inputs(self, kind, tokens, rng):
        rows = int(rng.integers(1, self._rows + 1))
        texts = [str(rng.choice(self._texts)) for _ in range(rows)]
        width = int(rng.integers(1, 64))
        values = {
            "text": texts,
            "token_ids": rng.integers(*_IDS, (rows, width)),
            "lengths": rng.integers(1, width + 1, rows),
            # A request takes as long as its longest row.
            "max_new_tokens": [tokens, *rng.integers(1, tokens + 1, rows - 1)],
            "temperature": rng.uniform(0, 1.5, rows),
            "top_k": rng.integers(0, 50, rows),
            "top_p": rng.uniform(0.1, 1, rows),
            "seed": rng.integers(0, 2**32, rows),
        }
        names, has_state = SIGNATURES[kind]
        state = self._state if has_state else {}
        repeated = {name: np.repeat(value, rows, axis=0) for name, value in state.items()}
        return {**{name: values[name] for name in names}, **repeated}


def parse_mix(text: str) -> dict[str, float]:
    """Return weights by kind, from `score=8,generate=1`; `all` for all kinds alike."""
    if text == "all":
        return dict.fromkeys(KINDS, 1.0)
    try:
        mix = {
            name: float(weight) for name, weight in (part.split("=") for part in text.split(","))
        }
    except ValueError:
        mix = {}
    if not mix or set(mix) - set(KINDS) or min(mix.values()) < 0 or not sum(mix.values()):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be like score=8,generate=1, or all; kinds are {', '.join(KINDS)}."
        )
    return mix


def run(
    asker: Asker,
    mix: dict[str, float],
    requests: int,
    concurrency: int,
    tokens: int,
    seed: int = 0,
) -> dict:
    """Make requests, several at a time.

    Args:
        asker: what makes them.
        mix: weights by kind.
        requests: how many in all.
        concurrency: how many at a time.
        tokens: tokens to write.
        seed: of the choice of kinds and of all that is random.

    Returns:
        Dict of `requests`, `concurrency`, `cores`, `seconds` in all, `milliseconds` of every
        answer by kind, `errors`, how often each, and `memory_mb`, this process's, before all
        requests and after each tenth of them; zeros where the system does not tell.
    """
    for kind in mix:
        # What is slow once is not what a load test is about.
        asker.ask(kind, 1, np.random.default_rng(seed))
    weights = np.array(list(mix.values())) / sum(mix.values())
    plan = np.random.default_rng(seed).choice(list(mix), requests, p=weights)
    milliseconds, errors, memory = {kind: [] for kind in mix}, [], [memory_mb()]

    def one(number):
        kind = str(plan[number])
        begin = time.perf_counter()
        try:
            asker.ask(kind, tokens, np.random.default_rng([seed, number]))
        except (ConnectionError, RuntimeError, ValueError) as error:
            errors.append(f"{kind}: {error}"[:300])
            return
        milliseconds[kind].append(1000 * (time.perf_counter() - begin))

    with Progress(transient=True) as progress, ThreadPoolExecutor(concurrency) as pool:
        begin = time.perf_counter()
        answers = progress.track(pool.map(one, range(requests)), requests, description="requests")
        for number, _ in enumerate(answers, 1):
            if number % max(1, requests // 10) == 0:
                memory.append(memory_mb())
    return {
        "requests": requests,
        "concurrency": concurrency,
        "cores": os.cpu_count(),
        "seconds": time.perf_counter() - begin,
        "milliseconds": milliseconds,
        "errors": Counter(errors),
        "memory_mb": memory,
    }


def memory_mb() -> int:
    """Return the memory of this process that is in use, 0 where the system does not tell."""
    place = Path("/proc/self/statm")
    if not place.exists():
        return 0
    return round(int(place.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)


def show(console: Console, found: dict, where: str) -> None:
    """Print a table, the errors, and a sentence.

    Args:
        console: where to.
        found: what `run` returned.
        where: what was asked.
    """
    table = Table("request", *(f"p{p} (ms)" for p in PERCENTILES), "longest (ms)", "answers")
    parts = found["milliseconds"]
    everything = [one for part in parts.values() for one in part]
    for kind, values in (*parts.items(), ("all", everything)):
        if values:
            numbers = [*np.percentile(values, PERCENTILES), max(values)]
            table.add_row(kind, *(f"{one:,.1f}" for one in numbers), f"{len(values):,}")
    console.print(table)
    count, failed, seconds = len(everything), sum(found["errors"].values()), found["seconds"]
    lines = [f"{count} times: {error}" for error, count in found["errors"].most_common(5)]
    lines.append(
        f"{where} gave {count:,} answers in {seconds:.1f} s, {count / seconds:.1f} a second; "
        f"{failed:,} requests failed."
    )
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default="http://localhost:8501")
    parser.add_argument("--model", default="my_lm")
    parser.add_argument("--in-process", type=Path, metavar="DIR", help="a version directory")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--mix", type=parse_mix, default=parse_mix("score=6,generate=2,session=1"))
    parser.add_argument("--rows", type=int, default=1, help="rows of a request at most")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to write")
    parser.add_argument("--texts", type=Path, help="a file, a text a line")
    parser.add_argument("--json", type=Path, help="write every figure to a file, too")
    args = parser.parse_args(arguments)
    for name in ("requests", "concurrency", "rows", "tokens"):
        if getattr(args, name) < 1:
            parser.error(f"`--{name}` must be at least 1; received {getattr(args, name)}.")
    texts = TEXTS
    if args.texts is not None:
        texts = [line for line in args.texts.read_text("utf-8").splitlines() if line]
        if not texts:
            parser.error(
                f"`--texts {args.texts}` has no text in it; give a file with a text a line."
            )

    from fwl_keras.serving.client import Client

    console = Console()
    if args.in_process is None:
        where = args.server
        client = Client.rest(args.server, args.model)
    else:
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  (the tokeniser's operations)

        where = str(args.in_process)
        with console.status("Loading"):
            client = Client(InProcess(tf.saved_model.load(where)))
    try:
        asker = Asker(client, texts, args.rows)
        found = run(asker, args.mix, args.requests, args.concurrency, args.tokens)
    except (ConnectionError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    show(console, found, where)
    if args.in_process is not None:
        console.print("Memory in MB, before all and after each tenth:", *found["memory_mb"])
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return 1 if found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
