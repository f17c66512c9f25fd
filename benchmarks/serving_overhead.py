"""What serving costs: a cold start, and an answer of the SavedModel against one of the Keras model.

The same texts, in turn, in one process and one at a time: `lm.score` and the signature `score`,
`lm.generate` and the signature `generate`, greedy. Cold starts are measured in processes of their
own, from before Python begins to the first answer.

    fwl-keras quickstart --to runs/quickstart
    python -m benchmarks.serving_overhead runs/quickstart        # about 5 minutes
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.common import make_parser, write_json
from benchmarks.environment import environment
from fwl_keras.data import load_corpus
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.export import export_run
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.quickstart import FAST
from fwl_keras.serving.export import ABOUT

REPEATS, STARTS = 15, 3
# Tokens of the texts, and tokens to write.
SCORED, PROMPT, WRITTEN = (16, 200, 1000), 16, 32

COLD = """
import json, sys, time
import tensorflow as tf, tensorflow_text
imported = time.time()
model = tf.saved_model.load(sys.argv[1])
loaded = time.time()
model.signatures["score"](text=tf.constant(["def main():"]))
print(json.dumps([imported, loaded, time.time()]))
"""


def cold_starts(version: Path, count: int, progress) -> dict:
    """Time importing TensorFlow, loading, and the first answer; medians in seconds."""
    parts = []
    for _ in progress.track(range(count), description="cold starts"):
        begin = time.time()
        command = [sys.executable, "-c", COLD, str(version)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        times = [begin, *json.loads(result.stdout.splitlines()[-1])]
        parts.append([*np.diff(times), times[-1] - begin])
    names = ("import_tensorflow", "load", "first_answer", "all")
    return dict(zip(names, np.median(parts, axis=0).tolist(), strict=True))


def in_turn(ways: dict, repeats: int, progress, description: str) -> dict:
    """Time calls, made in turn: median milliseconds, and the median of their ratios."""
    for call in ways.values():
        # Twice: what is prepared at the first call of a shape is not what is measured.
        call(), call()
    seconds = {name: [] for name in ways}
    for number in progress.track(range(repeats), description=description):
        # Neither is always first.
        for name in sorted(ways, reverse=bool(number % 2)):
            begin = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - begin)
    keras, saved = (np.array(seconds[name]) for name in ("keras", "saved_model"))
    return {
        "keras_ms": float(1000 * np.median(keras)),
        "saved_model_ms": float(1000 * np.median(saved)),
        "ratio": float(np.median(saved / keras)),
    }


def requests(lm, version: Path, text: str, repeats: int, progress) -> dict:
    """Time both ways of scoring and of writing."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (the tokeniser's operations)

    signatures = tf.saved_model.load(str(version)).signatures
    tokenizer = lm.preprocessor.tokenizer
    ids = tokenizer.encode_arrays([text])[0]
    lm.compile(sampler="greedy")
    found = {}
    for tokens in SCORED:
        one = tokenizer.decode(ids[:tokens])
        found[f"score, {tokens:,} tokens"] = in_turn(
            {
                "keras": lambda one=one: lm.score([one]),
                "saved_model": lambda one=one: {
                    name: value.numpy()
                    for name, value in signatures["score"](text=tf.constant([one])).items()
                },
            },
            repeats,
            progress,
            f"score, {tokens} tokens",
        )
    prompt = tokenizer.decode(ids[:PROMPT])
    # The start token is among the tokens that `max_length` counts.
    length = len(tokenizer.encode_arrays([prompt])[0]) + 1 + WRITTEN
    drawing = {
        "max_new_tokens": tf.constant([WRITTEN]),
        "temperature": tf.constant([0.0]),
        "top_k": tf.constant([0]),
        "top_p": tf.constant([1.0]),
        "seed": tf.constant([0], tf.int64),
    }
    ways = {
        "keras": lambda: lm.generate([prompt], length, strip_prompt=True)[0],
        "saved_model": lambda: (
            signatures["generate"](text=tf.constant([prompt]), **drawing)["text"]
            .numpy()[0]
            .decode()
        ),
    }
    written = {name: call() for name, call in ways.items()}
    if len(set(written.values())) > 1:
        raise SystemExit(
            f"The two do not write the same, so there is nothing to compare: {written}"
        )
    name = f"generate, {PROMPT} + {WRITTEN} tokens"
    found[name] = in_turn(ways, repeats, progress, name)
    return found


def main() -> None:
    """Export, measure, print the tables, keep the figures."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("quickstart", type=Path, help="a finished quickstart")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="how often each is timed")
    args = parser.parse_args()

    run = RunDirectory.open(args.quickstart / FAST)
    config = RunConfig.load(run.config)
    text = load_corpus(config.corpus, text_field=config.text_field).valid
    text = max((document.text for document in text), key=len)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        version = export_run(run.path, Path(folder) / "lm", progress=True)
        seconds = time.perf_counter() - begin
        about = json.loads((version / ABOUT).read_text("utf-8"))
        with Progress(transient=True) as progress:
            cold = cold_starts(version, STARTS, progress)
            found = requests(load_run_model(run.path), version, text, args.repeats, progress)

    results = {
        "command": f"{args.command} runs/quickstart",
        "unit": "medians; ratio: median over pairs of calls, SavedModel over Keras",
        "environment": environment(),
        # Ratios bear company on the machine, times do not.
        "load_average": os.getloadavg()[2],
        "repeats": args.repeats,
        "export_seconds": seconds,
        "bytes": about["bytes"],
        "state_bytes_per_row": about["state_bytes_per_row"],
        "cold_start_seconds": cold,
        "requests": found,
    }
    write_json(args.results, results)

    table = Table("one request", "Keras (ms)", "SavedModel (ms)", "ratio")
    for name, row in found.items():
        table.add_row(
            name, f"{row['keras_ms']:.1f}", f"{row['saved_model_ms']:.1f}", f"{row['ratio']:.2f}"
        )
    console.print(table)
    table = Table("cold start", "seconds")
    for name, value in cold.items():
        table.add_row(name.replace("_", " "), f"{value:.1f}")
    console.print(table)
    ratios = [row["ratio"] for row in found.values()]
    console.print(
        f"A request to the SavedModel takes {min(ratios):.2f} to {max(ratios):.2f} times as long "
        f"as calling the Keras model; the first answer comes {cold['all']:.1f} s after the process "
        f"began. Figures in {args.results}.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
