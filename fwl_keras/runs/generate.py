"""Text written by a finished run, as it comes."""

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras_hub
import numpy as np
from rich.console import Console

from fwl_keras._arguments import require_count
from fwl_keras.data import load_documents
from fwl_keras.models import FWLCausalLM
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.progress import windows_with_bar
from fwl_keras.runs.samplers import make_sampler


@dataclass
class GeneratedText:
    """A text on its way, and what there is to say about it afterwards.

    Iterating over it reads what is to be read first, then yields the prompt and the pieces of the
    text; once.

    Args:
        path: the run's directory.
        prompt: what the text begins with.
        files: files to read first, in this order.
        passes: how often to read them.
        max_tokens: tokens to write at most.
        sampler: how tokens are drawn, see `make_sampler`.
        seed: seed of the drawing, or None for a random one.
        freeze: whether the fast weights stop learning where the writing begins.
        on_divergence: what is done where they diverge, as for `FWLCausalLM.read`.
        console: where to draw a progress bar; by default nowhere.
        text_field: the field of a `.jsonl` record that has the text.

    Attributes:
        tokens_read: tokens read before the prompt.
        tokens_written: tokens written so far.
        tokens_per_second: speed of writing, without the first token, which compiles.

    Raises:
        ValueError: if there is nothing to begin with, an argument is out of its range, a file
            cannot be read, or the run is not finished.

    Example:
        >>> for piece in GeneratedText("runs/my_book", "Once upon", max_tokens=100):
        ...     print(piece, end="", flush=True)
    """

    path: str | Path
    prompt: str = ""
    files: Sequence[str | Path] = ()
    passes: int = 1
    max_tokens: int = 200
    sampler: keras_hub.samplers.Sampler = field(default_factory=make_sampler)
    seed: int | None = None
    freeze: bool = False
    on_divergence: str = "ignore"
    console: Console | None = None
    text_field: str = "text"
    tokens_read: int = field(default=0, init=False)
    tokens_written: int = field(default=0, init=False)
    tokens_per_second: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.prompt and not self.files:
            raise ValueError(
                "There is nothing to begin with; give a `prompt`, or `files` to go on from."
            )
        for name in ("passes", "max_tokens"):
            require_count(name, getattr(self, name))
        if self.seed is None:
            self.seed = int(np.random.default_rng().integers(2**32))
        elif not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` must be in [0, 2**32); received {self.seed}.")

    def __iter__(self) -> Iterator[str]:
        texts = [
            document.text
            for file in self.files
            for document in load_documents(file, self.text_field)
        ]
        lm = load_run_model(self.path)
        lm.compile(sampler=self.sampler)
        tokenizer = lm.preprocessor.tokenizer
        start = np.array([lm.preprocessor.start_token_id], np.int32)
        read = [np.concatenate([start, ids]) for ids in tokenizer.encode_arrays(texts)]
        read = np.concatenate([*read * self.passes, np.zeros(0, np.int32)])
        self.tokens_read = len(read)
        # The prompt goes on where the reading stops. What stands right before it is left to be
        # read with it, so that the body sees it too: it remembers nothing of what it read before.
        split = max(0, len(read) - lm.context_length // 2)
        prompt = tokenizer.encode_arrays([self.prompt])[0]
        prompt = np.concatenate([read[split:] if len(read) else start, prompt])
        state = None
        with windows_with_bar(self.console, split) as windows:
            for window in windows(read[:split], lm.context_length):
                state = lm.read(window, state, on_divergence=self.on_divergence)
        yield self.prompt
        yield from self._write(lm, prompt, state)

    def _write(self, lm: FWLCausalLM, prompt: np.ndarray, state: dict | None) -> Iterator[str]:
        # Token ids and not text: they count tokens, and need not be decoded again for each piece.
        pieces = lm.stream(
            prompt,
            max_length=len(prompt) + self.max_tokens,
            state=state,
            seed=self.seed,
            adapt_while_generating=not self.freeze,
            on_divergence=self.on_divergence,
        )
        token_bytes = lm.preprocessor.tokenizer.token_bytes
        # Keeps the bytes of half a character until the other half comes.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        since = None
        for ids in pieces:
            if since is None:
                since = time.perf_counter()
            else:
                self.tokens_per_second = self.tokens_written / (time.perf_counter() - since)
            self.tokens_written += len(ids)
            yield decoder.decode(b"".join(token_bytes(ids)))
        yield decoder.decode(b"", final=True)

    def summary(self) -> str:
        """Return a sentence about what was read and written."""
        speed = self.tokens_per_second
        # The end mark is one of the tokens.
        ended = " (the model ended its text)" if self.tokens_written < self.max_tokens else ""
        how_fast = "" if speed is None else f" at {speed:,.1f} tokens/s"
        after = ""
        if self.files:
            names = ", ".join(str(file) for file in self.files)
            times = "" if self.passes == 1 else f" {self.passes} times"
            after = f" after reading {names}{times} ({self.tokens_read:,} tokens)"
        frozen = ", without adapting while writing" if self.freeze else ""
        written = f"{self.tokens_written:,} token{'' if self.tokens_written == 1 else 's'}"
        return f"Wrote {written}{ended}{how_fast}{after}{frozen}; seed {self.seed}."
