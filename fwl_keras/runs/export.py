"""A finished run's model, written for TensorFlow Serving."""

from pathlib import Path

from rich.table import Table

from fwl_keras._arguments import require_count
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.evaluate import number
from fwl_keras.runs.load import load_run_model
from fwl_keras.serving.export import check_version_path, export_model
from fwl_keras.serving.options import ServingOptions


def export_run(
    run: str | Path,
    to: str | Path,
    version: int | None = None,
    options: ServingOptions | None = None,
    *,
    progress: bool = False,
) -> Path:
    """Write a version of a run's model, with what the run knows in `fwl_keras.json`.

    Args:
        run: the run's directory.
        to: the model's directory on the server; its name is the model's.
        version: the version, which is a directory in it; None for the next free number.
        options: caps and dtype.
        progress: whether to draw a progress bar.

    Returns:
        The version's directory.

    Raises:
        ValueError: if there is no finished run, the version exists, or the model cannot take text.

    Example:
        >>> export_run("runs/my_book", "models/my_book")
        PosixPath('models/my_book/1')
    """
    version = next_version(to) if version is None else version
    require_count("version", version)
    path = Path(to) / str(version)
    check_version_path(path)
    lm = load_run_model(run)
    return export_model(lm, path, options, about=describe_run(run), progress=progress)


def next_version(to: str | Path) -> int:
    """Return the number after the highest version in a model's directory, or 1.

    Args:
        to: the directory.
    """
    to = Path(to)
    names = [path.name for path in to.iterdir()] if to.is_dir() else []
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


def describe_run(path: str | Path) -> dict:
    """Return what a run knows about its model.

    Args:
        path: its directory.

    Returns:
        `corpus`, `training_steps`, and, where the run was evaluated, `evaluation`.

    Raises:
        ValueError: if `config.json` or `evaluation.json` cannot be read.
    """
    run = RunDirectory.open(path)
    config = run.read_config()
    about = {
        # A path says nothing on another machine.
        "corpus": Path(config.corpus).name,
        "training_steps": config.steps,
    }
    if run.evaluation.exists():
        measured = run.read_evaluation()
        names = ("corpus", "split", "perplexity_per_token", "perplexity_per_word", "bits_per_byte")
        about["evaluation"] = {name: measured[name] for name in names if name in measured}
    return about


def export_table(path: Path, about: dict) -> Table:
    """Return what was written as a table.

    Args:
        path: the version's directory.
        about: what its `fwl_keras.json` holds.
    """
    table = Table(title=f"{path.absolute().parent.name}, version {path.name}", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("corpus", about["corpus"])
    table.add_row("training steps", f"{about['training_steps']:,}")
    measured = about.get("evaluation", {})
    for name, places in (("perplexity_per_token", 2), ("perplexity_per_word", 2)):
        if name in measured:
            title = f"{name.replace('_', ' ')} ({measured['corpus']}, {measured['split']})"
            table.add_row(title, number(measured[name], places))
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
