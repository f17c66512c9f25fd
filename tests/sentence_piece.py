"""SentencePiece models as others train them: with a dummy prefix, bytes for unknown characters."""

import io

import sentencepiece


def sentence_piece(**settings) -> bytes:
    """A serialised model of 320 pieces at most."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the man and the dog saw the man"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=320,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()
