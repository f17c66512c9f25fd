"""Text: corpora, a SentencePiece tokeniser, and packing into batches.

Importing this package imports no deep-learning framework, and no SentencePiece.
"""

from fwl_keras.data.corpus import Corpus, Document, word_count
from fwl_keras.data.document_batches import DocumentBatches
from fwl_keras.data.document_pass import DocumentPass
from fwl_keras.data.load_corpus import CORPUS_NAMES, load_corpus
from fwl_keras.data.packing import evaluation_windows, pack_documents, pack_stream, token_stream
from fwl_keras.data.sentencepiece_tokenizer import SentencePieceTokenizer
from fwl_keras.data.text_files import load_documents
from fwl_keras.data.training_batches import TrainingBatches

__all__ = [
    "CORPUS_NAMES",
    "Corpus",
    "Document",
    "DocumentBatches",
    "DocumentPass",
    "SentencePieceTokenizer",
    "TrainingBatches",
    "evaluation_windows",
    "load_corpus",
    "load_documents",
    "pack_documents",
    "pack_stream",
    "token_stream",
    "word_count",
]
