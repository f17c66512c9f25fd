"""How near the block is to the matrix products that it cannot do without.

Times, in turn in one process and several times, the bare products with the vocabulary of the same
shapes (the floor), a plain head, the published algorithm written plainly, and this package's block
as one segment and in segments: forward and a training step. Peak memory is measured in a process
of its own for each.

    python -m benchmarks.speed                      # the block on words, about 15 minutes, 2 cores
    python -m benchmarks.speed --shape smollm2      # SmolLM2-135M's features and vocabulary
    python -m benchmarks.speed --shape wikitext103 --ways segments --repeats 1   # for its memory
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from benchmarks.common import make_parser, write_json
from benchmarks.environment import environment, peak_resident_bytes, resident_bytes
from benchmarks.published import published_logits, published_loss
from fwl_keras import FWLBlock


@dataclass(frozen=True)
class Shape:
    """What is read.

    Attributes:
        batch: rows B.
        length: tokens a row T.
        width: D, of the body's features, and S, of the block's.
        vocab_size: V.
        segment_length: tokens a segment, where there are segments.
        dtype: policy of the block and dtype of the floor's products.
    """

    batch: int = 4
    length: int = 1024
    width: int = 512
    vocab_size: int = 33_278
    segment_length: int = 128
    dtype: str = "float32"

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return self.batch * self.length


SHAPES = {
    "words": Shape(),
    "smollm2": Shape(batch=1, width=576, vocab_size=49_152),
    "wikitext103": Shape(batch=1, vocab_size=267_735),
    "tiny": Shape(batch=2, length=32, width=16, vocab_size=300, segment_length=8),
}
# Products with the vocabulary that reading and training cannot do without: benchmarks/README.md.
PRODUCTS = {"forward": 3, "training": 11}
PLAIN = "plain head"
# Blocks by their settings; segments have their shape's length where nothing else is said.
BLOCKS = {
    PLAIN: {"use_fast_weights": False},
    "one segment": {"segment_length": None},
    "segments": {},
    "coarse, every token exact": {"inner_loss": "coarse", "exact_every": 1},
    "coarse, every 4th exact": {"inner_loss": "coarse", "exact_every": 4},
    "coarse, none exact": {"inner_loss": "coarse", "exact_every": None},
}
WAYS = ("floor", "published", *BLOCKS)
# Tokens whose products the floor does at once: the fastest there is should be the measure.
FLOOR_TOKENS = 4096


def main() -> None:
    """Time everything in turn, measure peaks, print the table, keep the figures."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--shape", choices=SHAPES, default="words", help="what is read")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is timed")
    parser.add_argument("--dtype", default="float32", help="of the block and of the products")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if keras.backend.backend() != "tensorflow":
        raise SystemExit("This measures TensorFlow; set KERAS_BACKEND=tensorflow.")
    shape = replace(SHAPES[args.shape], dtype=args.dtype)
    if args.peak_of:
        print(json.dumps(peak(*args.peak_of, shape)))
        return

    console = Console()
    rows = {}
    for work in PRODUCTS:
        calls = {way: prepare(way, work, shape) for way in args.ways}
        times = in_turn(calls, args.repeats, console)
        del calls
        for way, took in times.items():
            rows[f"{way}, {work}"] = {
                "seconds": round(float(np.median(took)), 4),
                **ratios(took, times[args.ways[0]]),
                **({"to_plain": ratios(took, times[PLAIN])["ratio"]} if PLAIN in times else {}),
                "peak_bytes": peak_of_child(way, work, args),
            }
            console.print(f"{way}, {work}: {rows[f'{way}, {work}']}")
    ways = "" if args.ways == list(WAYS) else " --ways " + " ".join(map(repr, args.ways))
    results = {
        "command": f"{args.command} --shape {args.shape} --dtype {args.dtype}{ways}",
        "unit": "medians; ratios to the first of the same round",
        "environment": environment(),
        "shape": vars(shape),
        "rows": rows,
    }
    write_json(args.results.with_stem(f"speed_{args.shape}"), results)
    console.print(table(rows, shape))
    print(
        f"Timed {len(rows)} pieces of work {args.repeats} times each; figures in "
        f"{args.results.with_stem(f'speed_{args.shape}')}."
    )


def in_turn(calls: dict, repeats: int, console: Console) -> dict[str, list[float]]:
    """Return the seconds of every call, each timed once a round; the first round compiles."""
    times = {name: [] for name in calls}
    with console.status("compiling") as status:
        for number in range(repeats + 1):
            for name, call in calls.items():
                status.update(f"round {number} of {repeats}: {name}")
                began = time.perf_counter()
                call()
                if number:
                    times[name].append(time.perf_counter() - began)
    return times


def ratios(took: list[float], first: list[float]) -> dict[str, float]:
    """Return the median, the lowest and the highest of ratios of the same round."""
    ratio = np.array(took) / np.array(first)
    found = {"ratio": np.median(ratio), "ratio_low": ratio.min(), "ratio_high": ratio.max()}
    return {name: round(float(value), 3) for name, value in found.items()}


def prepare(way: str, work: str, shape: Shape):
    """Return a call that does one piece of work, ready but for compiling."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(shape.batch, shape.length, shape.width)).astype("float32")
    labels = rng.integers(0, shape.vocab_size, (shape.batch, shape.length)).astype("int32")
    x, labels = tf.constant(x), tf.constant(labels)
    if way == "floor":
        return floor(work, tf.reshape(x, (-1, shape.width)), shape)
    settings = {"dtype": shape.dtype, "initial_step_size": 1e-4}
    if way != "published":
        settings |= {"segment_length": shape.segment_length, **BLOCKS[way]}
    block = FWLBlock(shape.width, shape.vocab_size, **settings)
    block.build((None, None, shape.width))
    variables = [v.value for v in block.trainable_variables]

    if way == "published":
        weights, step_sizes = named_weights(block), tf.constant(1e-4)
        step_sizes = dict.fromkeys(weights, step_sizes)
        arguments, chunks = (weights, step_sizes, x), shape.length // shape.segment_length

        def forward():
            return published_logits(*arguments, labels, chunks)

        def loss():
            return published_loss(*arguments, labels=labels, chunks=chunks)

        variables = [v for v in variables if v.shape.rank]
    else:

        def forward():
            return block(x, labels=labels, output="loss")["loss"]

        def loss():
            return tf.reduce_mean(forward())

    @tf.function
    def train():
        with tf.GradientTape() as tape:
            value = loss()
        # What a training step would hand to its optimiser, without one.
        return [
            tf.reshape(g, (-1,))[0] for g in tape.gradient(value, variables) if g is not None
        ], value

    compiled = tf.function(lambda: tf.reduce_sum(forward()))
    return (lambda: compiled().numpy()) if work == "forward" else (lambda: train()[1].numpy())


def named_weights(block: FWLBlock) -> dict[str, tf.Variable]:
    """Return what `published_logits` takes, of a block's own weights."""
    layers = {
        "expand_": block.expand.fast_weights,
        "project_": block.project.fast_weights,
        "": block.normalization.fast_weights,
    }
    named = {f"{prefix}{n}": v for prefix, layer in layers.items() for n, v in layer.items()}
    named |= {"unembedding_kernel": block.unembedding.kernel}
    named |= {"unembedding_bias": block.unembedding.bias}
    return {name: variable.value for name, variable in named.items()}


def floor(work: str, features: tf.Tensor, shape: Shape):
    """Return a call of the bare products, a few hundred tokens at a time, and nothing else."""
    dtype = {"mixed_bfloat16": "bfloat16"}.get(shape.dtype, shape.dtype)
    features = tf.cast(features / 30, dtype)
    kernel = tf.random.normal((shape.width, shape.vocab_size), stddev=0.02, seed=1)
    kernel = tf.Variable(tf.cast(kernel, dtype))
    at_once = min(FLOOR_TOKENS, shape.tokens)
    pieces = tf.reshape(features, (-1, at_once, shape.width))

    def forth(f):
        return f @ kernel

    def back(z):
        return tf.matmul(z, kernel, transpose_b=True)

    @tf.function
    def forward(f):
        return forth(back(forth(f)))[0, 0]

    @tf.function
    def training(f):
        # Five times forth, three times back; one after the other, as each takes what was before.
        z = f
        for _ in range(3):
            z = back(forth(z))
        left, last = forth(z), forth(f)
        gradients = [tf.matmul(f, one, transpose_a=True)[0, 0] for one in (left, last)]
        return tf.add_n(gradients) + tf.matmul(z, last, transpose_a=True)[0, 0]

    function = forward if work == "forward" else training
    return lambda: [function(f).numpy() for f in pieces]


def peak(way: str, work: str, shape: Shape) -> int:
    """Return the bytes that a piece of work takes beyond what there was before it."""
    call = prepare(way, work, shape)
    before = resident_bytes()
    call()
    return max(0, peak_resident_bytes() - before)


def peak_of_child(way: str, work: str, args: argparse.Namespace) -> int:
    """Measure `peak` in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.speed", "--shape", args.shape]
    command += ["--dtype", args.dtype, "--peak-of", way, work]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: dict, shape: Shape) -> Table:
    """Return the figures as a table."""
    described = ", ".join(f"{name} {value}" for name, value in vars(shape).items())
    ratios = "to the first", "lowest", "highest", "to a plain head"
    made = Table(described, "seconds", *ratios, "extra memory, MB")
    for name, row in rows.items():
        keys = "ratio", "ratio_low", "ratio_high", "to_plain"
        found = (f"{row[key]:.2f}" if key in row else "" for key in keys)
        made.add_row(name, f"{row['seconds']:.2f}", *found, f"{row['peak_bytes'] / 2**20:,.0f}")
    return made


if __name__ == "__main__":
    main()
