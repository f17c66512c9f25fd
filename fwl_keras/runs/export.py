"""A finished run's model, written for TensorFlow Serving."""

from pathlib import Path

from fwl_keras.runs.directory import RunDirectory
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
    """Writes a version of a run's model, with what the run knows in `fwl_keras.json`.

    Args:
        run: The run's directory.
        to: The model's directory on the server; its name is the model's.
        version: The version, which is a directory in it; None for the next free number.
        options: Caps and dtype.
        progress: Whether to draw a progress bar.

    Returns:
        The version's directory.

    Raises:
        ValueError: There is no finished run, the version exists, or the model cannot take text.

    Example:
        >>> export_run("runs/my_book", "models/my_book")
        PosixPath('models/my_book/1')
    """
    if version is not None and version < 1:
        raise ValueError(f"version must be at least 1; received version={version}")
    path = Path(to) / str(next_version(to) if version is None else version)
    check_version_path(path)
    lm = load_run_model(run)
    return export_model(lm, path, options, about=describe_run(run), progress=progress)


def next_version(to: str | Path) -> int:
    """The number after the highest version in a model's directory, or 1."""
    to = Path(to)
    names = [path.name for path in to.iterdir()] if to.is_dir() else []
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


def describe_run(path: str | Path) -> dict:
    """What a run knows about its model.

    Args:
        path: Its directory.

    Returns:
        `corpus`, `training_steps`, and, where the run was evaluated, `evaluation`.

    Raises:
        ValueError: `config.json` or `evaluation.json` cannot be read.
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
