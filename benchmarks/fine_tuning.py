"""What fast weights do for a model that was trained without them, after a tenth of its steps.

A small Gemma is trained with KerasHub's own `fit` and saved as a preset. Then
`fwl_keras.models.from_preset` adds fast weights, and from there every row is fine-tuned for a tenth
of the model's steps: the block alone, everything, or the block and LoRA; beside them the model
itself, trained on for as long without fast weights, and the block alone with its fast weights off
(what its parameters are worth). All see the same batches, and all read the same held-out text, in
windows and, with the state carried along, as one stream.

Finished rows are kept and skipped, so that the table can be filled over several sittings.

    python -m benchmarks.fine_tuning              # about 15 minutes on 2 cores
    python -m benchmarks.fine_tuning --show       # the table of what is finished
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.common import (
    load_text,
    make_parser,
    perplexity,
    read_results,
    small_gemma,
    warm_adamw,
    write_json,
)
from benchmarks.environment import environment
from fwl_keras.data import TrainingBatches
from fwl_keras.evaluation import stream_losses, token_losses
from fwl_keras.models import from_preset

RUNS = Path("runs") / "fine_tuning"
SETTINGS = {
    "corpus": "python-stdlib",
    "vocab_size": 4096,
    "layers": 2,
    "width": 128,
    "length": 256,
    "batch_size": 8,
    "steps": 1000,
    "learning_rate": 4e-3,
    "weight_decay": 0.05,
    "segment_length": 64,
    "lora_rank": 8,
    "valid_tokens": 40_000,
}
ORIGINAL = "the model"
CONTROLS = "the model, trained on", "the model, trained on, lower rate"
STEP_0, BLOCK = "fast weights added, step 0", "the block alone"
# What is trained, with which highest learning rate, and changes to the block.
ROWS = {
    ORIGINAL: {"trained": None},
    STEP_0: {"trained": None, "block": {}},
    BLOCK: {"trained": "block", "learning_rate": 4e-3, "block": {}},
    CONTROLS[0]: {"trained": "model", "learning_rate": 1e-3},
    # The rate of a model that has come to rest; the higher one stirs it up again.
    CONTROLS[1]: {"trained": "model", "learning_rate": 1e-4},
    "everything": {"trained": "all", "learning_rate": 1e-3, "block": {}},
    "the block and LoRA": {"trained": "lora", "learning_rate": 4e-3, "block": {}},
    "the block alone, fast weights off": {
        "trained": "block",
        "learning_rate": 4e-3,
        "block": {"use_fast_weights": False},
    },
    "step 0, steps a third": {"trained": None, "block": {"initial_step_size": 1e-3}},
    "step 0, steps three times": {"trained": None, "block": {"initial_step_size": 1e-2}},
}


class Bar(keras.callbacks.Callback):
    """A progress bar of training steps, with the loss."""

    def __init__(self, title: str, steps: int) -> None:
        super().__init__()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"))
        self.progress = Progress(
            TextColumn("{task.description}"), *columns, TimeRemainingColumn(), transient=True
        )
        self.task = self.progress.add_task(title, total=steps, loss="-")

    def on_train_begin(self, logs=None):
        self.progress.start()

    def on_train_batch_end(self, batch, logs=None):
        self.progress.update(self.task, advance=1, loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, logs=None):
        self.progress.stop()


def as_keras_hub(ids):
    """Return a batch of windows as KerasHub's preprocessors do: inputs, labels, weights."""
    inputs = ids[:, :-1]
    ones = keras.ops.ones_like(inputs)
    return {"token_ids": inputs, "padding_mask": ones}, ids[:, 1:], keras.ops.cast(ones, "float32")


def fit_keras_hub(causal_lm, batches: TrainingBatches, optimizer, title: str) -> None:
    """Train a model of KerasHub as KerasHub does."""
    causal_lm.compile(optimizer, weighted_metrics=None)
    data = batches.to_tf_dataset().map(as_keras_hub)
    causal_lm.fit(data, verbose=0, shuffle=False, callbacks=[Bar(title, batches.steps)])


def train_original(settings: dict, vocab_size: int, stream: np.ndarray, path: Path) -> None:
    """Train the model without fast weights, and save it as a preset."""
    keras.utils.set_random_seed(0)
    causal_lm = keras_hub.models.GemmaCausalLM(backbone=small_gemma(settings, vocab_size))
    # One more token a window, for it is labels too.
    batches = TrainingBatches(
        stream, settings["length"] + 1, settings["batch_size"], settings["steps"], seed=0
    )
    with_schedule = warm_adamw(settings, settings["steps"], settings["learning_rate"])
    fit_keras_hub(causal_lm, batches, with_schedule, ORIGINAL)
    causal_lm.save_to_preset(str(path))


def keras_hub_losses(causal_lm, windows: np.ndarray) -> np.ndarray:
    """Return what `token_losses` does, of a model that knows nothing of fwl_keras."""
    losses = []
    for start in range(0, len(windows), 8):
        inputs, labels, _ = as_keras_hub(windows[start : start + 8])
        logits = causal_lm.predict_on_batch(inputs).astype("float64")
        largest = logits.max(axis=-1)
        total = largest + np.log(np.exp(logits - largest[..., None]).sum(axis=-1))
        losses.append(total - np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0])
    return np.concatenate(losses)


def run_row(name: str, settings: dict, preset: Path, stream, windows) -> dict:
    """Fine-tune one model and measure it."""
    row = ROWS[name]
    keras.utils.set_random_seed(0)
    steps = settings["steps"] // 10 if row["trained"] else 0
    batches = with_schedule = None
    if steps:
        # Other windows than the model was trained on last, the same for all rows.
        sizes = settings["length"] + 1, settings["batch_size"], steps
        batches = TrainingBatches(stream, *sizes, seed=1)
        with_schedule = warm_adamw(settings, steps, row["learning_rate"])
    if "block" not in row:
        causal_lm = keras_hub.models.CausalLM.from_preset(str(preset))
        if steps:
            fit_keras_hub(causal_lm, batches, with_schedule, name)
        return {"steps": steps, "windows": perplexity(keras_hub_losses(causal_lm, windows), 3)}

    lm = from_preset(preset, segment_length=settings["segment_length"], **row["block"])
    if row["trained"] == "block":
        lm.backbone.trainable = False
    elif row["trained"] == "lora":
        lm.backbone.enable_lora(settings["lora_rank"])
    if steps:
        lm.compile(with_schedule, jit_compile=True)
        bar = Bar(name, steps)
        lm.fit(batches.to_tf_dataset(), verbose=0, shuffle=False, callbacks=[bar])
    result = {
        "steps": steps,
        "trainable": sum(int(np.prod(v.shape)) for v in lm.trainable_variables) if steps else 0,
        "windows": perplexity(token_losses(lm, windows), 3),
    }
    if lm.block.use_fast_weights:
        result["stream"] = perplexity(stream_losses(lm, windows), 3)
        sizes = lm.block.step_sizes()
        result["step_sizes"] = {key: float(f"{x.mean():.3g}") for key, x in sizes.items()}
    return result


def fill(results: dict, args, console: Console) -> None:
    """Train and measure what is missing, keeping every row at once."""
    missing = [name for name in ROWS if name not in results["rows"]]
    if not missing:
        return
    settings = results["settings"]
    vocab_size, stream, windows = load_text(settings, args.runs / "tokenizer.model")
    preset = args.runs / f"preset_{settings['steps']}"
    if not preset.exists():
        console.print(f"training the model: {settings['steps']:,} steps")
        train_original(settings, vocab_size, stream, preset)
    for i, name in enumerate(missing, 1):
        console.print(f"row {i} of {len(missing)}: {name}")
        keras.backend.clear_session()
        found = run_row(name, settings, preset, stream, windows)
        results["rows"][name] = {"learning_rate": ROWS[name].get("learning_rate"), **found}
        write_json(args.results, results)


def show(results: dict, console: Console) -> None:
    """Print the table."""
    tokens = results["settings"]["valid_tokens"]
    table = Table(
        "trained",
        "steps",
        "windows",
        "against the model",
        "stream, state carried",
        title=f"perplexity per token, {tokens:,} held-out tokens",
    )
    original = results["rows"].get(ORIGINAL, {}).get("windows")
    for name in ROWS:
        if name not in results["rows"]:
            continue
        row, change = results["rows"][name], "-"
        if original and row["windows"]:
            change = f"{100 * (row['windows'] / original - 1):+.1f} %"
        values = (f"{row[key]:.2f}" if row.get(key) else "-" for key in ("windows", "stream"))
        windows, stream = values
        table.add_row(name, str(row["steps"]), windows, change, stream)
    console.print(table)


def verdict(results: dict) -> str:
    """Write the closing sentence, whatever came out."""
    rows = results["rows"]
    if len(rows) < len(ROWS):
        return f"{len(rows)} of {len(ROWS)} rows are finished."
    original, step_0, block = (rows[name]["windows"] for name in (ORIGINAL, STEP_0, BLOCK))
    control = min(rows[name]["windows"] for name in CONTROLS)
    if step_0 is None or block is None:
        return "The model with fast weights DIVERGED."
    change, gain = 100 * (step_0 / original - 1), 100 * (1 - block / original)
    trained_on = 100 * (control / original - 1)
    within = "within the 2 % hoped for" if abs(change) <= 2 else "NOT within the 2 % hoped for"
    word = "below" if gain > 0 else "ABOVE"
    return (
        f"Adding fast weights changes the model's perplexity by {change:+.1f} % ({within}); after "
        f"{rows[BLOCK]['steps']} steps of the block alone it is {abs(gain):.1f} % {word} the "
        f"model's (the model itself, trained on for as long: {trained_on:+.1f} %)."
    )


def main() -> None:
    """Fill in what is missing and print the table."""
    parser = make_parser(__file__, __doc__, resumable=True)
    parser.add_argument("--steps", type=int, help="training steps of the model")
    parser.add_argument("--runs", type=Path, default=RUNS, help="directory of tokeniser and preset")
    args = parser.parse_args()
    if args.steps is not None and args.steps < 10:
        parser.error("--steps must be at least 10: rows are trained for a tenth of them")

    new = {
        "command": args.command,
        "unit": "perplexity per token of held-out text",
        "settings": SETTINGS if args.steps is None else {**SETTINGS, "steps": args.steps},
        "environment": environment(),
        "rows": {},
    }
    results = read_results(args, new)
    console = Console()
    if not args.show:
        fill(results, args, console)
    show(results, console)
    print(f"{verdict(results)} Figures in {args.results}.")


if __name__ == "__main__":
    main()
