"""Whether training should carry the state: four small models, read with it and without.

Models of the quickstart's size differ in how the block consolidates (segments of 64 tokens, or the
published rule: one segment for ever) and in what training reads: windows drawn at random, each
with a fresh state, or whole documents with the state carried from window to window (truncated
backpropagation through time). Seed and number of training tokens are the same. All four then read
the held-out documents that are longer than 8 windows, once with the state reset at every window
and once with it carried to the document's end.

Trainings are runs that continue where they were interrupted, and every reading that is finished is
kept, so that the table can be filled over several sittings.

    python -m benchmarks.carried_training              # about 20 minutes on 2 cores
    python -m benchmarks.carried_training --show       # the table of what is finished
"""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import fwl_keras  # noqa: F401  (registers the classes that the runs' models are made of)
from benchmarks.common import make_parser, read_results, write_json
from benchmarks.environment import environment
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.evaluation import document_losses
from fwl_keras.evaluation.bootstrap import bootstrap_interval
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.run_text import RunText, prepare_text, reload_text
from fwl_keras.runs.train import train

RUNS = Path("runs") / "carried_training"
MODELS = {
    "segments of 64, random windows": {"segment_length": 64, "carry_state": False},
    "segments of 64, documents": {"segment_length": 64, "carry_state": True},
    "published rule, random windows": {"segment_length": None, "carry_state": False},
    "published rule, documents": {"segment_length": None, "carry_state": True},
}
SEGMENTS_CARRIED, PUBLISHED = "segments of 64, documents", "published rule"
READINGS = ("reset", "carried")
MIN_WINDOWS = 8
RESAMPLES = 10_000


def directory_of(runs: Path, name: str) -> Path:
    """Return where a model's run is."""
    return runs / name.replace(",", "").replace(" ", "_")


def load_text(runs: Path, config: RunConfig, console: Console) -> tuple[RunConfig, RunText]:
    """Return the corpus with the tokeniser of the runs that were begun, or with a new one."""
    for name in MODELS:
        directory = directory_of(runs, name)
        if (directory / "config.json").exists():
            run = RunDirectory.open(directory)
            tokenizer = SentencePieceTokenizer.load(run.tokenizer)
            expected = json.loads(run.corpus.read_text("utf-8"))
            config = config.replace(vocab_size=tokenizer.vocab_size)
            return config, reload_text(config, tokenizer, expected)
    return prepare_text(config, console.print, steps_given=True)


def trained(runs: Path, name: str, base: RunConfig, text: RunText, console: Console):
    """Return a model's run, trained to its end, and its configuration."""
    directory = directory_of(runs, name)
    config = base.replace(**MODELS[name])
    # As many tokens as the others: documents leave a part of their last window empty.
    tokens = base.steps * base.batch_size * base.length
    config = config.replace(steps=round(tokens / text.batches(config).tokens_per_step))
    if (directory / "config.json").exists():
        run = RunDirectory.open(directory)
        if RunConfig.load(run.config) != config:
            raise SystemExit(f"`{directory}` has another configuration; move it away.")
    else:
        run = RunDirectory.create(directory, config, text.tokenizer, text.description())
    if not run.finished:
        train(run, config, text, console, title=f"{name:30}")
    return run, config


def long_documents(text: RunText, length: int, limit: int | None) -> tuple[list[str], list]:
    """Return names and token ids of the held-out documents longer than MIN_WINDOWS windows."""
    documents = (*text.corpus.valid, *text.corpus.test)
    encoded = text.tokenizer.encode_arrays([document.text for document in documents])
    kept = [
        (document.name, ids)
        for document, ids in zip(documents, encoded, strict=True)
        if len(ids) > MIN_WINDOWS * length
    ][:limit]
    if not kept:
        raise SystemExit(f"No held-out document has more than {MIN_WINDOWS * length} tokens.")
    names, ids = zip(*kept, strict=True)
    return list(names), list(ids)


def fill(results: dict, args, base: RunConfig, console: Console) -> None:
    """Train and read what is missing, keeping every result at once."""
    base, text = load_text(args.runs, base, console)
    names, ids = long_documents(text, base.length, args.documents)
    documents = {"names": names, "tokens": [len(one) for one in ids]}
    if results["documents"] not in ({}, documents):
        raise SystemExit(f"`{args.results}` is about other documents; move it away to start anew.")
    results["documents"] = documents
    for number, name in enumerate(MODELS, 1):
        cell = results["models"].setdefault(name, {})
        missing = [reading for reading in READINGS if reading not in cell]
        if not missing:
            continue
        console.print(f"model {number} of {len(MODELS)}: {name}")
        keras.backend.clear_session()
        run, config = trained(args.runs, name, base, text, console)
        lm = keras.saving.load_model(run.model, compile=False)
        cell["steps"] = config.steps
        cell["training_tokens"] = round(config.steps * text.batches(config).tokens_per_step)
        cell["training_perplexity"] = finite(run.read_metrics()[-1]["perplexity"])
        cell["decays"] = {weight: finite(x.mean()) for weight, x in lm.block.decays().items()}
        cell["step_sizes"] = {
            weight: finite(x.mean()) for weight, x in lm.block.step_sizes().items()
        }
        for reading in missing:
            losses = document_losses(
                lm,
                ids,
                length=config.length,
                batch_size=config.batch_size,
                eos_id=text.tokenizer.eos_id,
                pad_id=text.tokenizer.pad_id,
                carry=reading == "carried",
                progress=True,
            )
            cell[reading] = {"nll": [finite(one.sum(dtype="float64")) for one in losses]}
            write_json(args.results, results)


def finite(value) -> float | None:
    """Return a number for a JSON file, which has none that is not finite."""
    return float(value) if np.isfinite(value) else None


def mean_nll(results: dict, name: str, reading: str) -> float | None:
    """Return nats per token over all documents; None where a document's are not finite."""
    nll = results["models"].get(name, {}).get(reading, {}).get("nll", [None])
    return None if None in nll else sum(nll) / sum(results["documents"]["tokens"])


def log_ratio(results: dict, better: tuple[str, str], other: tuple[str, str]) -> dict | None:
    """Return the log of a ratio of two perplexities, with a 95 % interval over documents."""
    if mean_nll(results, *better) is None or mean_nll(results, *other) is None:
        return None
    ours, theirs = (np.array(results["models"][n][r]["nll"]) for n, r in (better, other))
    tokens = np.array(results["documents"]["tokens"])
    low, high = bootstrap_interval(ours - theirs, tokens, resamples=RESAMPLES)
    return {
        "log_ratio": float((ours - theirs).sum() / tokens.sum()),
        "low": float(low),
        "high": float(high),
    }


def percent(ratio: dict | None) -> str:
    """Write a log-ratio with its interval as a change in percent."""
    if ratio is None:
        return "-"
    values = [100 * np.expm1(ratio[key]) for key in ("log_ratio", "low", "high")]
    return "{:+.1f} % ({:+.1f} to {:+.1f})".format(*values)


def compare(results: dict) -> dict:
    """Compare perplexities: of every model with itself, and of the others with the best idea."""
    comparisons = {
        f"{name}: carried against reset": log_ratio(results, (name, "carried"), (name, "reset"))
        for name in MODELS
    }
    ours = SEGMENTS_CARRIED, "carried"
    for name in MODELS:
        for reading in READINGS:
            if name != SEGMENTS_CARRIED:
                key = f"{SEGMENTS_CARRIED}, carried, against {name}, {reading}"
                comparisons[key] = log_ratio(results, ours, (name, reading))
    return comparisons


def show(results: dict, console: Console) -> None:
    """Print the table."""
    tokens = results["documents"].get("tokens", [])
    table = Table(
        "trained with",
        "reset at every window",
        "carried",
        "carried against reset (95 %)",
        title=f"perplexity per token, {len(tokens)} held-out documents, {sum(tokens):,} tokens",
    )
    for name in MODELS:
        cells = []
        for reading in READINGS:
            mean = mean_nll(results, name, reading)
            done = reading in results["models"].get(name, {})
            if mean is not None and mean < 300:
                cells.append(f"{np.exp(mean):,.2f}")
            else:
                cells.append("diverged" if done else "-")
        table.add_row(name, *cells, percent(log_ratio(results, (name, "carried"), (name, "reset"))))
    console.print(table)


def verdict(results: dict) -> str:
    """Write the closing sentence, whatever came out."""
    done = sum(reading in cell for cell in results["models"].values() for reading in READINGS)
    if done < len(MODELS) * len(READINGS):
        return f"{done} of {len(MODELS) * len(READINGS)} readings are finished."
    carried, reset = (mean_nll(results, SEGMENTS_CARRIED, reading) for reading in READINGS[::-1])
    if carried is None or reset is None:
        return f"The model of {SEGMENTS_CARRIED} diverged."
    gain = -100 * np.expm1(carried - reset)
    aim = "at least the 8 % hoped for" if gain >= 8 else "less than the 8 % hoped for"
    others = [mean_nll(results, name, "carried") for name in MODELS if name.startswith(PUBLISHED)]
    others = [mean for mean in others if mean is not None]
    against = "the published rule carried on diverged"
    if others:
        difference = -100 * np.expm1(max(carried - min(others), -300.0))
        word = "better" if difference > 0 else "WORSE"
        against = f"{abs(difference):.1f} % {word} than the better published rule carried on"
    return (
        f"Trained on documents with the state carried, segments of 64 read with it carried are "
        f"{gain:.1f} % better than reset at every window ({aim}), and {against}."
    )


def main() -> None:
    """Fill in what is missing, print the table, keep the comparisons."""
    parser = make_parser(__file__, __doc__, resumable=True)
    parser.add_argument("--steps", type=int, help="training steps of random windows")
    parser.add_argument("--documents", type=int, help="read so many documents only")
    parser.add_argument("--runs", type=Path, default=RUNS, help="directory of the four runs")
    args = parser.parse_args()

    base = RunConfig.from_preset("quickstart", steps=args.steps)
    settings = {**json.loads(base.to_json()), "min_windows": MIN_WINDOWS}
    for name in MODELS[SEGMENTS_CARRIED]:
        del settings[name]
    if args.documents is not None:
        settings["documents"] = args.documents
    new = {
        "command": args.command,
        "unit": "nats; `nll` is the sum over a document's tokens",
        "settings": settings,
        "environment": environment(),
        "documents": {},
        "models": {},
    }
    results = read_results(args, new)
    console = Console()
    if not args.show:
        fill(results, args, base, console)
        write_json(args.results, {**results, "comparisons": compare(results)})
    show(results, console)
    print(f"{verdict(results)} Figures in {args.results}.")


if __name__ == "__main__":
    main()
