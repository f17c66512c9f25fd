"""The command `python -m benchmarks.rivals`.

Whatever is slow to import is imported inside the command, so that `--help` is not.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fwl_keras.cli import Debug, Preset, TextField, absolute_corpus, short_name
from fwl_keras.runs.terminal import quiet_frameworks, reported, say

COMMAND = "python -m benchmarks.rivals"

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def rivals(
    corpus: Annotated[
        str,
        typer.Argument(
            help="wikitext-2, wikitext-103, python-stdlib, or your own texts: a file or a "
            "directory.",
            show_default=False,
        ),
    ],
    text_field: TextField = None,
    preset: Annotated[Preset, typer.Option(help="Size of models and training.")] = "small",
    to: Annotated[
        Path | None,
        typer.Option(help="Directory of models and figures. Default: runs/CORPUS-PRESET."),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--row",
            help="Measure this row only, e.g. fast_weights.carried, or 'baseline.*'; may be given "
            "again. Default: all.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of the main rows.")] = 3,
    costs: Annotated[
        bool,
        typer.Option("--costs/--no-costs", help="Measure seconds and memory of every row, too."),
    ] = True,
    steps: Annotated[int | None, typer.Option(help="Training steps of each model.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the results; what is published there is not measured again. "
            "Default: that of the benchmark."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare fast weights with dynamic evaluation and other rivals, in one table.

    Trains a model with and one without fast weights, and variants, searches the rivals' settings on
    validation text, and measures all of it on test text. That takes hours; the same command again
    goes on where it was interrupted, and --row fills the table bit by bit.
    """
    console = Console()
    directory = to or Path("runs") / f"{short_name(corpus)}-{preset}"
    with reported(console, debug, "the same command", directory):
        with quiet_frameworks():
            from benchmarks.rivals.run import run_benchmark
        from fwl_keras.runs.config import RunConfig

        config = RunConfig.from_preset(
            preset, corpus=absolute_corpus(corpus), text_field=text_field, steps=steps
        )
        say(console, f"The benchmark is in {directory}.")
        run_benchmark(
            directory,
            config,
            console,
            seeds=seeds,
            rows=rows or (),
            costs=costs,
            results=results,
            command=f"{COMMAND} {short_name(corpus)} --preset {preset}"
            + ("" if text_field is None else f" --text-field {text_field}"),
        )


def main() -> None:
    """Run the command."""
    if hasattr(sys.stdout, "reconfigure"):
        # A pipe's encoding may not know the characters of a table.
        sys.stdout.reconfigure(errors="replace")
    app(prog_name=COMMAND)
