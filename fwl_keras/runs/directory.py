"""The files of a run, each of them whole at every moment."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from fwl_keras.data.sentencepiece_tokenizer import SentencePieceTokenizer
from fwl_keras.runs.config import RunConfig


class RunDirectory:
    """Where a run keeps its files.

    Args:
        path: The run's directory.

    Attributes:
        config: `config.json`, the configuration.
        corpus: `corpus.json`, what the text was, to notice when it changes.
        tokenizer: `tokenizer.model`.
        checkpoint: `checkpoint.weights.h5`, weights, optimizer and step; replaced every interval.
        metrics: `metrics.jsonl`, a line every interval.
        model: `model.keras`, the finished model: a run that has it is finished.
        tensorboard: `tensorboard/`, the same metrics for TensorBoard.
        curve: `learning_curve.png`.
        evaluation: `evaluation.json`, what `fwl-keras evaluate` measured last.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.corpus = self.path / "corpus.json"
        self.tokenizer = self.path / "tokenizer.model"
        self.checkpoint = self.path / "checkpoint.weights.h5"
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / "model.keras"
        self.tensorboard = self.path / "tensorboard"
        self.curve = self.path / "learning_curve.png"
        self.evaluation = self.path / "evaluation.json"

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: RunConfig,
        tokenizer: SentencePieceTokenizer,
        corpus: dict,
    ) -> "RunDirectory":
        """Makes the directory of a new run, with all that `--resume` needs, or nothing at all.

        Args:
            path: A directory that does not exist or is empty.
            config: The run's configuration.
            tokenizer: Its tokeniser.
            corpus: What `corpus.json` is to hold.

        Returns:
            The run.

        Raises:
            ValueError: There is something at `path` already.
        """
        with new_directory(path) as beside:
            run = cls(beside)
            tokenizer.save(run.tokenizer)
            run.corpus.write_text(json.dumps(corpus, indent=2) + "\n", "utf-8")
            run.config.write_text(config.to_json(), "utf-8")
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """Finds a run that was begun.

        Args:
            path: Its directory.

        Returns:
            The run.

        Raises:
            ValueError: There is no run.
        """
        run = cls(path)
        if not run.config.is_file():
            raise ValueError(
                f"{str(path)!r} is not a run: it has no config.json; give the directory that "
                "`fwl-keras train` printed"
            )
        return run

    def next_config(self, **changes) -> RunConfig:
        """Returns a configuration that goes on from this run's model, with another training.

        Args:
            **changes: `RunConfig`'s attributes; those that are None keep the run's value.

        Returns:
            The run's configuration with itself as `initial_model`.

        Raises:
            ValueError: The run is not finished, or a value is out of its range.
        """
        if not self.finished:
            raise ValueError(
                f"{str(self.path)!r} is not finished; continue it with: fwl-keras train --resume "
                f"{self.path}"
            )
        given = {name: value for name, value in changes.items() if value is not None}
        # What that run began with is in its weights.
        begin = {"longer_memory": 1.0, "smaller_steps": 1.0, "trained_part": "all"}
        begin["initial_model"] = str(self.path.resolve())
        return RunConfig.load(self.config).replace(**{**begin, **given})

    @property
    def finished(self) -> bool:
        """Whether the run has its final model."""
        return self.model.exists()

    def read_metrics(self) -> list[dict]:
        """Returns the lines of `metrics.jsonl`; one that was cut off by a kill ends them."""
        lines = []
        if self.metrics.exists():
            for line in self.metrics.read_text("utf-8").splitlines():
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    break
        return lines

    def append_metrics(self, values: dict) -> None:
        """Adds a line to `metrics.jsonl` and waits until it is on disk."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_metrics(self, step: int) -> None:
        """Drops the lines after `step`, which will be written again."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        replace_file(self.metrics, lambda path: path.write_text(text, "utf-8"))


def check_new(path: str | Path) -> None:
    """Raises a ValueError if a run at `path` would mix with files that are there."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{str(path)!r} is a file; give another directory to --to")
    if path.exists() and any(path.iterdir()):
        raise ValueError(
            f"{str(path)!r} is not empty; continue the run in it with --resume {path}, or give "
            "another directory to --to"
        )


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """Makes a directory with all that it is to hold, or nothing at all.

    Args:
        path: A directory that does not exist or is empty.

    Yields:
        A directory to write to, which is at `path` once the block has ended without an error.

    Raises:
        ValueError: There is something at `path` already.
    """
    check_new(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        beside.chmod(0o755)  # mkdtemp's is for its owner alone
        yield beside
        if path.exists():
            path.rmdir()  # empty, and not every system renames onto a directory
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and moves it there, so that it is old or new, never half.

    Args:
        path: The file.
        write: Called with the path to write to, which has `path`'s suffixes.
    """
    beside = path.with_name(f".new-{path.name}")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
