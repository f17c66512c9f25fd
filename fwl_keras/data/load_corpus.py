"""Corpora by name or path."""

from pathlib import Path

from fwl_keras.data.corpus import Corpus
from fwl_keras.data.python_stdlib import NAME as PYTHON_STDLIB
from fwl_keras.data.python_stdlib import load_python_stdlib
from fwl_keras.data.splits import check_fractions
from fwl_keras.data.text_files import SUFFIXES, check_text_field, existing_path, load_path
from fwl_keras.data.wikitext import ARCHIVES, download_wikitext

CORPUS_NAMES = (PYTHON_STDLIB, *ARCHIVES)


def load_corpus(
    name_or_path: str | Path,
    *,
    text_field: str = "text",
    valid_fraction: float = 0.05,
    test_fraction: float = 0.05,
    cache_dir: str | Path | None = None,
) -> Corpus:
    """Load a corpus by its name, or a user's own texts by their path.

    - `"python-stdlib"`: the sources of the running interpreter's standard library, on every
      machine; a document is a module.
    - `"wikitext-2"`, `"wikitext-103"`: downloaded once and checked; a document is an article.
    - a `.txt` file (one document), a `.jsonl` file (a document a line), `.gz` of both, or a
      directory of them (links to other directories are not followed). A directory with
      `train.txt`, `valid.txt`, `test.txt` or with `wiki.train.tokens`, ... keeps these splits, and
      articles in it are documents.

    Ten documents or more are split by a hash of their name (modules) or text (files). Fewer, a
    single book for instance, are each cut at the end of a paragraph, line or word: the first part
    is for training, the next for validation, the last for the test.

    Args:
        name_or_path: a corpus's name or the path of a file or directory. A name goes before a
            directory of that name: write `./wikitext-2`, or pass a `Path`, for the directory.
        text_field: the field of a `.jsonl` record that has the text.
        valid_fraction: part of the text for validation where the corpus has no splits of its own.
        test_fraction: likewise for the test.
        cache_dir: where downloads are kept; by default Keras's directory (`~/.keras`).

    Returns:
        The corpus.

    Raises:
        ValueError: if there is no such corpus, a file is unreadable, empty or not UTF-8, a record
            has no text in `text_field`, there is too little text to split, or a download failed.
            The message says which, where, and what to do.

    Example:
        >>> corpus = load_corpus("python-stdlib")
        >>> print(corpus.describe())  # doctest: +SKIP
    """
    check_fractions(valid_fraction, test_fraction)
    check_text_field(text_field)
    if name_or_path == PYTHON_STDLIB:
        return load_python_stdlib(valid_fraction, test_fraction)
    if name_or_path in CORPUS_NAMES:
        return download_wikitext(name_or_path, cache_dir)
    # An empty name is a mistake, though Path takes it for the current directory.
    path = None if name_or_path == "" else existing_path(name_or_path, "name_or_path")
    if path is None:
        raise ValueError(
            f"`name_or_path`={str(name_or_path)!r} is neither a corpus nor an existing path; give "
            f"one of {', '.join(CORPUS_NAMES)}, a {', '.join(SUFFIXES)} file, or a directory of "
            "them."
        )
    return load_path(path, text_field, valid_fraction, test_fraction)
