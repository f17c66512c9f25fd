"""The directory of a benchmark: its text, its models, and what was measured so far."""

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

from benchmarks.common import write_json
from benchmarks.rivals.models import MODELS
from fwl_keras.data import Document, SentencePieceTokenizer, evaluation_windows, word_count
from fwl_keras.files import check_new, new_directory, replace_file
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.run_text import RunText, encode_corpus, prepare_text, reload_text
from fwl_keras.runs.train import train

# Windows of training text from which statistics of gradients are taken.
_STATISTICS_WINDOWS = 400

# Settings are searched on every so many-th validation document.
_SEARCH_STRIDE = 6

# Every third training document, from this one on, is left out of "two thirds".
_FIRST_LEFT_OUT = 2


@dataclass(frozen=True)
class Workspace:
    """Where a benchmark keeps its files, each of them whole at every moment.

    Attributes:
        path: the directory: `config.json`, `corpus.json`, `tokenizer.model`, `models/`, `cells/`,
            `losses/`, `searches/`, `costs/`.
        config: what all models have in common.
        text: the corpus, as token ids.
    """

    path: Path
    config: RunConfig
    text: RunText

    @classmethod
    def open(cls, path: str | Path, config: RunConfig, console: Console) -> "Workspace":
        """Open a benchmark's directory, or make it.

        Args:
            path: the directory.
            config: the configuration asked for.
            console: where to report.

        Raises:
            ValueError: if something else is there, or a benchmark of another configuration or text.
        """
        files = RunDirectory(path)
        if not files.config.exists():
            check_new(path, "give another directory to `--to`")
            config, text = prepare_text(config, console.print, steps_given=True)
            with new_directory(path) as beside:
                new = RunDirectory(beside)
                text.tokenizer.save(new.tokenizer)
                description = text.description()
                new.corpus.write_text(json.dumps(description, indent=2) + "\n", "utf-8")
                new.config.write_text(config.to_json(), "utf-8")
            return cls(files.path, config, text)
        kept = RunConfig.load(files.config)
        # What was asked for may have been fitted to the text.
        asked = config.replace(vocab_size=kept.vocab_size, length=kept.length)
        if asked != kept:
            different = [
                field.name
                for field in dataclasses.fields(kept)
                if getattr(kept, field.name) != getattr(asked, field.name)
            ]
            raise ValueError(
                f"{str(path)!r} holds a benchmark with another {', '.join(different)}; give "
                "another directory to `--to`."
            )
        tokenizer = SentencePieceTokenizer.load(files.tokenizer)
        text = reload_text(kept, tokenizer, json.loads(files.corpus.read_text("utf-8")))
        return cls(files.path, kept, text)

    @cached_property
    def two_thirds(self) -> tuple[RunText, tuple[Document, ...]]:
        """Two thirds of the training documents to train on, and the others to evaluate on."""
        documents = self.text.corpus.train
        left_out = documents[_FIRST_LEFT_OUT::3]
        kept = tuple(one for i, one in enumerate(documents) if i % 3 != _FIRST_LEFT_OUT)
        corpus = dataclasses.replace(self.text.corpus, train=kept)
        return encode_corpus(corpus, self.text.tokenizer), left_out

    def model_config(self, name: str, seed: int) -> RunConfig:
        """Return a model's whole configuration."""
        model = MODELS[name]
        config = model.change(self.config).replace(seed=seed)
        if model.begins_with is not None:
            first = str(self.run(model.begins_with, seed).path)
            config = config.replace(initial_model=first)
        return config

    def run(self, name: str, seed: int) -> RunDirectory:
        """Return where a model is or will be."""
        return RunDirectory(self.path / "models" / f"{name}-{seed}")

    def train(self, name: str, seed: int, console: Console) -> None:
        """Train a model to its end, if that was not done; and first what it begins with."""
        model = MODELS[name]
        if model.begins_with is not None:
            self.train(model.begins_with, seed, console)
        run = self.run(name, seed)
        if run.finished:
            return
        config = self.model_config(name, seed)
        text = self.two_thirds[0] if model.two_thirds else self.text
        if not run.config.exists():
            RunDirectory.create(run.path, config, text.tokenizer, text.description())
        train(run, config, text, console, title=f"{name}, seed {seed}")
        keras.backend.clear_session()

    def documents(self, split: str) -> list[Document]:
        """Return a split's documents, without those that have no token.

        Args:
            split: `"valid"`, `"test"`, `"search"` for those validation documents that settings are
                searched on, or `"third"` for the training documents that two thirds leave out.
        """
        return [document for document, _ in self._pairs(split)]

    def documents_ids(self, split: str) -> list[np.ndarray]:
        """Return the token ids of `documents`."""
        return [ids for _, ids in self._pairs(split)]

    def _pairs(self, split):
        """Return documents and their token ids, encoded once: every row reads the same ones."""
        if split == "search":
            return self._pairs("valid")[::_SEARCH_STRIDE]
        if split not in self._encoded:
            third = split == "third"
            documents = self.two_thirds[1] if third else getattr(self.text.corpus, split)
            ids = self.text.tokenizer.encode_arrays([document.text for document in documents])
            pairs = zip(documents, ids, strict=True)
            self._encoded[split] = [pair for pair in pairs if len(pair[1])]
        return self._encoded[split]

    @cached_property
    def _encoded(self) -> dict[str, list[tuple[Document, np.ndarray]]]:
        return {}

    def training_windows(self) -> np.ndarray:
        """Return windows evenly chosen from the training text, int32 [N, length + 1]."""
        windows = evaluation_windows(self.text.stream, self.config.length)
        count = min(_STATISTICS_WINDOWS, len(windows))
        return windows[np.linspace(0, len(windows) - 1, count).astype(int)]

    @property
    def unit(self) -> str:
        """What perplexities are per: `"word"` (WikiText's words and line ends), or `"token"`."""
        return "word" if self.text.corpus.name.startswith("wikitext") else "token"

    def in_search(self, losses: np.ndarray) -> np.ndarray:
        """Return those losses of the validation documents that belong to `"search"`."""
        ends = np.cumsum([len(ids) for ids in self.documents_ids("valid")])
        return np.concatenate(np.split(losses, ends[:-1])[::_SEARCH_STRIDE])

    def units(self, split: str) -> int:
        """Return the number of words or tokens of a split; see `documents`."""
        if self.unit == "token":
            return sum(map(len, self.documents_ids(split)))
        return sum(word_count(document.text) for document in self.documents(split))

    def read_losses(self, name: str) -> dict[str, np.ndarray] | None:
        """Return what `write_losses` kept, or None."""
        path = self.path / "losses" / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as losses:
            return dict(losses)

    def write_losses(self, name: str, losses: dict[str, np.ndarray]) -> None:
        """Keep the loss of every token of some splits, float32 [tokens] in nats."""
        path = self.path / "losses" / f"{name}.npz"
        path.parent.mkdir(exist_ok=True)
        replace_file(path, lambda file: np.savez_compressed(file, **losses))

    def read_json(self, kind: str, name: str) -> dict | None:
        """Return what `write_json` kept, or None."""
        path = self.path / kind / f"{name}.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def write_json(self, kind: str, name: str, values: dict) -> None:
        """Keep values in a file of their own."""
        write_json(self.path / kind / f"{name}.json", values)
