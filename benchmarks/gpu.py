"""What fast weights cost on an accelerator, and what they gain there in a few minutes (JAX).

One after the other, the figures kept after each: the rate of bare matrix products in bfloat16; the
block, forward and a training step, against a plain head and against its products at that rate; a
step of a model of about 100 million parameters; and, with the time that is left, that model
trained with and without fast weights on the Python sources that the machine has, its perplexity
read in windows and with the state carried through every file.

    KERAS_BACKEND=jax python -m benchmarks.gpu           # 8 minutes; or benchmarks/gpu.sh
    KERAS_BACKEND=jax python -m benchmarks.gpu --tiny    # small sizes, to see that it runs
"""

import sysconfig
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np
from rich.console import Console

from benchmarks.common import make_parser, perplexity, write_json
from benchmarks.environment import environment
from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.data import SentencePieceTokenizer, TrainingBatches, token_stream
from fwl_keras.evaluation import document_losses


@dataclass(frozen=True)
class Sizes:
    """What is computed.

    Attributes:
        matrix: rows and columns of the bare product's matrices.
        vocabularies: of the block alone.
        batch: rows of the block's text.
        length: tokens a row.
        width: of features, block and model.
        layers: of the model.
        heads: of its attention.
        vocabulary: of the model.
        window: tokens that the model reads at once.
        rows: windows in a batch of the model.
        characters: of the text that is learned.
        held_out: characters of the text that is not.
        dtype: policy of block and model.
    """

    matrix: int = 8192
    vocabularies: tuple[int, ...] = (50_000, 256_000)
    batch: int = 8
    length: int = 1024
    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 16_384
    window: int = 512
    rows: int = 32
    characters: int = 40_000_000
    held_out: int = 2_000_000
    dtype: str = "mixed_bfloat16"


TINY = Sizes(64, (300,), 2, 16, 8, 1, 2, 400, 16, 4, 100_000, 5_000)
SEGMENT = 128
# Products with the vocabulary: benchmarks/README.md.
PRODUCTS = {"plain head": (1, 4), "one segment": (3, 11), "segments": (3, 11)}
WAYS = {"fast weights": True, "without": False}
LEARNING_RATE = 6e-4
# Steps that a training step is timed by.
TIMED = 10


def main() -> None:
    """Measure one thing after the other, for as long as there is time."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="when to be done")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    args = parser.parse_args()
    if keras.backend.backend() != "jax":
        raise SystemExit("This measures JAX; set KERAS_BACKEND=jax.")
    ends = time.monotonic() + 60 * args.minutes
    sizes, console = TINY if args.tiny else Sizes(), Console()
    device = jax.devices()[0]
    results = {
        "command": args.command,
        "unit": "seconds are medians; perplexity per token",
        "environment": environment() | {"device": device.device_kind},
        "sizes": vars(sizes),
    }

    def keep(name, found):
        results[name] = found
        write_json(args.results, results)
        console.print(f"{name}: {found}")

    rate = matrix_rate(sizes.matrix)
    keep("matrix_rate", rate)
    keep("block", [row for v in sizes.vocabularies for row in block_rows(sizes, v, rate)])
    text = read_text(sizes)
    keep("text", {name: len(value) for name, value in text.items() if name != "tokenizer"})
    models = {name: build_model(sizes, fast) for name, fast in WAYS.items()}
    took = {name: step_seconds(lm, text["train"], sizes) for name, lm in models.items()}
    parameters = sum(int(np.prod(v.shape)) for v in models["without"].trainable_variables)
    keep("model", {"parameters": parameters, "step_seconds": took})
    # What compiling both anew and reading the held-out files take.
    left = ends - time.monotonic() - 180
    steps = int(left / sum(took.values()))
    if args.tiny:
        steps = 20
    if steps < 20:
        raise SystemExit(f"No time is left to train; figures in `{args.results}`.")
    trained = {"steps": steps, "tokens": steps * sizes.rows * sizes.window}
    for name in WAYS:
        trained[name] = train_and_read(build_model(sizes, WAYS[name]), text, sizes, steps)
        keep("trained", trained)
    print(f"Trained two models for {steps:,} steps on {device.device_kind}; all in {args.results}.")


def median_seconds(call: Callable, repeats: int = 5) -> float:
    """Return how long a call takes once it is compiled."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def matrix_rate(size: int) -> float:
    """Return the operations a second of a square product in bfloat16."""
    a, b = (jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16) for i in (0, 1))
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / median_seconds(lambda: product(a, b), 20)


def block_rows(sizes: Sizes, vocab_size: int, rate: float) -> Iterator[dict]:
    """Yield seconds and peak bytes of the block on random features, way by way."""
    rng = np.random.default_rng(0)
    shape = sizes.batch, sizes.length
    x = jnp.asarray(rng.normal(size=(*shape, sizes.width)), "bfloat16")
    labels = jnp.asarray(rng.integers(0, vocab_size, shape), "int32")
    for way, products in PRODUCTS.items():
        block = FWLBlock(
            sizes.width,
            vocab_size,
            segment_length=SEGMENT if way == "segments" else None,
            use_fast_weights=way != "plain head",
            initial_step_size=1e-4,
            dtype=sizes.dtype,
        )
        block.build((None, None, sizes.width))
        trainable = [v.value for v in block.trainable_variables]
        fixed = [v.value for v in block.non_trainable_variables]

        def loss(trainable, x, block=block, fixed=fixed):
            found, _ = block.stateless_call(trainable, fixed, x, labels=labels, output="loss")
            return jnp.mean(found["loss"])

        calls = {"forward": jax.jit(loss), "training": jax.jit(jax.grad(loss, argnums=(0, 1)))}
        for (work, call), count in zip(calls.items(), products, strict=True):
            took = median_seconds(lambda call=call, w=trainable: call(w, x))
            floor = count * 2 * x.size * vocab_size / rate
            yield {
                "vocab_size": vocab_size,
                "way": way,
                "work": work,
                "seconds": round(took, 6),
                "to_products": round(took / floor, 3),
                "peak_bytes": peak_bytes(),
            }


def peak_bytes() -> int | None:
    """Return the most device memory in use so far, where the device says it."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def build_model(sizes: Sizes, fast: bool) -> FWLCausalLM:
    """Return a Transformer with a block on top, tied to its embedding, ready to train."""
    keras.utils.set_random_seed(0)
    policy = {"dtype": sizes.dtype}
    embedding = keras.layers.ReversibleEmbedding(sizes.vocabulary, sizes.width, **policy)
    ids = keras.Input((None,), dtype="int32")
    places = keras.layers.Embedding(sizes.window, sizes.width, **policy)
    x = embedding(ids) + places(keras.ops.arange(sizes.window)[: keras.ops.shape(ids)[1]])
    for _ in range(sizes.layers):
        normal = keras.layers.LayerNormalization(**policy)(x)
        attention = keras.layers.MultiHeadAttention(
            sizes.heads, sizes.width // sizes.heads, **policy
        )
        x = x + attention(normal, normal, use_causal_mask=True)
        normal = keras.layers.LayerNormalization(**policy)(x)
        hidden = keras.layers.Dense(4 * sizes.width, activation="gelu", **policy)(normal)
        x = x + keras.layers.Dense(sizes.width, **policy)(hidden)
    x = keras.layers.LayerNormalization(**policy)(x)
    block = FWLBlock(
        sizes.width,
        sizes.vocabulary,
        segment_length=min(SEGMENT, sizes.window // 4),
        unembedding=embedding,
        residual=True,
        use_fast_weights=fast,
        dtype=sizes.dtype,
    )
    return FWLCausalLM(keras.Model(ids, x), block, context_length=sizes.window)


def read_text(sizes: Sizes) -> dict:
    """Return the machine's Python sources as a training stream and held-out documents' ids."""
    kept = {"train": [], "test": []}
    room = {"train": sizes.characters, "test": sizes.held_out}
    for text in python_sources():
        split = "test" if zlib.crc32(text.encode()) % 20 == 0 else "train"
        if room[split] > 0:
            kept[split].append(text)
            room[split] -= len(text)
        if max(room.values()) <= 0:
            break
    tokenizer = SentencePieceTokenizer.train(
        kept["train"], sizes.vocabulary, max_characters=10_000_000
    )
    eos_id = tokenizer.eos_id
    train = token_stream(tokenizer.encode_arrays(kept["train"]), eos_id=eos_id)
    return {
        "tokenizer": tokenizer,
        "train": train,
        "test": [ids for ids in tokenizer.encode_arrays(kept["test"]) if len(ids)],
    }


def python_sources() -> Iterator[str]:
    """Yield every Python file that there is, each text once, in an order that names decide."""
    seen, roots = set(), {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    files = {path for root in roots for path in Path(root).rglob("*.py")}
    for path in sorted(files, key=lambda path: (zlib.crc32(path.name.encode()), path)):
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        # Copies would be held out and learned at once; most short files are empty.
        if len(text) > 1000 and text not in seen:
            seen.add(text)
            yield text


def fit(lm: FWLCausalLM, stream: np.ndarray, sizes: Sizes, steps: int, schedule: int) -> float:
    """Train for some steps of a schedule; return the seconds."""
    warm = max(1, min(200, schedule // 10))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, schedule - warm, alpha=0.05, warmup_target=LEARNING_RATE, warmup_steps=warm
    )
    if not lm.compiled:
        lm.compile(keras.optimizers.AdamW(rate, beta_2=0.95, weight_decay=0.1, clipnorm=1.0))
    batches = TrainingBatches(stream, sizes.window, sizes.rows, steps=steps, seed=0)
    began = time.perf_counter()
    lm.fit(batches.for_fit(), steps_per_epoch=steps, shuffle=False, verbose=2)
    return time.perf_counter() - began


def step_seconds(lm: FWLCausalLM, stream: np.ndarray, sizes: Sizes) -> float:
    """Return how long a training step takes, compiling aside."""
    fit(lm, stream, sizes, 3, 1000)
    return fit(lm, stream, sizes, TIMED, 1000) / TIMED


def train_and_read(lm: FWLCausalLM, text: dict, sizes: Sizes, steps: int) -> dict:
    """Train a model and read held-out files, in windows and carried."""
    found = {"seconds": fit(lm, text["train"], sizes, steps, steps)}
    settings = {"length": sizes.window, "batch_size": sizes.rows, "pad_id": 0}
    settings["eos_id"] = text["tokenizer"].eos_id
    for name, carry in {"windows": False, "carried": True}.items():
        if carry and not lm.block.use_fast_weights:
            continue
        losses = document_losses(lm, text["test"], carry=carry, **settings)
        found[f"perplexity_{name}"] = perplexity(np.concatenate(losses), 3)
    return found


if __name__ == "__main__":
    main()
