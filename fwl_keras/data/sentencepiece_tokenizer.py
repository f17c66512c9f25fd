"""SentencePiece tokeniser that gives back every text exactly."""

import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from fwl_keras._progress import track
from fwl_keras.data.space_sign import SPACE_SIGN, SPACE_SIGN_PIECES
from fwl_keras.files import replace_file

if TYPE_CHECKING:
    from fwl_keras.data.tf_sentencepiece_tokenizer import TFSentencePieceTokenizer

# What the trainer cannot learn from, so that it becomes bytes: its sign for a space; its sign for
# an unknown character, for which it leaves out the whole chunk; NUL, which ends its strings.
_UNLEARNABLE = f"{SPACE_SIGN}\u2585\0"

# What a damaged or foreign model does not give back: spaces anywhere, characters that normalisers
# change, characters that no vocabulary has.
_PROBE = "  a  \ufb01\u00a0e\u0301\n\r\n\t \0\u2585\ud7ff\ue000\U0010ffff\u3000 z "

# Four special ids, 256 bytes, and room for some characters and pieces.
MIN_VOCAB_SIZE = 300

# Trainer's "sentences": its default limit of 4 kB would leave out most of a source file.
_CHUNK_CHARACTERS = 10_000

# The trainer writes the number into the model, whose bytes must not depend on the machine.
_TRAINING_THREADS = 4

# Texts are encoded in groups of about this many characters, a few seconds each; where there are
# several, a progress bar shows.
_GROUP_CHARACTERS = 10_000_000


class SentencePieceTokenizer:
    r"""Byte-pair encoding by SentencePiece, without any change to the text.

    No normalisation, no added or removed spaces, and unknown characters as bytes: `decode(encode(
    text)) == text` for every text that UTF-8 can write. Line ends, tabs and runs of spaces (a
    program's indentation) are text like any other, and so are SentencePiece's own signs.

    `encode` and `decode` need only the `sentencepiece` package; `to_tf` gives the same tokeniser
    as TensorFlow operations.

    Args:
        proto: a serialised SentencePiece model with this class's special ids, from `train` or
            `proto`.

    Attributes:
        pad_id: 0, fills up batches.
        unk_id: 1, never produced: unknown characters become bytes.
        bos_id: 2, beginning of a document.
        eos_id: 3, end of a document.

    Raises:
        ValueError: if `proto` is not a SentencePiece model, or one with other special ids, or one
            that does not give back every text.
        ImportError: if SentencePiece is not installed.

    Example:
        >>> tokenizer = SentencePieceTokenizer.train(["def f(x):\n    return x\n"], 300)
        >>> tokenizer.decode(tokenizer.encode("\tx = '\N{SNOWMAN}'\n"))
        "\tx = '☃'\n"
    """

    pad_id = 0
    unk_id = 1
    bos_id = 2
    eos_id = 3

    def __init__(self, proto: bytes) -> None:
        sentencepiece = _import_sentencepiece()
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
            self._bytes_of_id = [self._bytes_of(one) for one in range(self.vocab_size)]
        # Pieces may be no UTF-8, and are quoted in the library's own errors.
        except (RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"`proto` ({len(proto)} bytes) is not a SentencePiece model: {error}; train one "
                "with `SentencePieceTokenizer.train`."
            ) from error
        for name in ("pad_id", "unk_id", "bos_id", "eos_id"):
            found, expected = getattr(self._processor, name)(), getattr(self, name)
            if found != expected:
                raise ValueError(
                    f"`proto` has `{name}`={found} where {expected} is needed; train the model "
                    "with `SentencePieceTokenizer.train`."
                )
        self._sign_ids = [self._processor.piece_to_id(piece) for piece in SPACE_SIGN_PIECES]
        # The ids' own bytes, too: a space put before the text would be taken off again.
        ids = self._processor.encode(_PROBE)
        found = {self._processor.decode(ids).encode(), b"".join(self.token_bytes(ids))}
        faithful = found == {_PROBE.encode()} and all(map(self._processor.is_byte, self._sign_ids))
        # Special ids are no text, and no piece of text has a special type, or it would disappear.
        special = [one for one, piece in enumerate(self._bytes_of_id) if not piece]
        if not faithful or special != [self.pad_id, self.unk_id, self.bos_id, self.eos_id]:
            raise ValueError(
                f"`proto` ({len(proto)} bytes) changes texts, such as {_PROBE!r}; it is damaged or "
                "was made for another purpose; train one with `SentencePieceTokenizer.train`."
            )
        self._proto = proto

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, max_characters: int = 40_000_000
    ) -> "SentencePieceTokenizer":
        """Learn a vocabulary. The same texts give the same model, byte for byte.

        Args:
            texts: training texts; their order does not matter much, their text does.
            vocab_size: the most ids that there may be. A small text has fewer pieces to learn, and
                the tokeniser then has fewer ids: read its `vocab_size`.
            max_characters: longer texts are thinned out evenly to about this many, which keeps
                training to seconds.

        Returns:
            The tokeniser.

        Raises:
            ValueError: if `vocab_size` is below 300, there is no text, or one has half of a
                surrogate pair.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ValueError(
                f"`vocab_size` must be at least {MIN_VOCAB_SIZE}, for 256 of them are bytes; "
                f"received {vocab_size}."
            )
        chunks = list(_chunks(texts, max_characters))
        if not any(chunk.strip() for chunk in chunks):
            raise ValueError("`texts` has no text in it; give at least one that is not blank.")
        chunks = _drop_unlearnable(chunks, (vocab_size - 260) // 2)
        model = io.BytesIO()
        _import_sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(chunks),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            # A small text has fewer pieces than that, and must do.
            hard_vocab_limit=False,
            # Nothing may change the text.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            byte_fallback=True,
            # A text without any space would leave the sign for it to the bytes, which come back
            # as the sign itself.
            required_chars=SPACE_SIGN,
            # Pieces for indentation, for `):` with the line end, for `self.`. On the standard
            # library, 4096 ids: 3.7 bytes a token in unseen modules, 2.2 with the defaults.
            allow_whitespace_only_pieces=True,
            split_by_unicode_script=False,
            split_by_number=False,
            max_sentencepiece_length=32,
            max_sentence_length=4 * _CHUNK_CHARACTERS,
            num_threads=_TRAINING_THREADS,
            pad_id=cls.pad_id,
            unk_id=cls.unk_id,
            bos_id=cls.bos_id,
            eos_id=cls.eos_id,
            # Names that no text has: the trainer learns nothing across a special piece's name, and
            # WikiText is full of a word `<unk>`.
            pad_piece="<|pad|>",
            unk_piece="<|unk|>",
            bos_piece="<|bos|>",
            eos_piece="<|eos|>",
            minloglevel=2,
        )
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "SentencePieceTokenizer":
        """Read a tokeniser that `save` wrote.

        Args:
            path: a file.

        Returns:
            The tokeniser.

        Raises:
            ValueError: if the file cannot be read, or is no such tokeniser.
        """
        try:
            proto = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(
                f"`path`={str(path)!r} cannot be read: {error}; give a file written by `save`."
            ) from error
        return cls(proto)

    def save(self, path: str | Path) -> None:
        """Write the tokeniser, whole or not at all.

        Args:
            path: a file in an existing directory; replaced if it is there.
        """
        replace_file(path, lambda beside: beside.write_bytes(self._proto))

    @property
    def proto(self) -> bytes:
        """The serialised SentencePiece model."""
        return self._proto

    @property
    def vocab_size(self) -> int:
        """Number of ids; every id is less."""
        return self._processor.vocab_size()

    def encode(self, text: str | Sequence[str]) -> list[int] | list[list[int]]:
        """Turn a text, or each of several, into ids; add no special ones.

        Args:
            text: a text, or several, which are encoded in parallel.

        Returns:
            A list of ids, or a list of them for each text.

        Raises:
            ValueError: if a text has half of a surrogate pair, which UTF-8 cannot write.
        """
        if isinstance(text, str):
            return self.encode([text])[0]
        return [ids for group in self._encode_groups(text) for ids in group]

    def encode_arrays(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Do what `encode` does, in far less memory, for large corpora.

        Args:
            texts: the texts.

        Returns:
            The ids of each text, int32, shape [tokens].

        Raises:
            ValueError: if a text has half of a surrogate pair, which UTF-8 cannot write.
        """
        groups = self._encode_groups(texts)
        return [np.asarray(ids, dtype=np.int32) for group in groups for ids in group]

    def _encode_groups(self, texts: Iterable[str]) -> Iterator[list[list[int]]]:
        texts = list(texts)
        for text in texts:
            _check_text(text)
        groups = _groups(texts)
        threads = os.cpu_count() or 1
        for group in track(groups, "encoding", shown=len(groups) > 1, transient=True):
            parts = [text.split(SPACE_SIGN) for text in group]
            ids = self._processor.encode([p for part in parts for p in part], num_threads=threads)
            yield list(self._join(iter(ids), map(len, parts)))

    def _join(self, ids: Iterator[list[int]], counts: Iterable[int]) -> Iterator[list[int]]:
        """Yield the ids of each text from those of its parts, the sign's own between them."""
        for count in counts:
            text = next(ids)
            for part in itertools.islice(ids, count - 1):
                text += self._sign_ids
                text += part
            yield text

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids back into text; special ids disappear.

        Args:
            ids: ids in [0, vocab_size), a list or a vector of integers.

        Returns:
            The text. Bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: if an id is out of range.
        """
        return self._processor.decode(self._checked(ids))

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """Return what each id on its own stands for.

        A character that is not in the vocabulary is several ids of one byte each: only joined are
        they text.

        Args:
            ids: ids in [0, vocab_size), a list or a vector of integers.

        Returns:
            The bytes of each id in UTF-8; none for special ids.

        Raises:
            ValueError: if an id is out of range.
        """
        return [self._bytes_of_id[one] for one in self._checked(ids)]

    def _bytes_of(self, one: int) -> bytes:
        piece = self._processor.id_to_piece(one)
        if self._processor.is_byte(one):
            return bytes([int(piece[3:-1], 16)])  # <0xE2>
        if self._processor.is_control(one) or self._processor.is_unknown(one):
            return b""
        return piece.replace(SPACE_SIGN, " ").encode("utf-8")

    def _checked(self, ids: Sequence[int]) -> list[int]:
        ids = [int(one) for one in ids]
        wrong = next((one for one in ids if not 0 <= one < self.vocab_size), None)
        if wrong is not None:
            raise ValueError(
                f"`ids` has {wrong}, which is not in [0, {self.vocab_size}); give ids of this "
                "tokeniser."
            )
        return ids

    def to_tf(self, add_bos: bool = False, add_eos: bool = False) -> "TFSentencePieceTokenizer":
        """Return the same tokeniser as TensorFlow operations, for graphs and SavedModels.

        Args:
            add_bos: whether `tokenize` puts `bos_id` before each text.
            add_eos: whether `tokenize` puts `eos_id` behind each text.

        Returns:
            A `tensorflow_text.Tokenizer` and `Detokenizer` whose ids are int32 and equal to
            `encode`'s.
        """
        # Here and not above: everything else works without TensorFlow.
        from fwl_keras.data.tf_sentencepiece_tokenizer import TFSentencePieceTokenizer

        return TFSentencePieceTokenizer(
            self._proto,
            sign_ids=self._sign_ids,
            bos_ids=[self.bos_id] * add_bos,
            eos_ids=[self.eos_id] * add_eos,
        )


def _import_sentencepiece() -> ModuleType:
    # Here and not above: a model for token ids does without.
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "`SentencePieceTokenizer` needs SentencePiece; install it with `pip install "
            "sentencepiece`."
        ) from error
    return sentencepiece


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"`text` must be a str; received {type(text).__name__}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"`text` has half of a surrogate pair at {error.start}, which UTF-8 cannot write; "
            "replace it."
        ) from error


def _chunks(texts: Iterable[str], max_characters: int) -> Iterator[str]:
    """Yield pieces of the texts, evenly thinned out to `max_characters` in all."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    for text in texts:
        _check_text(text)
    kept = min(1.0, max_characters / max(1, sum(map(len, texts))))
    number = 0
    for text in texts:
        for start in range(0, len(text), _CHUNK_CHARACTERS):
            # Whenever the number of chunks to keep so far grows by a whole one.
            if int((number + 1) * kept) > int(number * kept):
                yield text[start : start + _CHUNK_CHARACTERS]
            number += 1


def _drop_unlearnable(chunks: list[str], limit: int) -> list[str]:
    """Cut out characters that become bytes, and no others: the trainer takes in all the rest.

    Those that it cannot learn from, and the rarest where they would fill the vocabulary.
    """
    counts = Counter()
    for chunk in chunks:
        counts.update(chunk)
    for character in _UNLEARNABLE:
        del counts[character]
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    cut = re.compile(f"[{re.escape(_UNLEARNABLE + ''.join(ranked[limit:]))}]+")
    kept = [part for chunk in chunks for part in cut.split(chunk) if part]
    # The trainer's iterator takes line ends off: NUL, which it learns nothing from, keeps them.
    # It wants some text, and learns nothing from a space either.
    return [f"{part}\0" if part.endswith(("\n", "\r")) else part for part in kept] or [" "]


def _groups(texts: list[str]) -> list[list[str]]:
    """Put texts into groups small enough for a progress bar to move."""
    groups, characters = [[]], 0
    for text in texts:
        if characters > _GROUP_CHARACTERS:
            groups.append([])
            characters = 0
        groups[-1].append(text)
        characters += len(text)
    return groups
