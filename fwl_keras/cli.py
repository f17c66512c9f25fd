"""The `fwl-keras` command.

Whatever is slow to import is imported inside the commands, so that `--help` is not.
"""

import dataclasses
import datetime
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from fwl_keras.data.decode import decode_text
from fwl_keras.data.load_corpus import CORPUS_NAMES
from fwl_keras.data.text_files import existing_path
from fwl_keras.inference.divergence_policies import POLICIES
from fwl_keras.runs.config import BODIES, DTYPES, PRESETS, SPLITS, RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.samplers import SAMPLERS, make_sampler
from fwl_keras.runs.terminal import fail, quiet_frameworks, reported, say
from fwl_keras.serving import options as serving

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

Preset = Literal[*PRESETS]
FinishedRun = Annotated[
    Path, typer.Argument(help="Directory of a finished run.", show_default=False)
]
TextField = Annotated[
    str | None,
    typer.Option(
        help="Field of a .jsonl file's records that holds the text. Default: text, or the run's.",
        show_default=False,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of weights and text order.")]
OnDivergence = Annotated[
    Literal[*POLICIES],
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
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Train one small model with and one without fast weights, and compare them.

    Needs no data and no network: the text is Python's own standard library. Prints a table and
    draws the learning curves and the gain against position in the document.
    """
    console = Console()
    if resume is not None and not (resume / "baseline" / "config.json").exists():
        fail(f"`{resume}` has no quickstart to continue; leave `--resume` out to begin one.")
    directory = resume or to or _default_directory("quickstart")
    with reported(console, debug, f"fwl-keras quickstart --resume {directory}", directory):
        with quiet_frameworks():
            from fwl_keras.runs.quickstart import quickstart as run_quickstart
        if resume is None:
            _check_new(directory)
        config = RunConfig.from_preset("quickstart", steps=steps, seed=seed)
        run_quickstart(directory, config, console, minutes=minutes)


@app.command()
def train(
    context: typer.Context,
    corpus: Annotated[
        str | None,
        typer.Argument(
            help="A .txt or .jsonl file (or .gz), a directory of them, or one of "
            f"{', '.join(CORPUS_NAMES)}."
        ),
    ] = None,
    text_field: TextField = None,
    preset: Annotated[
        Preset | None, typer.Option(help="Size of model and training. Default: small.")
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
    seed: Seed = None,
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
            "in turn."
        ),
    ] = None,
    longer_memory: Annotated[
        float | None,
        typer.Option(
            help="With --from: the fast weights begin with a memory so many times as long."
        ),
    ] = None,
    smaller_steps: Annotated[
        float | None,
        typer.Option(help="With --from: the fast weights begin with step sizes divided by this."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows in a batch.")] = None,
    body: Annotated[
        Literal[*BODIES] | None,
        typer.Option(
            help="gemma, or transformer-xl (needs tf-models-official), whose memory is carried "
            "along with --carry-state."
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
        Literal[*DTYPES] | None, typer.Option(help="mixed_bfloat16 for recent GPUs.")
    ] = None,
    jit_compile: Annotated[
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
    if one_segment and segment_length is not None:
        fail("`--one-segment` has no `--segment-length`; leave one of them out.")
    if begin_from is None and (longer_memory is not None or smaller_steps is not None):
        fail(
            "`--longer-memory` and `--smaller-steps` change another run's model; name it with "
            "`--from`."
        )
    if begin_from is not None and preset is not None:
        fail("`--from` takes all sizes from that run; leave out `--preset`.")
    if resume is not None:
        given = _given(context, but=("resume", "debug"))
        if given:
            fail(f"`--resume` takes everything from the run; leave out {', '.join(given)}.")
        directory = resume
    elif corpus is None and begin_from is None:
        fail("Name a text to train on, for example: `fwl-keras train my_book.txt`.")
    else:
        name = short_name(f"{begin_from.name}-on" if corpus is None else corpus)
        directory = to or _default_directory(name)
    with reported(console, debug, f"fwl-keras train --resume {directory}", directory):
        if resume is None:
            _check_new(directory)
        with quiet_frameworks():
            from fwl_keras.runs.train import resume_run, start_run
        if resume is not None:
            run = resume_run(directory, console)
        else:
            known = {field.name for field in dataclasses.fields(RunConfig)}
            choices = {name: value for name, value in context.params.items() if name in known}
            choices["fast_weights"] = not baseline
            if corpus is not None:
                choices["corpus"] = absolute_corpus(corpus)
            if begin_from is None:
                config = RunConfig.from_preset(preset or "small", **choices)
            else:
                config = RunDirectory.open(begin_from).next_config(**choices)
            if one_segment:
                config = config.replace(segment_length=None)
            say(console, f"The run is in {directory}.")
            run = start_run(directory, config, console, steps_given=steps is not None)
        say(
            console,
            f"Finished: {run.model} is the model. Measure it with: fwl-keras evaluate {run.path}",
        )


@app.command()
def evaluate(
    run: FinishedRun,
    corpus: Annotated[
        str | None, typer.Option(help="Another text than the run's own: a name or a path.")
    ] = None,
    text_field: TextField = None,
    split: Annotated[Literal[*SPLITS], typer.Option(help="Which held-out part of it.")] = "valid",
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Also read every document with the state carried from window to window to its "
            "end, and compare.",
        ),
    ] = False,
    on_divergence: OnDivergence = "ignore",
    debug: Debug = False,
) -> None:
    """Measure a finished run on held-out text.

    Writes the figures to evaluation.json in the run, too.
    """
    console = Console()
    with reported(console, debug):
        with quiet_frameworks():
            from fwl_keras.runs.evaluate import evaluate_run, evaluation_table
        result = evaluate_run(
            run,
            corpus=corpus,
            text_field=text_field,
            split=split,
            stream=stream,
            on_divergence=on_divergence,
            progress=True,
            console=Console(stderr=True),
        )
        console.print(evaluation_table(result))


@app.command()
def generate(
    run: FinishedRun,
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
    sampler: Annotated[Literal[*SAMPLERS], typer.Option(help="How tokens are drawn.")] = "top_p",
    temperature: Annotated[
        float | None, typer.Option(help="Divides the logits. Default: 0.8.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Draw from so many tokens. Default: 40 for top_k.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw from the likeliest tokens with so much probability. Default: 0.9 for top_p."
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
    on_divergence: OnDivergence = "ignore",
    debug: Debug = False,
) -> None:
    """Write text with a finished run, the model adapting to what it reads and writes.

    The text goes to standard output as it comes, everything else to standard error.
    """
    console = Console(stderr=True)
    if not prompt and not read:
        fail(
            "There is nothing to begin with; give `--prompt TEXT`, or `--read FILE` to go on from."
        )
    with reported(console, debug):
        if prompt == "-":
            prompt = decode_text(Path("standard input"), sys.stdin.buffer.read())
        with quiet_frameworks():
            from fwl_keras.runs.generate import GeneratedText
        text = GeneratedText(
            run,
            prompt,
            read or [],
            passes=passes,
            max_tokens=max_tokens,
            sampler=make_sampler(sampler, temperature=temperature, top_k=top_k, top_p=top_p),
            seed=seed,
            freeze=freeze,
            on_divergence=on_divergence,
            console=console,
            text_field=text_field,
        )
        last = ""
        for piece in text:
            sys.stdout.write(piece)
            sys.stdout.flush()
            last = piece or last
        if not last.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
        say(console, text.summary())


@app.command()
def score(
    run: FinishedRun,
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
            "adaptation."
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
    on_divergence: OnDivergence = "ignore",
    debug: Debug = False,
) -> None:
    """Score texts with a finished run, the model adapting while it reads.

    Prints perplexities per token and the gain over the model that it is compared with.
    """
    console = Console()
    with reported(console, debug):
        if html is not None:
            _check_writable(html)
        with quiet_frameworks():
            from fwl_keras.runs.score import score_texts
        scored = score_texts(
            run,
            files,
            against=against,
            carry=carry,
            on_divergence=on_divergence,
            text_field=text_field,
            console=Console(stderr=True),
        )
        if html is not None:
            scored.write_page(html)
        console.print(scored.table())
        if html is not None:
            say(
                console,
                f"{html} shows every token's gain and loss against {scored.against}; open it in a "
                "browser.",
            )


@app.command()
def export(
    run: FinishedRun,
    to: Annotated[
        Path,
        typer.Option(help="The model's directory; its name is the model's.", show_default=False),
    ],
    version: Annotated[int | None, typer.Option(help="Default: the next free number.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a text in one request.")] = 4096,
    max_new_tokens: Annotated[
        int, typer.Option(help="Tokens that one request may have written.")
    ] = 512,
    dtype: Annotated[
        Literal[*serving.DTYPES],
        typer.Option(help="Of the weights on disk; bfloat16 halves them."),
    ] = "float32",
    debug: Debug = False,
) -> None:
    """Write a finished run for TensorFlow Serving, as version DIR/1, DIR/2, ...

    The server takes and gives text; export/README.md in the sources says how to run and call it.
    """
    console = Console()
    if importlib.util.find_spec("tensorflow") is None:
        fail(
            "An export needs TensorFlow; install it with `pip install tensorflow tensorflow-text`."
        )
    # Whatever the run was trained on: TensorFlow alone can write it for TensorFlow Serving.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with reported(console, debug):
        with quiet_frameworks():
            from fwl_keras.runs.export import export_run, export_table
            from fwl_keras.serving.export import ABOUT, serve_command
            from fwl_keras.serving.warmup import MISSING
        options = serving.ServingOptions(max_tokens, max_new_tokens, dtype)
        path = export_run(run, to, version, options, progress=True)
        about = json.loads((path / ABOUT).read_text("utf-8"))
        console.print(export_table(path, about))
        if not about["warmup_requests"]:
            say(console, MISSING)
        say(console, f"{path} is written. Serve it with: {serve_command(path)}")


def main() -> None:
    """Run the command."""
    if hasattr(sys.stdout, "reconfigure"):
        # A pipe's encoding may not know the characters of a table.
        sys.stdout.reconfigure(errors="replace")
    app()


def short_name(corpus: str) -> str:
    """Return a corpus's name without directories and suffixes, for the run's own name.

    Args:
        corpus: its name or path.
    """
    # A file's name has 255 bytes at most, and the time comes behind it.
    name = os.path.basename(os.path.abspath(corpus)).split(".")[0][:50]
    return name or "run"


def absolute_corpus(corpus: str) -> str:
    """Return a user's text by its path from everywhere, so that a run goes on from everywhere.

    Args:
        corpus: its name or path.
    """
    # An empty name is not the current directory.
    path = existing_path(corpus, "corpus") if corpus not in ("", *CORPUS_NAMES) else None
    return corpus if path is None else str(path.resolve())


def _given(context: typer.Context, but: tuple[str, ...]) -> list[str]:
    """List what stands on the command line, but some, as it is written there."""
    return [
        f"`{one.opts[0] if one.opts[0].startswith('-') else one.opts[0].upper()}`"
        for one in context.command.params
        if one.name not in but and context.get_parameter_source(one.name).name == "COMMANDLINE"
    ]


def _check_new(directory: Path) -> None:
    """Fail before anything slow is imported."""
    from fwl_keras.runs.directory import check_new_run

    check_new_run(directory)


def _check_writable(file: Path) -> None:
    """Fail before anything is computed that could not be written."""
    if file.is_dir():
        fail(f"`{file}` is a directory; name a file in it.")
    if not file.absolute().parent.is_dir():
        fail(f"`{file.parent}` is not a directory; make it first, or name another file.")


def _default_directory(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
