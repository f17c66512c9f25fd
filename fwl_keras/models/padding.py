"""What padding is: decided here for every preprocessor, and for whoever reads, trains or writes."""

import sys


def pad_token_id_of(preprocessor) -> int | None:
    """The id that fills up batches and never stands for text, or None where no id does.

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
