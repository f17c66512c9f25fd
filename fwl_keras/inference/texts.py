"""Between what users give and get, texts or token ids, and rows of token ids."""

import base64
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from fwl_keras._arguments import is_int

if TYPE_CHECKING:
    from fwl_keras.data.sentencepiece_tokenizer import SentencePieceTokenizer

# Tokens of a prompt that its continuation is decoded after: enough for any character's bytes.
_TOKENS_BEFORE = 16


@keras.saving.register_keras_serializable(package="fwl_keras")
class TextPreprocessor:
    """Makes a FWLCausalLM take and give text; saved with the model.

    What a KerasHub preprocessor is to a KerasHub model, for this package's tokeniser, which gives
    back every text exactly.

    Args:
        tokenizer: the tokeniser.
        start_token_id: id before the first token of a text; None: the tokeniser's `bos_id`.
        end_token_id: id behind its last token, which ends generation; None: its `eos_id`.

    Attributes:
        pad_token_id: the tokeniser's `pad_id`, which no text has: it fills up batches.

    Example:
        >>> tokenizer = SentencePieceTokenizer.train(texts, 1000)
        >>> lm = FWLCausalLM(backbone, block, preprocessor=TextPreprocessor(tokenizer))
        >>> lm.generate("Once upon", max_length=50)
    """

    def __init__(
        self,
        tokenizer: "SentencePieceTokenizer",
        start_token_id: int | None = None,
        end_token_id: int | None = None,
    ):
        self.tokenizer = tokenizer
        self.start_token_id = tokenizer.bos_id if start_token_id is None else start_token_id
        self.end_token_id = tokenizer.eos_id if end_token_id is None else end_token_id
        self.pad_token_id = getattr(tokenizer, "pad_id", None)

    def get_config(self) -> dict:
        return {
            "tokenizer": base64.b64encode(self.tokenizer.proto).decode("ascii"),
            "start_token_id": self.start_token_id,
            "end_token_id": self.end_token_id,
        }

    @classmethod
    def from_config(cls, config):
        # Here, so that the package can be imported without a tokeniser.
        from fwl_keras.data.sentencepiece_tokenizer import SentencePieceTokenizer

        value = config.get("tokenizer")
        try:
            proto = base64.b64decode(value, validate=True)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`tokenizer` must be a SentencePiece model in base64; received {value!r:.100}."
            ) from error
        return cls(**{**config, "tokenizer": SentencePieceTokenizer(proto)})


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
        """Return rows of token ids, without start and end tokens.

        Args:
            inputs: a text, or several in a list, an array or a tensor [B]; or token ids: a
                vector, a list of vectors, an int array [B, T], from which the pad token is taken
                out, if there is one; or a dict of `token_ids` and `padding_mask`; or a batched
                `tf.data.Dataset` of any of these, all of whose batches are read.
            name: the argument's name, for errors.

        Raises:
            ValueError: if it is none of these, or an id is outside [0, V).
        """
        if hasattr(inputs, "element_spec"):
            return self._from_dataset(inputs, name)
        inputs = _unpacked(inputs, name)
        if isinstance(inputs, str | bytes):
            return Rows(self.encode([inputs], name), True, True)
        arrays = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
        if any(np.shape(one)[:1] == (0,) for one in arrays if _is_array(one) and one.ndim > 1):
            raise ValueError(f"`{name}` is empty; give at least one text or row of token ids.")
        if isinstance(inputs, dict):
            return Rows(self._from_arrays(inputs, name), False, False)
        if _is_array(inputs) and np.asarray(inputs).dtype.kind in "iu":
            ids = np.asarray(inputs)
            if ids.ndim == 1:
                return Rows([self._row(ids, name)], False, True)
            if ids.ndim == 2:
                return Rows([self._row(row, name) for row in ids], False, False)
        if _is_array(inputs):
            inputs = np.asarray(inputs)
            if not inputs.ndim or inputs.dtype.kind == "b":
                raise ValueError(
                    f"`{name}` must be texts or token ids; received an array of shape "
                    f"{inputs.shape} and dtype {inputs.dtype}."
                )
        inputs = list(inputs) if isinstance(inputs, Sequence | np.ndarray) else inputs
        if not isinstance(inputs, list):
            raise ValueError(
                f"`{name}` must be texts or token ids; received {type(inputs).__name__}."
            )
        if not inputs:
            raise ValueError(f"`{name}` is empty; give at least one text or row of token ids.")
        if all(isinstance(one, str | bytes) for one in inputs):
            return Rows(self.encode(inputs, name), True, False)
        if all(map(is_int, inputs)):
            return Rows([self._row(np.asarray(inputs), name)], False, True)
        return Rows([self._row(_vector(one, name), name) for one in inputs], False, False)

    def encode(self, texts: Sequence[str | bytes], name: str = "texts") -> list[np.ndarray]:
        """Return token ids of texts, int32 [T_i], without start and end tokens.

        Args:
            texts: the texts, bytes in UTF-8.
            name: the argument's name, for errors.

        Raises:
            ValueError: if bytes are not UTF-8, or there is no tokeniser.
        """
        texts = [_decoded(text, i, name) for i, text in enumerate(texts)]
        tokenizer = self._tokenizer()
        if isinstance(self.preprocessor, TextPreprocessor):
            return tokenizer.encode_arrays(texts)
        return [np.asarray(tokenizer(text), "int32").reshape(-1) for text in texts]

    def decode(self, ids: np.ndarray) -> str:
        """Return the text of token ids [T]; special tokens disappear."""
        tokenizer = self._tokenizer()
        if isinstance(self.preprocessor, TextPreprocessor):
            return tokenizer.decode(ids)
        # Not the pad token as such: GPT-2's is the id of "!".
        known = getattr(tokenizer, "special_token_ids", ())
        special = {self.start_token_id, *self.end_token_ids, *known}
        kept = [int(one) for one in ids if int(one) not in special]
        text: Any = tokenizer.detokenize(kept) if kept else ""
        text = keras.tree.flatten(text)[0] if not isinstance(text, str | bytes) else text
        text = text.numpy() if hasattr(text, "numpy") else text
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)

    def continuation(self, before: np.ndarray) -> Callable[[np.ndarray], str]:
        """Return a function that decodes what comes after other tokens.

        A text's first token is decoded differently by some tokenisers: SentencePiece models with
        a dummy prefix, as Llama's, take a space off it. Hence what is new is decoded with what
        is before it, whose text is then cut off.

        Args:
            before: int [T], the tokens before; none stands for a text that is not known.

        Returns:
            Function of token ids [T] that come next, of which it gives the text.

        Example:
            >>> codec.decode([the, man]), codec.continuation([the])([man])
            ("the man", " man")
        """
        if not len(before):
            before = self.encode(["a"])[0]
        count, text = _TOKENS_BEFORE, ""
        while not text:
            ids = before[-count:]
            text = self.decode(ids)
            if len(ids) == len(before):
                break
            count *= 2

        def decode(after):
            whole = self.decode(np.concatenate([ids, after]))
            # Half a character at the end of what was before is a whole one now.
            pairs = zip(text, whole, strict=False)
            kept = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            return whole[kept:]

        return decode

    @property
    def replacement(self) -> str:
        """What the tokeniser writes for bytes that are no character, or not yet."""
        return chr(getattr(self._tokenizer(), "replacement_char", 0xFFFD))

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

    def _from_dataset(self, dataset, name):
        """Return rows of all batches of a tf.data.Dataset."""
        spec = dataset.element_spec
        if isinstance(spec, tuple):
            raise ValueError(
                f"`{name}` is a dataset of tuples; give one of texts or of token ids alone: "
                "`dataset.map(lambda x, *rest: x)`."
            )
        if any(leaf.shape.rank < 2 - _is_string(leaf) for leaf in keras.tree.flatten(spec)):
            raise ValueError(
                f"`{name}` is a dataset of single rows; give batches of them: `dataset.batch(8)`."
            )
        # -1 is tf.data.INFINITE_CARDINALITY.
        if int(dataset.cardinality()) == -1:
            raise ValueError(f"`{name}` is a dataset without an end; give `dataset.take(n)`.")
        batches = [self.rows(batch, name) for batch in dataset]
        if not batches:
            raise ValueError(f"`{name}` is a dataset without a batch; give at least one.")
        return Rows([row for batch in batches for row in batch.ids], batches[0].is_text, False)

    def _from_arrays(self, inputs, name):
        missing = {"token_ids", "padding_mask"} - set(inputs)
        if missing:
            raise ValueError(
                f"`{name}` given as a dict must hold `token_ids` and `padding_mask`; received "
                f"{sorted(inputs)}."
            )
        ids, mask = (np.asarray(inputs[key]) for key in ("token_ids", "padding_mask"))
        if ids.dtype.kind not in "iu" and ids.size:
            raise ValueError(f"`{name}['token_ids']` must be integers; received dtype {ids.dtype}.")
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
        """Return a row's tokens, without padding."""
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


def _decoded(text, index, name):
    if not isinstance(text, bytes):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"`{name}` is not UTF-8 in row {index}: {error}.") from error


def _is_string(tensor):
    """Return whether it holds strings: then it is TensorFlow's, whatever the backend is."""
    return getattr(getattr(tensor, "dtype", None), "name", None) == "string"


def _unpacked(inputs, name):
    """Return arrays of texts as a text or a list, ragged tensors as lists; else as it is."""
    if hasattr(inputs, "row_splits"):
        return inputs.to_list()
    array = inputs.numpy() if _is_string(inputs) and hasattr(inputs, "numpy") else inputs
    if isinstance(array, np.ndarray) and array.dtype.kind in "OSUT":
        if array.ndim > 1:
            raise ValueError(
                f"`{name}` must be a text or a vector of texts; received an array of shape "
                f"{array.shape}."
            )
        return array.tolist()
    return array


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
