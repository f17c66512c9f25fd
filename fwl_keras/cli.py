"""The `fwl-keras` command.

Whatever is slow to import is imported inside the commands, so that `--help` is not.
"""

import contextlib
import datetime
import errno
import importlib.util
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fwl_keras.backend.import_keras import BackendError, import_keras

app = typer.Typer(
    name="fwl-keras",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Language models with fast weights: they go on learning while they read.\n\n"
        "New here? [bold]fwl-keras quickstart[/bold] shows in six minutes what that is worth. "
        "[bold]fwl-keras train my_book.txt[/bold] trains a model on your own text."
    ),
)


class Preset(StrEnum):
    """Names of presets, for the command line; the numbers are in `runs.config.PRESETS`."""

    quickstart = "quickstart"
    tiny = "tiny"
    small = "small"
    base = "base"


class Split(StrEnum):
    """Held-out splits."""

    valid = "valid"
    test = "test"


class Dtype(StrEnum):
    """Dtype policies of the body and the block; the fast weights' state is always float32."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"


class Body(StrEnum):
    """What a run's body is."""

    gemma = "gemma"
    transformer_xl = "transformer-xl"


class WeightsDtype(StrEnum):
    """Of exported weights, on disk."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Sampler(StrEnum):
    """How the next token is drawn."""

    greedy = "greedy"
    random = "random"
    top_k = "top_k"
    top_p = "top_p"


TextField = Annotated[
    str | None,
    typer.Option(
        "--text-field",
        help="Field of a .jsonl file's records that holds the text. Default: text, or the run's.",
        show_default=False,
    ),
]


class DivergencePolicy(StrEnum):
    """What is done where fast weights predict worse than the trained ones."""

    ignore = "ignore"
    reset = "reset"
    freeze = "freeze"


OnDivergence = Annotated[
    DivergencePolicy,
    typer.Option(
        help="Where fast weights predict worse than the trained ones, by more than a nat per token "
        "over a segment: warn and go on, begin with fresh ones, or take no more steps."
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show where in the program an error came from.")
]


@app.command()
def quickstart(
    to: Annotated[
        Path | None, typer.Option(help="Directory of the results. Default: runs/quickstart-TIME.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the quickstart in this directory.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Time it may take; fewer steps are trained where need be.")
    ] = 6.0,
    steps: Annotated[int | None, typer.Option(help="Training steps of each model.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and text order.")] = None,
    debug: Debug = False,
) -> None:
    """Train one small model with and one without fast weights, and compare them.

    Needs no data and no network: the text is Python's own standard library. Prints a table and
    draws the learning curves and the gain against position in the document.
    """
    console = Console()
    if resume is not None and not (resume / "baseline" / "config.json").exists():
        _fail(f"{str(resume)!r} has no quickstart to continue; leave --resume out to begin one")
    directory = resume or to or _default_directory("quickstart")
    with _reported(console, debug, f"fwl-keras quickstart --resume {directory}", directory):
        with _quiet_frameworks():
            from fwl_keras.runs.quickstart import quickstart as run_quickstart
        from fwl_keras.runs.config import RunConfig

        if resume is None:
            _check_new(directory)
        config = RunConfig.from_preset("quickstart", steps=steps, seed=seed)
        run_quickstart(directory, config, console, minutes=minutes)


@app.command()
def train(
    corpus: Annotated[
        str | None,
        typer.Argument(
            help="A .txt or .jsonl file (or .gz), a directory of them, or one of python-stdlib, "
            "wikitext-2, wikitext-103.",
            show_default=False,
        ),
    ] = None,
    text_field: TextField = None,
    preset: Annotated[
        Preset | None,
        typer.Option(help="Size of model and training. Default: small.", show_default=False),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Directory of the run. Default: runs/CORPUS-TIME.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the run in this directory; it knows all other settings."),
    ] = None,
    begin_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Begin with the weights of this finished run; what is not given is as it was "
            "there, CORPUS too.",
        ),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Without fast weights: same parameters, no steps.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and text order.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Ids of the tokeniser.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a training window.")] = None,
    segment_length: Annotated[
        int | None, typer.Option(help="Tokens between two consolidations of the fast weights.")
    ] = None,
    one_segment: Annotated[
        bool,
        typer.Option("--one-segment", help="No consolidations at all: the published algorithm."),
    ] = False,
    carry_state: Annotated[
        bool,
        typer.Option(
            "--carry-state",
            help="Read whole documents, window after window, the fast weights' state carried "
            "along: for a model that is to read long texts.",
        ),
    ] = False,
    carry_groups: Annotated[
        int | None,
        typer.Option(
            help="With --carry-state: read so many times more documents at a time, batch by batch "
            "in turn.",
            show_default=False,
        ),
    ] = None,
    longer_memory: Annotated[
        float | None,
        typer.Option(
            help="With --from: the fast weights begin with a memory so many times as long.",
            show_default=False,
        ),
    ] = None,
    smaller_steps: Annotated[
        float | None,
        typer.Option(
            help="With --from: the fast weights begin with step sizes divided by this.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows in a batch.")] = None,
    body: Annotated[
        Body | None,
        typer.Option(
            help="gemma, or transformer-xl (needs tf-models-official), whose memory is carried "
            "along with --carry-state.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Transformer layers.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of body and block.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    interval: Annotated[
        int | None, typer.Option(help="Steps between two checkpoints (and lines of metrics).")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="mixed_bfloat16 for recent GPUs.", show_default=False)
    ] = None,
    jit: Annotated[
        bool | None,
        typer.Option("--jit/--no-jit", help="Compile the training step with XLA: slow start."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train a language model with fast weights on a text.

    [bold]fwl-keras train my_book.txt[/bold] is enough. The run's directory gets the model, its
    tokeniser and configuration, metrics.jsonl, TensorBoard logs and a picture. Interrupt it
    whenever you like: --resume continues it to the same result.
    """
    console = Console()
    choices = {
        "text_field": text_field,
        "steps": steps,
        "seed": seed,
        "vocab_size": vocab_size,
        "length": length,
        "segment_length": segment_length,
        "batch_size": batch_size,
        "body": None if body is None else body.value,
        "layers": layers,
        "width": width,
        "heads": heads,
        "learning_rate": learning_rate,
        "interval": interval,
        "dtype": None if dtype is None else dtype.value,
        "jit_compile": jit,
        "carry_state": carry_state or None,
        "carry_groups": carry_groups,
        "longer_memory": longer_memory,
        "smaller_steps": smaller_steps,
    }
    if one_segment and segment_length is not None:
        _fail("--one-segment has no --segment-length; leave one of them out")
    if begin_from is None and (longer_memory is not None or smaller_steps is not None):
        _fail("--longer-memory and --smaller-steps change another run's model; name it with --from")
    if begin_from is not None and preset is not None:
        _fail("--from takes all sizes from that run; leave out --preset")
    if resume is not None:
        given = [
            f"--{name.replace('_', '-')}" for name, value in choices.items() if value is not None
        ]
        given += ["CORPUS"] * (corpus is not None) + ["--to"] * bool(to) + ["--baseline"] * baseline
        given += ["--one-segment"] * one_segment + ["--preset"] * (preset is not None)
        given += ["--from"] * (begin_from is not None)
        if given:
            _fail(f"--resume takes everything from the run; leave out {', '.join(given)}")
        directory = resume
    elif corpus is None and begin_from is None:
        _fail("name a text to train on, for example: fwl-keras train my_book.txt")
    else:
        name = _short_name(f"{begin_from.name}-on" if corpus is None else corpus)
        directory = to or _default_directory(name)
    with _reported(console, debug, f"fwl-keras train --resume {directory}", directory):
        if resume is None:
            _check_new(directory)
        with _quiet_frameworks():
            from fwl_keras.runs.train import resume_run, start_run
        if resume is not None:
            run = resume_run(directory, console)
        else:
            from fwl_keras.runs.config import RunConfig
            from fwl_keras.runs.directory import RunDirectory

            choices["fast_weights"] = not baseline
            if corpus is not None:
                choices["corpus"] = _absolute(corpus)
            if begin_from is None:
                config = RunConfig.from_preset((preset or Preset.small).value, **choices)
            else:
                choices["carry_state"] = carry_state
                config = RunDirectory.open(begin_from).next_config(**choices)
            if one_segment:
                config = config.replace(segment_length=None)
            console.print(f"The run is in {directory}.", soft_wrap=True)
            run = start_run(directory, config, console, steps_given=steps is not None)
        console.print(
            f"Finished: {run.model} is the model. Measure it with: fwl-keras evaluate {run.path}",
            soft_wrap=True,
        )


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.", show_default=False)],
    corpus: Annotated[
        str | None, typer.Option(help="Another text than the run's own: a name or a path.")
    ] = None,
    text_field: TextField = None,
    split: Annotated[Split, typer.Option(help="Which held-out part of it.")] = Split.valid,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Also read every document with the state carried from window to window to its "
            "end, and compare.",
        ),
    ] = False,
    on_divergence: OnDivergence = DivergencePolicy.ignore,
    debug: Debug = False,
) -> None:
    """Measure a finished run on held-out text.

    Writes the figures to evaluation.json in the run, too.
    """
    console = Console()
    with _reported(console, debug):
        with _quiet_frameworks():
            from fwl_keras.runs.evaluate import evaluate_run
        result = evaluate_run(
            run,
            corpus=corpus,
            text_field=text_field,
            split=split.value,
            stream=stream,
            on_divergence=on_divergence.value,
            progress=True,
            console=Console(stderr=True),
        )
        console.print(_evaluation_table(result))


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.", show_default=False)],
    prompt: Annotated[
        str, typer.Option(help="What the text begins with; - for standard input.")
    ] = "",
    read: Annotated[
        list[Path] | None,
        typer.Option(help="Read this file first; may be given again. The text goes on from it."),
    ] = None,
    text_field: TextField = "text",
    passes: Annotated[int, typer.Option(help="How often to read the files.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Tokens to write at most.")] = 200,
    sampler: Annotated[Sampler, typer.Option(help="How tokens are drawn.")] = Sampler.top_p,
    temperature: Annotated[
        float | None,
        typer.Option(help="Divides the logits. Default: 0.8.", show_default=False),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Draw from so many tokens. Default: 40 for top_k.", show_default=False),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw from the likeliest tokens with so much probability. Default: 0.9 for top_p.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the drawing.")] = None,
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze",
            help="Do not adapt to what is written; small models then repeat themselves less.",
        ),
    ] = False,
    on_divergence: OnDivergence = DivergencePolicy.ignore,
    debug: Debug = False,
) -> None:
    """Write text with a finished run, the model adapting to what it reads and writes.

    The text goes to standard output as it comes, everything else to standard error.
    """
    console = Console(stderr=True)
    files = read or []
    if not prompt and not files:
        _fail("there is nothing to begin with: give --prompt TEXT, or --read FILE to go on from")
    with _reported(console, debug):
        if prompt == "-":
            from fwl_keras.data.decode import decode_text

            prompt = decode_text(Path("standard input"), sys.stdin.buffer.read())
        with _quiet_frameworks():
            from fwl_keras.runs.generate import Writing, make_sampler
        writing = Writing(
            run,
            prompt,
            files,
            passes=passes,
            max_tokens=max_tokens,
            sampler=make_sampler(sampler.value, temperature=temperature, top_k=top_k, top_p=top_p),
            seed=seed,
            freeze=freeze,
            on_divergence=on_divergence.value,
            console=console,
            text_field=text_field,
        )
        last = ""
        for piece in writing:
            sys.stdout.write(piece)
            sys.stdout.flush()
            last = piece or last
        if not last.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
        console.print(writing.summary(), soft_wrap=True, markup=False, highlight=False)


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.", show_default=False)],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Texts: files of any kind, .jsonl (a text a line), .gz of both, directories.",
            show_default=False,
        ),
    ],
    text_field: TextField = "text",
    against: Annotated[
        Path | None,
        typer.Option(
            help="Compare with the model of this run. Default: RUN's own trained weights, without "
            "adaptation.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page that colours every token by what was gained on it."),
    ] = None,
    carry: Annotated[
        bool,
        typer.Option(
            "--carry/--fresh",
            help="Carry the state from text to text, or begin each with a fresh one.",
        ),
    ] = False,
    on_divergence: OnDivergence = DivergencePolicy.ignore,
    debug: Debug = False,
) -> None:
    """Score texts with a finished run, the model adapting while it reads.

    Prints perplexities per token and the gain over the model that it is compared with.
    """
    console = Console()
    with _reported(console, debug):
        if html is not None:
            _check_writable(html)
        with _quiet_frameworks():
            from fwl_keras.runs.score import score_texts
        scored = score_texts(
            run,
            files,
            against=against,
            carry=carry,
            on_divergence=on_divergence.value,
            text_field=text_field,
            console=Console(stderr=True),
        )
        if html is not None:
            scored.write_page(html)
        console.print(scored.table())
        if html is not None:
            console.print(
                f"{html} shows every token's gain and loss against {scored.against}; open it in a "
                "browser.",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.", show_default=False)],
    to: Annotated[
        Path,
        typer.Option(help="The model's directory; its name is the model's.", show_default=False),
    ],
    version: Annotated[
        int | None, typer.Option(help="Default: the next free number.", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a text in one request.")] = 4096,
    max_new_tokens: Annotated[
        int, typer.Option(help="Tokens that one request may have written.")
    ] = 512,
    dtype: Annotated[
        WeightsDtype, typer.Option(help="Of the weights on disk; bfloat16 halves them.")
    ] = WeightsDtype.float32,
    debug: Debug = False,
) -> None:
    """Write a finished run for TensorFlow Serving, as version DIR/1, DIR/2, ...

    The server takes and gives text; export/README.md in the sources says how to run and call it.
    """
    console = Console()
    if importlib.util.find_spec("tensorflow") is None:
        _fail("an export needs TensorFlow: pip install tensorflow tensorflow-text")
    # Whatever the run was trained on: TensorFlow alone can write it for TensorFlow Serving.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _reported(console, debug):
        with _quiet_frameworks():
            from fwl_keras.runs.export import export_run
            from fwl_keras.serving.export import ABOUT, serve_command
            from fwl_keras.serving.options import ServingOptions
            from fwl_keras.serving.warmup import MISSING
        options = ServingOptions(max_tokens, max_new_tokens, dtype.value)
        path = export_run(run, to, version, options, progress=True)
        about = json.loads((path / ABOUT).read_text("utf-8"))
        console.print(_export_table(path, about))
        if not about["warmup_requests"]:
            console.print(MISSING, soft_wrap=True, markup=False, highlight=False)
        console.print(
            f"{path} is written. Serve it with: {serve_command(path)}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )


@app.command()
def benchmark(
    corpus: Annotated[
        str,
        typer.Argument(
            help="wikitext-2, wikitext-103, python-stdlib, or your own texts: a file or a "
            "directory.",
            show_default=False,
        ),
    ],
    text_field: TextField = None,
    preset: Annotated[Preset, typer.Option(help="Size of models and training.")] = Preset.small,
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
    directory = to or Path("runs") / f"{_short_name(corpus)}-{preset.value}"
    with _reported(console, debug, "the same command", directory):
        with _quiet_frameworks():
            from benchmarks.rivals.run import run_benchmark
        from fwl_keras.runs.config import RunConfig

        config = RunConfig.from_preset(
            preset.value, corpus=_absolute(corpus), text_field=text_field, steps=steps
        )
        console.print(f"The benchmark is in {directory}.", soft_wrap=True)
        run_benchmark(
            directory,
            config,
            console,
            seeds=seeds,
            rows=rows or (),
            costs=costs,
            results=results,
            command=f"fwl-keras benchmark {_short_name(corpus)} --preset {preset.value}"
            + ("" if text_field is None else f" --text-field {text_field}"),
        )


def main() -> None:
    """Runs the command."""
    if hasattr(sys.stdout, "reconfigure"):
        # A pipe's encoding may not know the characters of a table.
        sys.stdout.reconfigure(errors="replace")
    app()


def _evaluation_table(result: dict) -> Table:
    columns = [result]
    caption = f"Windows of {result['window_tokens']} tokens, each read on its own."
    table = Table(title=f"{result['corpus']}, {result['split']}", show_header="carried" in result)
    table.add_column("")
    table.add_column("state reset at every window", justify="right")
    if "carried" in result:
        columns.append(result["carried"])
        table.add_column("carried to the document's end", justify="right")
        caption = (
            f"The same windows of {result['window_tokens']} tokens; carried: a document's windows "
            "one after the other, the fast weights' state going on from each to the next."
        )
    table.add_row("documents", f"{result['documents']:,}")
    table.add_row("tokens", f"{result['tokens']:,}")
    lost = [column.get("tokens_not_finite", 0) for column in columns]
    if any(lost):
        table.add_row("tokens whose loss is not finite", *(f"{count:,}" for count in lost))
    for name, places in (
        ("perplexity_per_token", 2),
        ("perplexity_per_word", 2),
        ("bits_per_byte", 3),
    ):
        if name in result:
            values = (_number(column[name], places) for column in columns)
            table.add_row(name.replace("_", " "), *values)
    table.add_section()
    for name in ("adaptation_gain", "total_gain"):
        title = f"{name.replace('_', ' ')} (diagnostic, nats per token)"
        table.add_row(title, f"{result[name]:.4f}")
    table.caption = caption
    return table


def _export_table(path: Path, about: dict) -> Table:
    table = Table(title=f"{path.absolute().parent.name}, version {path.name}", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("corpus", about["corpus"])
    table.add_row("training steps", f"{about['training_steps']:,}")
    measured = about.get("evaluation", {})
    for name, places in (("perplexity_per_token", 2), ("perplexity_per_word", 2)):
        if name in measured:
            title = f"{name.replace('_', ' ')} ({measured['corpus']}, {measured['split']})"
            table.add_row(title, _number(measured[name], places))
    table.add_row("parameters", f"{about['parameters']:,}")
    table.add_section()
    for name, size in about["bytes"].items():
        title = f"{name} (bytes)"
        if name == "weights":
            title = f"weights, {about['weights_dtype']} (bytes)"
        table.add_row(title, f"{size:,}")
    table.add_section()
    table.add_row("state of a row (bytes)", f"{about['state_bytes_per_row']:,}")
    for name, limit in about["caps"].items():
        table.add_row(f"{name.replace('_', ' ')} of a row", f"{limit:,}")
    table.add_row("warm-up requests", f"{about['warmup_requests']}")
    return table


def _number(value: float | None, places: int) -> str:
    if value is None or not math.isfinite(value):
        return "diverged" if value is None else "infinite"
    return f"{value:,.{places}f}"


@contextlib.contextmanager
def _reported(
    console: Console, debug: bool, goes_on: str = "", directory: Path | None = None
) -> Iterator[None]:
    """Turns a user's error into one line and an interruption into advice."""
    try:
        with _warnings_in_words():
            yield
    except BrokenPipeError:
        # Whoever reads the output has enough of it, like `head`; Typer ends quietly.
        raise
    except (ValueError, BackendError) as error:
        if debug:
            raise
        _fail(str(error))
    except OSError as error:
        if debug:
            raise
        _fail(
            _disk_error(
                error, goes_on if directory is not None and os.path.isdir(directory) else ""
            )
        )
    except KeyboardInterrupt:
        if directory is None:
            advice = ""
        elif directory.is_dir() and any(directory.iterdir()):
            advice = f" Continue with: {goes_on}"
        else:
            advice = " Nothing was trained yet, and nothing was written."
        console.print(f"\nInterrupted.{advice}", soft_wrap=True, markup=False, highlight=False)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Shows a warning as one line, once, without the place in the program that it came from."""
    shown = set()

    def show(message, category, filename, lineno, file=None, line=None):
        words = " ".join(str(message).split())
        if issubclass(category, RuntimeWarning) and words not in shown:
            shown.add(words)
            print(f"Warning: {words}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _disk_error(error: OSError, goes_on: str) -> str:
    """What went wrong with which file, and what to do."""
    if error.errno is None or error.filename is None:
        return str(error)
    ways_out = {
        errno.ENOSPC: "make room on the disk",
        errno.EDQUOT: "make room on the disk",
        errno.EACCES: "make it writable, or give another directory",
        errno.EPERM: "make it writable, or give another directory",
        errno.EROFS: "make it writable, or give another directory",
    }
    way_out = ways_out.get(error.errno, "look at that file")
    go_on = f", then continue with: {goes_on}" if goes_on else ""
    return f"{error.filename}: {error.strerror}; {way_out}{go_on}"


def _fail(message: str) -> None:
    """Prints one red line and leaves with status 2."""
    line = " ".join(message.split())
    Console(stderr=True).print(f"[red]Error:[/red] {escape(line)}", soft_wrap=True, highlight=False)
    raise typer.Exit(2)


@contextlib.contextmanager
def _quiet_frameworks() -> Iterator[None]:
    """Keeps TensorFlow's notes about the processor off the screen while it is imported.

    Some are written before it looks at `TF_CPP_MIN_LOG_LEVEL`, straight to the file descriptor.
    A user who sets that variable sees everything.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        _import_backend()
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    screen = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        _import_backend()
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


def _import_backend() -> None:
    """Fails in one line where there is no backend to compute with."""
    import_keras()
    from fwl_keras.layers._checks import require_backend

    require_backend()


def _check_new(directory: Path) -> None:
    """Fails before anything slow is imported."""
    from fwl_keras.files import check_new

    check_new(directory)


def _check_writable(file: Path) -> None:
    """Fails before anything is computed that could not be written."""
    if file.is_dir():
        _fail(f"{str(file)!r} is a directory; name a file in it")
    if not file.absolute().parent.is_dir():
        _fail(f"{str(file.parent)!r} is not a directory; make it first, or name another file")


def _default_directory(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _short_name(corpus: str) -> str:
    """A corpus's name without directories and suffixes, for the run's own name."""
    # A file's name has 255 bytes at most, and the time comes behind it.
    name = os.path.basename(os.path.abspath(corpus)).split(".")[0][:50]
    return name or "run"


def _absolute(corpus: str) -> str:
    """The path of a user's text from everywhere, so that a run can be resumed from everywhere."""
    from fwl_keras.data.load_corpus import CORPUS_NAMES
    from fwl_keras.data.text_files import existing_path

    # An empty name is not the current directory.
    path = existing_path(corpus, "corpus") if corpus not in ("", *CORPUS_NAMES) else None
    return corpus if path is None else str(path.resolve())
