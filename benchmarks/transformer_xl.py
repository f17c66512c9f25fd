"""Transformer-XL, the body of the paper, with fast weights and without, memory and all carried.

Two runs of the same body, parameters and batches read whole documents, window after window, the
body's memory carried along and, in one of them, the fast weights' state. Both then read the
validation documents in the same way, and once more with everything reset at every window.

Runs continue where they were interrupted. Needs tf-models-official.

    python -m benchmarks.transformer_xl wikitext-2     # or a directory of your own texts
"""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console
from rich.table import Table

import fwl_keras  # noqa: F401  (registers the classes that the runs' models are made of)
from benchmarks.common import make_parser, write_json
from benchmarks.environment import environment
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.evaluate import evaluate_run
from fwl_keras.runs.train import resume_run, start_run

RUNS = Path("runs") / "transformer_xl"
MODELS = {"Transformer-XL": False, "Transformer-XL + FWL": True}
SETTINGS = {
    "body": "transformer-xl",
    "carry_state": True,
    "segment_length": 64,
    "learning_rate": 2e-3,
    "validation_windows": 0,
}


def measure(run: RunDirectory) -> dict:
    """Return perplexities of one run, as its directory has them if it was evaluated before."""
    if not run.evaluation.exists():
        evaluate_run(run.path, stream=True, progress=True)
    return json.loads(run.evaluation.read_text("utf-8"))


def perplexity(measures: dict) -> float:
    """Return the perplexity per word where words are counted, else per token."""
    return measures.get("perplexity_per_word") or measures["perplexity_per_token"]


def main() -> None:
    """Train and measure what is missing, print the table, keep the figures."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("corpus", nargs="?", default="wikitext-2", help="as of `fwl-keras train`")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each model")
    parser.add_argument("--learning-rate", type=float, default=SETTINGS["learning_rate"])
    parser.add_argument("--runs", type=Path, default=RUNS, help="directory of the two runs")
    args = parser.parse_args()
    console = Console()
    given = {**SETTINGS, "steps": args.steps, "learning_rate": args.learning_rate}

    results = {}
    for name, fast_weights in MODELS.items():
        directory = args.runs / ("fast_weights" if fast_weights else "baseline")
        config = RunConfig.from_preset(
            "tiny", corpus=args.corpus, fast_weights=fast_weights, **given
        )
        console.print(name)
        if (directory / "config.json").exists():
            run = resume_run(directory, console)
        else:
            run = start_run(directory, config, console, steps_given=True)
        measures = measure(run)
        results[name] = {
            "reset": perplexity(measures),
            "carried": perplexity(measures["carried"]),
            "training_tokens_per_second": run.read_metrics()[-1]["tokens_per_second"],
        }
    settings = json.loads(RunDirectory(directory).config.read_text("utf-8"))
    settings = {name: value for name, value in settings.items() if name != "fast_weights"}
    settings["corpus"] = measures["corpus"]
    unit = "word" if "perplexity_per_word" in measures else "token"
    table = Table(
        "", "windows", "carried", title=f"perplexity per {unit}, {settings['corpus']}, valid"
    )
    for name, row in results.items():
        table.add_row(name, f"{row['reset']:.1f}", f"{row['carried']:.1f}")
    console.print(table)
    about = {
        "command": args.command,
        "unit": f"perplexity per {unit}",
        "settings": settings,
        "environment": environment(),
        "models": results,
    }
    write_json(args.results, about)
    alone, both = (results[name]["carried"] for name in MODELS)
    print(
        f"With fast weights, memory and state carried, Transformer-XL's perplexity is "
        f"{100 * (1 - both / alone):.1f} % lower ({both:.1f} against {alone:.1f}). Figures in "
        f"{args.results}."
    )


if __name__ == "__main__":
    main()
