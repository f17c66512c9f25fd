"""What the measurements share: options, results, texts, and a small model."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from fwl_keras.data import (
    SentencePieceTokenizer,
    evaluation_windows,
    load_corpus,
    token_stream,
)
from fwl_keras.files import replace_file
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.quickstart import BASELINE, FAST

if TYPE_CHECKING:
    import keras_hub

RESULTS = Path(__file__).parent / "results"


def make_parser(file: str, doc: str, *, resumable: bool = False) -> argparse.ArgumentParser:
    """Return a parser of the options that all measurements have.

    Args:
        file: the measurement's `__file__`.
        doc: its `__doc__`, whose first line says what is measured.
        resumable: whether its results are filled in over several sittings.
    """
    name = Path(file).stem
    command = f"python -m benchmarks.{name}"
    parser = argparse.ArgumentParser(prog=command, description=doc.partition("\n")[0])
    parser.set_defaults(command=command)
    results = RESULTS / f"{name}.json"
    parser.add_argument("--results", type=Path, default=results, help="JSON file of the figures")
    if resumable:
        parser.add_argument("--show", action="store_true", help="print what is finished and stop")
    return parser


def read_results(args: argparse.Namespace, new: dict) -> dict:
    """Return what earlier sittings have finished; `new`, with its settings, where none did.

    Args:
        args: parsed options; with `--show` the results' settings may be any.
        new: results in which nothing is finished yet.
    """
    if not args.results.exists():
        return new
    kept = json.loads(args.results.read_text("utf-8"))
    if not args.show and kept["settings"] != new["settings"]:
        raise SystemExit(f"`{args.results}` has other settings; move it away to start anew.")
    return kept


def write_json(path: Path, values: dict) -> None:
    """Write a JSON file in one step, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2) + "\n"
    replace_file(path, lambda beside: beside.write_text(text, "utf-8"))


def perplexity(losses: np.ndarray, digits: int) -> float | None:
    """Return exp of the mean loss; None where the model's losses are not finite."""
    mean = float(np.mean(losses, dtype="float64"))
    return round(float(np.exp(mean)), digits) if np.isfinite(mean) and mean < 300 else None


def quickstart_models(path: Path) -> dict[str, keras.Model]:
    """Load both models of a finished quickstart, by name, to write greedily."""
    models = {name: load_run_model(path / name) for name in (FAST, BASELINE)}
    for lm in models.values():
        lm.compile(sampler="greedy")
    return models


def held_out_ids(run: RunDirectory) -> list[np.ndarray]:
    """Return the token ids of every held-out document of a run's corpus."""
    config = RunConfig.load(run.config)
    corpus = load_corpus(config.corpus, text_field=config.text_field)
    tokenizer = SentencePieceTokenizer.load(run.tokenizer)
    return tokenizer.encode_arrays([d.text for d in (*corpus.valid, *corpus.test)])


def load_text(
    settings: dict, tokenizer_file: Path | None = None
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the number of ids, the training stream, and held-out windows [N, length + 1].

    Args:
        settings: `corpus`, `vocab_size`, `length` and `valid_tokens`.
        tokenizer_file: where the tokeniser is kept from one sitting to the next, if it is.
    """
    corpus = load_corpus(settings["corpus"])
    if tokenizer_file is not None and tokenizer_file.exists():
        tokenizer = SentencePieceTokenizer.load(tokenizer_file)
    else:
        texts = [document.text for document in corpus.train]
        tokenizer = SentencePieceTokenizer.train(texts, settings["vocab_size"])
        if tokenizer_file is not None:
            tokenizer_file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(tokenizer_file, tokenizer.save)
    train, valid = (
        token_stream(tokenizer.encode([d.text for d in part]), eos_id=tokenizer.eos_id)
        for part in (corpus.train, corpus.valid)
    )
    windows = evaluation_windows(valid[: settings["valid_tokens"] + 1], settings["length"])
    return tokenizer.vocab_size, train, windows


def small_gemma(settings: dict, vocab_size: int) -> "keras_hub.models.GemmaBackbone":
    """Make a body of four heads.

    Args:
        settings: `layers` and `width`.
        vocab_size: number of ids.
    """
    import keras_hub

    return keras_hub.models.GemmaBackbone(
        vocabulary_size=vocab_size,
        num_layers=settings["layers"],
        hidden_dim=settings["width"],
        intermediate_dim=6 * settings["width"],
        num_query_heads=4,
        num_key_value_heads=4,
        head_dim=settings["width"] // 4,
    )


def warm_adamw(settings: dict, steps: int, learning_rate: float) -> keras.optimizers.AdamW:
    """Make an optimiser whose rate warms up for a tenth of the steps, then goes half a cosine down.

    Args:
        settings: `weight_decay`.
        steps: steps in all.
        learning_rate: the highest rate.
    """
    warmup = max(1, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, 0.05, warmup_target=learning_rate, warmup_steps=warmup
    )
    decay = settings["weight_decay"]
    return keras.optimizers.AdamW(schedule, weight_decay=decay, beta_2=0.98, clipnorm=1.0)
