"""What padding is: decided here for every preprocessor, and for whoever reads, trains or writes."""

import sys

import numpy as np

# For tokens that a context can take: as many as there are.
NO_LIMIT = np.iinfo("int32").max


def pad_token_id_of(preprocessor) -> int | None:
    """Return the id that fills up batches and never stands for text, or None where no id does.

    Args:
        preprocessor: TextPreprocessor, KerasHub preprocessor, or None.

    Returns:
        `preprocessor.pad_token_id`, else that of its tokeniser; None for a KerasHub byte-pair
        tokeniser whose pad token is an ordinary piece too (GPT-2's and Llama 3's is "!"): there
        only a mask tells padding from text.
    """
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if _pads_with_a_word(tokenizer):
        return None
    found = getattr(preprocessor, "pad_token_id", None)
    return getattr(tokenizer, "pad_token_id", None) if found is None else found


def _pads_with_a_word(tokenizer):
    # Whoever has a KerasHub tokeniser has imported KerasHub.
    keras_hub = sys.modules.get("keras_hub")
    if keras_hub is None or not isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer):
        return False
    # The id alone, without a special token of that name. Its own list of special ids cannot be
    # asked for while a file is loaded, when the vocabulary comes last.
    return getattr(tokenizer, "pad_token", None) is None


def round_up(length: int) -> int:
    """Return a length that is at most a quarter longer, so that few lengths are ever compiled."""
    step = max(1, 2 ** (int(length).bit_length() - 3))
    return -(-length // step) * step


def pad_rows(
    rows: list[np.ndarray], width: int, pad_token_id: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as arrays [B, width]: int32 token ids, and a mask of those that exist."""
    token_ids = np.full((len(rows), width), pad_token_id, "int32")
    padding_mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        token_ids[i, : row.size] = row
        padding_mask[i, : row.size] = True
    return token_ids, padding_mask
