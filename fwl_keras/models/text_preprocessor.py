"""A tokeniser kept with a model."""

import base64
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from fwl_keras.data.sentencepiece_tokenizer import SentencePieceTokenizer


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
        >>> lm = FWLCausalLM(body, block, preprocessor=TextPreprocessor(tokenizer))
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
