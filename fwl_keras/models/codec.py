"""Between what users give and get, texts or token ids, and rows of token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from fwl_keras.models.text_preprocessor import TextPreprocessor


@dataclass(frozen=True)
class Rows:
    """A batch of rows of token ids.

    Attributes:
        ids: int32 arrays [T_i].
        is_text: whether they were given as text.
        is_single: whether there was one text or vector outside any list.
    """

    ids: list
    is_text: bool
    is_single: bool


class Codec:
    """What a preprocessor knows about texts.

    Args:
        preprocessor: TextPreprocessor or KerasHub preprocessor, or None: then texts are refused.
        vocab_size: number of ids V.
        pad_token_id: id that is no token wherever it stands, or None.
    """

    def __init__(self, preprocessor, vocab_size: int, pad_token_id: int | None):
        self.preprocessor = preprocessor
        self.vocab_size = vocab_size
        self.pad_token_id = pad_token_id

    def rows(self, inputs, name: str) -> Rows:
        """Rows of token ids, without start and end tokens.

        Args:
            inputs: a text or a list of texts; or token ids: a vector, a list of vectors, an int
                array [B, T], from which the pad token is taken out, if there is one; or a dict of
                `token_ids` and `padding_mask`.
            name: the argument's name, for errors.

        Raises:
            ValueError: if it is none of these, or an id is outside [0, V).
        """
        if isinstance(inputs, str | bytes):
            return Rows(self.encode([inputs]), True, True)
        if isinstance(inputs, dict):
            return Rows(self._from_arrays(inputs, name), False, False)
        if _is_array(inputs) and np.asarray(inputs).dtype.kind in "iu":
            ids = np.asarray(inputs)
            if ids.ndim == 1:
                return Rows([self._row(ids, name)], False, True)
            if ids.ndim == 2:
                return Rows([self._row(row, name) for row in ids], False, False)
        inputs = list(inputs) if isinstance(inputs, Sequence | np.ndarray) else inputs
        if not isinstance(inputs, list):
            raise ValueError(
                f"`{name}` must be texts or token ids; received {type(inputs).__name__}."
            )
        if not inputs:
            raise ValueError(f"`{name}` is empty; give at least one text or row of token ids.")
        if all(isinstance(one, str | bytes) for one in inputs):
            return Rows(self.encode(inputs), True, False)
        if all(isinstance(one, int | np.integer) for one in inputs):
            return Rows([self._row(np.asarray(inputs), name)], False, True)
        return Rows([self._row(_vector(one, name), name) for one in inputs], False, False)

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Token ids of texts, int32 [T_i], without start and end tokens."""
        texts = [text.decode("utf-8") if isinstance(text, bytes) else text for text in texts]
        tokenizer = self._tokenizer()
        if isinstance(self.preprocessor, TextPreprocessor):
            return tokenizer.encode_arrays(texts)
        return [np.asarray(tokenizer(text), "int32").reshape(-1) for text in texts]

    def decode(self, ids: np.ndarray) -> str:
        """The text of token ids [T]; special tokens disappear."""
        tokenizer = self._tokenizer()
        if isinstance(self.preprocessor, TextPreprocessor):
            return tokenizer.decode(ids)
        # Not the pad token as such: GPT-2's is the id of "!".
        known = getattr(tokenizer, "special_token_ids", ())
        special = {self.start_token_id, *self.end_token_ids, *known}
        ids = [int(one) for one in ids if int(one) not in special]
        text = tokenizer.detokenize(ids) if ids else ""
        text = keras.tree.flatten(text)[0] if not isinstance(text, str | bytes) else text
        text = text.numpy() if hasattr(text, "numpy") else text
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)

    @property
    def start_token_id(self) -> int | None:
        """Id before the first token of a text, or None for no such id."""
        if isinstance(self.preprocessor, TextPreprocessor):
            return self.preprocessor.start_token_id
        if not getattr(self.preprocessor, "add_start_token", True):
            return None
        return getattr(self._tokenizer(), "start_token_id", None)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Ids that end a text; the first of them is the one to end it with."""
        if isinstance(self.preprocessor, TextPreprocessor):
            return (self.preprocessor.end_token_id,)
        tokenizer = self._tokenizer()
        names = ("end_token_id", "end_token2_id")
        ids = (getattr(tokenizer, name, None) for name in names)
        return tuple(one for one in ids if one is not None)

    def _tokenizer(self):
        tokenizer = getattr(self.preprocessor, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(
                "Texts need a model with a `preprocessor`; this one has none. Give token ids, or "
                "set `lm.preprocessor = TextPreprocessor(tokenizer)`."
            )
        return tokenizer

    def _from_arrays(self, inputs, name):
        missing = {"token_ids", "padding_mask"} - set(inputs)
        if missing:
            raise ValueError(
                f"`{name}` given as a dict must hold `token_ids` and `padding_mask`; received "
                f"{sorted(inputs)}."
            )
        ids, mask = (np.asarray(inputs[key]) for key in ("token_ids", "padding_mask"))
        mask = mask.astype(bool)
        if ids.ndim != 2 or mask.shape != ids.shape:
            raise ValueError(
                f"`{name}` must hold `token_ids` and `padding_mask` of one shape [batch, length]; "
                f"received {ids.shape} and {mask.shape}."
            )
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError(
                f"`{name}['padding_mask']` must be True up to a row's length and False behind it; "
                "received a mask with holes. Move the padding to the end."
            )
        return [self._check(row[m], name) for row, m in zip(ids, mask, strict=True)]

    def _row(self, ids, name):
        """A row's tokens, without padding."""
        if self.pad_token_id is not None:
            ids = ids[ids != self.pad_token_id]
        return self._check(ids, name)

    def _check(self, ids, name):
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            wrong = ids[(ids < 0) | (ids >= self.vocab_size)][0]
            raise ValueError(
                f"`{name}` has the id {wrong}, which is outside [0, {self.vocab_size}); give ids "
                "of this model's tokeniser."
            )
        return ids.astype("int32")


def _is_array(inputs):
    return isinstance(inputs, np.ndarray) or keras.ops.is_tensor(inputs)


def _vector(row, name):
    row = np.asarray(row)
    if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
        raise ValueError(
            f"`{name}` must hold texts, or vectors of integer ids, not a mixture; received an "
            f"element of shape {row.shape} and dtype {row.dtype}."
        )
    return row.astype("int64")
