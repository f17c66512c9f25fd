"""The files of a run, each of them whole at every moment."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fwl_keras.data.sentencepiece_tokenizer import SentencePieceTokenizer
from fwl_keras.files import BESIDE, check_new, new_directory, replace_file
from fwl_keras.runs.checksums import Checksums, packed, sha256, unpacked
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.lock import locked
from fwl_keras.runs.strict_json import strict_json

if TYPE_CHECKING:
    from fwl_keras.models import FWLCausalLM

# The one value of a configuration that may be changed: what the text is, `corpus.json` checks.
_MAY_CHANGE = ("corpus",)


class RunDirectory:
    """Where a run keeps its files.

    Args:
        path: The run's directory.

    Attributes:
        config: `config.json`, the configuration.
        corpus: `corpus.json`, what the text was, to notice when it changes.
        tokenizer: `tokenizer.model`.
        checkpoint: `checkpoint.weights.h5`, weights, optimizer and step; replaced every interval.
        previous_checkpoint: `checkpoint.previous.weights.h5`, the one before it.
        checksums: `checksums.json`, to notice damage of the others, see `Checksums`.
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
        self.previous_checkpoint = self.path / "checkpoint.previous.weights.h5"
        self.checksums = self.path / "checksums.json"
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
        check_new_run(path)
        with new_directory(path) as beside:
            run = cls(beside)
            run.tokenizer.write_bytes(tokenizer.proto)
            run.corpus.write_text(json.dumps(corpus, indent=2) + "\n", "utf-8")
            run.config.write_text(config.to_json(), "utf-8")
            sums = Checksums(dataclasses.asdict(config), corpus, tokenizer=packed(tokenizer.proto))
            sums.add(run.tokenizer.name, sha256(run.tokenizer))
            run.checksums.write_text(sums.to_json(), "utf-8")
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
        if not run.config.exists() and run.checksums.exists():
            raise ValueError(
                f"{run.config} is missing; put it back: {run.checksums} has its values under "
                '"config"'
            )
        if not run.config.exists():
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
        return self.read_config().replace(**{**begin, **given})

    @property
    def finished(self) -> bool:
        """Whether the run has its final model."""
        return self.model.exists()

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other processes from training this run; the lock ends with the process.

        Raises:
            ValueError: Another one is at it.
        """
        message = (
            f"{str(self.path)!r} is being trained by another process; wait for its end, or stop it "
            "and continue the run with --resume"
        )
        return locked(self.config, message)

    def read_config(self) -> RunConfig:
        """Returns the configuration, which must be the one that the run began with.

        Raises:
            ValueError: `config.json` cannot be read or was edited.
        """
        sums = Checksums.load(self.checksums)
        try:
            config = RunConfig.load(self.config)
        except ValueError as error:
            if not sums.config:
                raise
            raise ValueError(
                f'{error}; put it back: {self.checksums} has its values under "config"'
            ) from error
        if not sums.config:
            return config
        began, now = (dataclasses.asdict(one) for one in (RunConfig(**sums.config), config))
        changes = [
            f"{name}={now[name]!r} (it was {value!r})"
            for name, value in began.items()
            if now[name] != value and name not in _MAY_CHANGE
        ]
        if changes:
            raise ValueError(
                f"{self.config} was edited since the run began: {', '.join(changes)}; put that "
                "back, or begin a new run"
            )
        return config

    def read_corpus(self) -> dict:
        """Returns what `corpus.json` holds.

        Raises:
            ValueError: It cannot be read or is not what the run wrote.
        """
        kept = Checksums.load(self.checksums).corpus
        way_out = "put it back, or begin a new run"
        if kept:
            way_out = f'put it back: {self.checksums} has its values under "corpus"'
        values = _read_object(self.corpus, way_out)
        if kept and values != kept:
            raise ValueError(f"{self.corpus} is not what the run wrote; {way_out}")
        for name in ("fingerprint", "training_tokens"):
            if name not in values:
                raise ValueError(f"{self.corpus} has no {name!r}; {way_out}")
        return values

    def read_tokenizer(self) -> SentencePieceTokenizer:
        """Returns the run's tokeniser; where its file is damaged, the copy in `checksums.json`.

        Raises:
            ValueError: `tokenizer.model` cannot be read and there is no copy.
        """
        way_out = "put it back, or begin a new run"
        sums = Checksums.load(self.checksums)
        problem = sums.damage(self.tokenizer)
        if problem is not None and sums.tokenizer:
            return SentencePieceTokenizer(unpacked(sums.tokenizer))
        if problem is not None:
            raise ValueError(f"{self.tokenizer} {problem}; {way_out}")
        try:
            return SentencePieceTokenizer.load(self.tokenizer)
        except ValueError as error:
            raise ValueError(f"{self.tokenizer} cannot be read: {error}; {way_out}") from error

    def repair_tokenizer(self) -> str | None:
        """Writes `tokenizer.model` again where it is damaged; only for whoever holds the lock.

        Returns:
            A sentence about it, or None if there was nothing to do.
        """
        problem = self.damage(self.tokenizer)
        if problem is None:
            return None
        proto = self.read_tokenizer().proto
        if self.tokenizer.exists():
            self.set_aside(self.tokenizer)
        replace_file(self.tokenizer, lambda path: path.write_bytes(proto))
        return f"{self.tokenizer} {problem}; it is written again from {self.checksums.name}."

    def read_evaluation(self) -> dict:
        """Returns what `evaluation.json` holds.

        Raises:
            ValueError: It cannot be read.
        """
        return _read_object(
            self.evaluation, f"remove it, or write it anew with: fwl-keras evaluate {self.path}"
        )

    def damage(self, path: Path, name: str | None = None) -> str | None:
        """Says what is wrong with a file of the run, see `Checksums.damage`."""
        return Checksums.load(self.checksums).damage(path, name)

    def keep_checkpoint(self, lm: "FWLCausalLM") -> None:
        """Writes a checkpoint; the last one becomes the one before.

        A kill leaves at least one of the two whole, at every moment.

        Args:
            lm: The model, compiled.

        Raises:
            OSError: It cannot be written; nothing has changed then.
        """

        def make_way(beside: Path) -> None:
            self._remember(self.checkpoint, beside)
            if self.checkpoint.exists():
                os.replace(self.checkpoint, self.previous_checkpoint)

        replace_file(self.checkpoint, lm.save_weights, make_way, size=_size(lm))

    def keep_model(self, lm: "FWLCausalLM") -> None:
        """Writes the final model.

        Args:
            lm: The model.

        Raises:
            OSError: It cannot be written; nothing has changed then.
        """

        def remember(beside: Path) -> None:
            self._remember(self.model, beside)

        replace_file(self.model, lm.save, remember, size=_size(lm))

    def remember_beginning(self) -> None:
        """Writes checksums for a run that has none, from its files as they are."""
        if self.checksums.exists():
            return
        config, corpus = RunConfig.load(self.config), self.read_corpus()
        proto = self.read_tokenizer().proto
        sums = Checksums(dataclasses.asdict(config), corpus, tokenizer=packed(proto))
        sums.add(self.tokenizer.name, sha256(self.tokenizer))
        self._write_checksums(sums)

    def set_aside(self, path: Path) -> Path:
        """Moves a damaged file out of the way, to a name that is free.

        Args:
            path: The file, or what is in its place.

        Returns:
            Where it is now.
        """
        names = (f"damaged-{number}-{path.name}" for number in itertools.count(1))
        free = next(aside for name in names if not (aside := path.with_name(name)).exists())
        os.replace(path, free)
        return free

    def remove_leftovers(self) -> None:
        """Removes what killed processes were writing; only for whoever holds the lock."""
        for path in self.path.glob(f"{BESIDE}*"):
            path.unlink()

    def read_metrics(self) -> list[dict]:
        """Returns the lines of `metrics.jsonl` that can be read; a kill may have cut off one."""
        return self._metrics()[0]

    def append_metrics(self, values: dict) -> None:
        """Adds a line to `metrics.jsonl` and waits until it is on disk.

        Args:
            values: By name; numbers that are not finite are written as null.
        """
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(strict_json(values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_metrics(self, step: int) -> Path | None:
        """Drops the lines after `step`, which will be written again.

        Args:
            step: The last step to keep.

        Returns:
            Where the file is kept if lines of it could not be read, apart from a last one that a
            kill cut off.
        """
        kept, damaged = self._metrics()
        aside = self.set_aside(self.metrics) if damaged else None
        text = "".join(strict_json(line) + "\n" for line in kept if line["step"] <= step)
        replace_file(self.metrics, lambda path: path.write_text(text, "utf-8"))
        return aside

    def _metrics(self) -> tuple[list[dict], bool]:
        """The lines that can be read, and whether others are damaged."""
        if not self.metrics.exists():
            return [], False
        if not self.metrics.is_file():
            return [], True
        whole, _, cut = self.metrics.read_bytes().rpartition(b"\n")
        lines = [_metrics_line(line) for line in (*whole.split(b"\n"), cut) if line]
        if cut and lines[-1] is None:
            lines.pop()
        return [line for line in lines if line is not None], None in lines

    def _remember(self, path: Path, beside: Path) -> None:
        sums = Checksums.load(self.checksums)
        if path.name not in sums.files and path.exists():
            # Written when runs had no checksums.
            sums.add(path.name, sha256(path))
        sums.add(path.name, sha256(beside))
        self._write_checksums(sums)

    def _write_checksums(self, sums: Checksums) -> None:
        replace_file(self.checksums, lambda path: path.write_text(sums.to_json(), "utf-8"))


def check_new_run(path: str | Path) -> None:
    """Raise a ValueError if a run at `path` would mix with files that are there.

    Args:
        path: the directory that the command was given.
    """
    go_on = f"continue the run in it with `--resume {path}`, or " if Path(path).is_dir() else ""
    check_new(path, f"{go_on}give another directory to `--to`")


def _read_object(path: Path, way_out: str) -> dict:
    try:
        values = json.loads(path.read_text("utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it has {type(values).__name__} where an object is needed")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; {way_out}") from error
    return values


def _metrics_line(line: bytes) -> dict | None:
    try:
        values = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    there = isinstance(values, dict) and isinstance(values.get("step"), int)
    return values if there else None


def _size(lm: "FWLCausalLM") -> int:
    """Bytes of a model's file, rather more than less: weights, optimizer, and HDF5's own."""
    optimizer = getattr(lm, "optimizer", None)
    variables = [*lm.variables, *(optimizer.variables if optimizer is not None else ())]
    values = sum(math.prod(v.shape) * (8 if "64" in str(v.dtype) else 4) for v in variables)
    return values + 4096 * len(variables) + 65_536
