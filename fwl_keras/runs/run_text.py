"""A corpus made ready for a run: tokens, and a configuration that fits the text."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fwl_keras.data import (
    Corpus,
    DocumentBatches,
    SentencePieceTokenizer,
    TrainingBatches,
    load_corpus,
    pack_stream,
    token_stream,
)
from fwl_keras.data.sentencepiece_tokenizer import MIN_VOCAB_SIZE
from fwl_keras.runs.config import RunConfig
from fwl_keras.runs.directory import RunDirectory

# A piece that is seen less often than this on average is learned by heart, not understood.
_CHARACTERS_PER_ID = 100

# Windows that a training text should fill, and the shortest that still is a context.
_MIN_WINDOWS = 4
_MIN_LENGTH = 16

# More often than this a text is learned by heart.
_MAX_EPOCHS = 20


@dataclass(frozen=True)
class RunText:
    """A corpus as token ids.

    Attributes:
        corpus: the corpus.
        tokenizer: its tokeniser.
        stream: training documents, `eos` after each, int32, shape [tokens].
    """

    corpus: Corpus
    tokenizer: SentencePieceTokenizer
    stream: np.ndarray

    def batches(self, config: RunConfig) -> TrainingBatches | DocumentBatches:
        """Return the run's whole schedule of batches."""
        sizes = config.length, config.batch_size, config.steps, config.seed
        if not config.carry_state:
            return TrainingBatches(self.stream, *sizes)
        marks = {"eos_id": self.tokenizer.eos_id, "pad_id": self.tokenizer.pad_id}
        return DocumentBatches(self.documents_ids(), *sizes, **marks, groups=config.carry_groups)

    def documents_ids(self) -> list[np.ndarray]:
        """Return the training documents without their marks, views of the stream."""
        ends = np.flatnonzero(self.stream == self.tokenizer.eos_id)
        return [part[:-1] for part in np.split(self.stream, ends + 1)[:-1]]

    def validation_windows(self, config: RunConfig) -> np.ndarray | None:
        """Return windows of held-out text, evenly chosen: int32 [N, length]; None if too short."""
        if not self.corpus.valid or not config.validation_windows:
            return None
        ids = self.tokenizer.encode_arrays([document.text for document in self.corpus.valid])
        tokens = sum(len(one) + 1 for one in ids)
        if tokens < 2:
            return None
        windows = pack_stream(ids, min(config.length, tokens), eos_id=self.tokenizer.eos_id)
        count = min(len(windows), config.validation_windows)
        # Whole batches, so that a second shape need not be compiled.
        count = max(count - count % config.batch_size, min(count, config.batch_size))
        return windows[np.linspace(0, len(windows) - 1, count).astype(int)]

    def description(self) -> dict:
        """Return what `corpus.json` holds: the counts, and a fingerprint of the training text."""
        return {
            "name": self.corpus.name,
            **self.corpus.counts(),
            "training_tokens": int(self.stream.size),
            "fingerprint": hashlib.sha256(self.stream.tobytes()).hexdigest(),
        }


def prepare_text(
    config: RunConfig, say: Callable[[str], None], *, steps_given: bool = False
) -> tuple[RunConfig, RunText]:
    """Load a new run's corpus, train its tokeniser, and fit the configuration to the text.

    Args:
        config: what was asked for.
        say: told, in a sentence each, what is done and what was changed.
        steps_given: whether somebody chose the number of steps, which is then kept.

    Returns:
        The configuration as it will be used, and the text.

    Raises:
        ValueError: if the corpus cannot be read or is too small.
    """
    corpus = load_corpus(config.corpus, text_field=config.text_field)
    characters = corpus.counts()["train"]["characters"]
    say(f"{corpus.name}: {len(corpus.train):,} training documents, {characters:,} characters.")
    if config.initial_model is not None:
        tokenizer = RunDirectory.open(config.initial_model).read_tokenizer()
    else:
        vocab_size = min(config.vocab_size, max(MIN_VOCAB_SIZE, characters // _CHARACTERS_PER_ID))
        texts = [document.text for document in corpus.train]
        tokenizer = SentencePieceTokenizer.train(texts, vocab_size)
    text = encode_corpus(corpus, tokenizer)
    if config.initial_model is None and tokenizer.vocab_size < config.vocab_size:
        say(
            f"The text is small: its vocabulary has {tokenizer.vocab_size:,} ids instead of "
            f"{config.vocab_size:,}."
        )
    fitted = fit_to_tokens(
        config.replace(vocab_size=tokenizer.vocab_size), text.stream.size, say, steps_given
    )
    return fitted, text


def fit_to_tokens(
    config: RunConfig, tokens: int, say: Callable[[str], None], steps_given: bool = False
) -> RunConfig:
    """Shrink windows and steps to what a small text can give.

    Args:
        config: what was asked for.
        tokens: tokens of training text.
        say: told, in a sentence each, what was changed.
        steps_given: whether to leave the number of steps alone.

    Returns:
        The configuration as it can be used.

    Raises:
        ValueError: if the text is too small for the shortest windows.
    """
    length = min(config.length, tokens // _MIN_WINDOWS)
    if length < min(config.length, _MIN_LENGTH):
        raise ValueError(
            f"`corpus` {config.corpus!r} is too small to train on: {tokens} tokens of training "
            f"text, at least {_MIN_WINDOWS * _MIN_LENGTH} are needed; give a longer text."
        )
    if length < config.length:
        say(
            f"The text is small ({tokens:,} tokens): windows have {length} tokens instead of "
            f"{config.length}."
        )
    most = max(1, _MAX_EPOCHS * tokens // (length * config.batch_size))
    steps = config.steps if steps_given else min(config.steps, most)
    if steps < config.steps:
        say(
            f"{steps:,} steps instead of {config.steps:,}: the text is then read {_MAX_EPOCHS} "
            "times (--steps sets another number)."
        )
    return config.replace(length=length, steps=steps)


def reload_text(config: RunConfig, tokenizer: SentencePieceTokenizer, expected: dict) -> RunText:
    """Load a run's corpus again.

    Args:
        config: the run's configuration.
        tokenizer: its tokeniser.
        expected: its `corpus.json`.

    Returns:
        The text.

    Raises:
        ValueError: if the corpus cannot be read or is not the same any more.
    """
    text = encode_corpus(load_corpus(config.corpus, text_field=config.text_field), tokenizer)
    if text.description()["fingerprint"] != expected["fingerprint"]:
        raise ValueError(
            f"`corpus` {config.corpus!r} has changed since the run began: {text.stream.size} "
            f"training tokens, {expected['training_tokens']} then; restore it, or begin a new run."
        )
    return text


def encode_corpus(corpus: Corpus, tokenizer: SentencePieceTokenizer) -> RunText:
    """Return a corpus whose training documents are token ids.

    Args:
        corpus: the corpus.
        tokenizer: the tokeniser.
    """
    ids = tokenizer.encode_arrays([document.text for document in corpus.train])
    return RunText(corpus, tokenizer, token_stream(ids, eos_id=tokenizer.eos_id))
