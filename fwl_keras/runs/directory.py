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
from fwl_keras.runs.json_files import read_json_object, strict_json
from fwl_keras.runs.lock import locked
from fwl_keras.runs.reason import reason

if TYPE_CHECKING:
    from fwl_keras.models import FWLCausalLM

# The one value of a configuration that may be changed: what the text is, `corpus.json` checks.
_MAY_CHANGE = ("corpus",)

_PUT_BACK = "put it back, or begin a new run"


class RunDirectory:
    """Where a run keeps its files.

    Args:
        path: the run's directory.

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

    Example:
        >>> RunDirectory.open("runs/my_book").read_config().steps
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
        """Make the directory of a new run, with all that `--resume` needs, or nothing at all.

        Args:
            path: a directory that does not exist or is empty.
            config: the run's configuration.
            tokenizer: its tokeniser.
            corpus: what `corpus.json` is to hold.

        Returns:
            The run.

        Raises:
            ValueError: if there is something at `path` already.
        """
        check_new_run(path)
        with new_directory(path) as beside:
            run = cls(beside)
            run.tokenizer.write_bytes(tokenizer.proto)
            run.corpus.write_text(json.dumps(corpus, indent=2) + "\n", "utf-8")
            run.config.write_text(config.to_json(), "utf-8")
            run._remember_beginning(config, corpus, tokenizer)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """Find a run that was begun.

        Args:
            path: its directory.

        Returns:
            The run.

        Raises:
            ValueError: if there is no run.
        """
        run = cls(path)
        if not run.config.exists() and run.checksums.exists():
            raise ValueError(f"`{run.config}` is missing; {run._put_back('config')}.")
        if not run.config.exists():
            raise ValueError(
                f"`{path}` is not a run: it has no config.json; give the directory that "
                "`fwl-keras train` printed."
            )
        return run

    def next_config(self, **changes) -> RunConfig:
        """Return a configuration that goes on from this run's model, with another training.

        Args:
            **changes: `RunConfig`'s attributes; those that are None keep the run's value.

        Returns:
            The run's configuration with itself as `initial_model`.

        Raises:
            ValueError: if the run is not finished, or a value is out of its range.
        """
        self.require_finished()
        given = {name: value for name, value in changes.items() if value is not None}
        # What that run began with is in its weights.
        begin = {"longer_memory": 1.0, "smaller_steps": 1.0, "trained_part": "all"}
        begin["initial_model"] = str(self.path.resolve())
        return self.read_config().replace(**{**begin, **given})

    @property
    def finished(self) -> bool:
        """Whether the run has its final model."""
        return self.model.exists()

    def require_finished(self) -> None:
        """Raise a ValueError unless the run has its final model."""
        if not self.finished:
            raise ValueError(
                f"`{self.path}` is not finished: it has no {self.model.name}; finish it with "
                f"`{self.resume_command}`."
            )

    @property
    def resume_command(self) -> str:
        """What continues the run."""
        return f"fwl-keras train --resume {self.path}"

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from training this run; the lock ends with the process.

        Raises:
            ValueError: if another one is at it.
        """
        message = (
            f"`{self.path}` is being trained by another process; wait for its end, or stop it "
            "and continue the run with `--resume`."
        )
        return locked(self.config, message)

    def read_config(self) -> RunConfig:
        """Return the configuration, which must be the one that the run began with.

        Raises:
            ValueError: if `config.json` cannot be read or was edited.
        """
        sums = Checksums.load(self.checksums)
        try:
            config = RunConfig.load(self.config)
        except ValueError as error:
            if not sums.config:
                raise
            raise ValueError(f"{reason(error)}; {self._put_back('config')}.") from error
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
                f"`{self.config}` was edited since the run began: {', '.join(changes)}; put that "
                "back, or begin a new run."
            )
        return config

    def read_corpus(self) -> dict:
        """Return what `corpus.json` holds.

        Raises:
            ValueError: if it cannot be read or is not what the run wrote.
        """
        kept = Checksums.load(self.checksums).corpus
        way_out = self._put_back("corpus") if kept else _PUT_BACK
        values = _read_object(self.corpus, way_out)
        if kept and values != kept:
            raise ValueError(f"`{self.corpus}` is not what the run wrote; {way_out}.")
        for name in ("fingerprint", "training_tokens"):
            if name not in values:
                raise ValueError(f"`{self.corpus}` has no {name!r}; {way_out}.")
        return values

    def read_tokenizer(self) -> SentencePieceTokenizer:
        """Return the run's tokeniser; where its file is damaged, the copy in `checksums.json`.

        Raises:
            ValueError: if `tokenizer.model` cannot be read and there is no copy.
        """
        sums = Checksums.load(self.checksums)
        problem = sums.damage(self.tokenizer)
        if problem is not None and sums.tokenizer:
            return SentencePieceTokenizer(unpacked(sums.tokenizer))
        if problem is not None:
            raise ValueError(f"`{self.tokenizer}` {problem}; {_PUT_BACK}.")
        try:
            return SentencePieceTokenizer.load(self.tokenizer)
        except ValueError as error:
            raise ValueError(
                f"`{self.tokenizer}` cannot be read: {reason(error)}; {_PUT_BACK}."
            ) from error

    def repair_tokenizer(self) -> str | None:
        """Write `tokenizer.model` again where it is damaged; only for whoever holds the lock.

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
        return f"`{self.tokenizer}` {problem}; it is written again from {self.checksums.name}."

    def read_evaluation(self) -> dict:
        """Return what `evaluation.json` holds.

        Raises:
            ValueError: if it cannot be read.
        """
        return _read_object(
            self.evaluation, f"remove it, or write it anew with `fwl-keras evaluate {self.path}`"
        )

    def damage(self, path: Path, name: str | None = None) -> str | None:
        """Say what is wrong with a file of the run, see `Checksums.damage`."""
        return Checksums.load(self.checksums).damage(path, name)

    def keep_checkpoint(self, lm: "FWLCausalLM") -> None:
        """Write a checkpoint; the last one becomes the one before.

        A kill leaves at least one of the two whole, at every moment.

        Args:
            lm: the model, compiled.

        Raises:
            OSError: if it cannot be written; nothing has changed then.
        """

        def make_way(beside: Path) -> None:
            self._remember(self.checkpoint, beside)
            if self.checkpoint.exists():
                os.replace(self.checkpoint, self.previous_checkpoint)

        replace_file(self.checkpoint, lm.save_weights, make_way, size=_size(lm))

    def keep_model(self, lm: "FWLCausalLM") -> None:
        """Write the final model.

        Args:
            lm: the model.

        Raises:
            OSError: if it cannot be written; nothing has changed then.
        """
        replace_file(
            self.model, lm.save, lambda beside: self._remember(self.model, beside), size=_size(lm)
        )

    def remember_beginning(self) -> None:
        """Write checksums for a run that has none, from its files as they are."""
        if not self.checksums.exists():
            config = RunConfig.load(self.config)
            self._remember_beginning(config, self.read_corpus(), self.read_tokenizer())

    def set_aside(self, path: Path) -> Path:
        """Move a damaged file out of the way, to a name that is free.

        Args:
            path: the file, or what is in its place.

        Returns:
            Where it is now.
        """
        names = (f"damaged-{number}-{path.name}" for number in itertools.count(1))
        free = next(aside for name in names if not (aside := path.with_name(name)).exists())
        os.replace(path, free)
        return free

    def remove_leftovers(self) -> None:
        """Remove what killed processes were writing; only for whoever holds the lock."""
        for path in self.path.glob(f"{BESIDE}*"):
            path.unlink()

    def read_metrics(self) -> list[dict]:
        """Return the lines of `metrics.jsonl` that can be read; a kill may have cut off one."""
        return self._metrics()[0]

    def append_metrics(self, values: dict) -> None:
        """Add a line to `metrics.jsonl` and wait until it is on disk.

        Args:
            values: by name; numbers that are not finite are written as null.
        """
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(strict_json(values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_metrics(self, step: int) -> Path | None:
        """Drop the lines after `step`, which will be written again.

        Args:
            step: the last step to keep.

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
        """Return the lines that can be read, and whether others are damaged."""
        if not self.metrics.exists():
            return [], False
        if not self.metrics.is_file():
            return [], True
        whole, _, cut = self.metrics.read_bytes().rpartition(b"\n")
        lines = [_metrics_line(line) for line in (*whole.split(b"\n"), cut) if line]
        if cut and lines[-1] is None:
            lines.pop()
        return [line for line in lines if line is not None], None in lines

    def _put_back(self, name: str) -> str:
        """Say what to do about a file of which there is a copy."""
        return f'put it back: `{self.checksums}` has its values under "{name}"'

    def _remember_beginning(
        self, config: RunConfig, corpus: dict, tokenizer: SentencePieceTokenizer
    ) -> None:
        sums = Checksums(dataclasses.asdict(config), corpus, tokenizer=packed(tokenizer.proto))
        sums.add(self.tokenizer.name, sha256(self.tokenizer))
        self._write_checksums(sums)

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
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"`{path}` cannot be read: {reason(error)}; {way_out}.") from error


def _metrics_line(line: bytes) -> dict | None:
    try:
        values = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    there = isinstance(values, dict) and isinstance(values.get("step"), int)
    return values if there else None


def _size(lm: "FWLCausalLM") -> int:
    """Return a model file's bytes, rather more than less: weights, optimizer, and HDF5's own."""
    from fwl_keras.callbacks import all_variables

    variables = all_variables(lm)
    values = sum(math.prod(v.shape) * (8 if "64" in str(v.dtype) else 4) for v in variables)
    return values + 4096 * len(variables) + 65_536
