"""Deterministic splits of documents into train, valid and test."""

import hashlib
from collections.abc import Callable, Iterable, Sequence

from fwl_keras.data.corpus import SPLITS, Corpus, Document

# With fewer documents than this, whole documents would make splits of very unequal size.
MIN_DOCUMENTS_TO_SPLIT = 10

# How far from the wished place, in parts of the text, a contiguous cut may look for a boundary.
_CUT_TOLERANCE = 0.02


def check_fractions(valid_fraction: float, test_fraction: float) -> None:
    """Raise a ValueError unless both are in [0, 1) and leave something to train on."""
    for name, value in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` must be at least 0 and less than 1; received {value!r}.")
    if valid_fraction + test_fraction >= 1:
        raise ValueError(
            "`valid_fraction` + `test_fraction` must be less than 1, or nothing is left to train "
            f"on; received {valid_fraction} + {test_fraction}."
        )


def split_documents(
    name: str,
    documents: Iterable[Document],
    valid_fraction: float,
    test_fraction: float,
    key: Callable[[Document], str],
) -> Corpus:
    r"""Split documents by a hash, or, where there are only a few, each of them contiguously.

    A document's split follows from the SHA-256 of its key alone, so it depends neither on the
    order of the documents nor on the machine, and hardly ever on which other documents there are:
    only a split that would stay empty takes the document with the lowest hash. Fewer than
    `MIN_DOCUMENTS_TO_SPLIT` documents are cut instead: the first part of each is for training, the
    next for validation, the last for the test.

    Args:
        name: the corpus's name.
        documents: the documents.
        valid_fraction: part of the documents (or characters) for validation, in [0, 1).
        test_fraction: part of the documents (or characters) for the test, in [0, 1).
        key: what of a document is hashed: its name or its text.

    Returns:
        The corpus; documents within a split keep their order.

    Raises:
        ValueError: if there is too little text to fill a split whose fraction is not 0.

    Example:
        >>> book = Document("book.txt", "A sentence on a line.\n" * 100)
        >>> corpus = split_documents("book", [book], 0.05, 0.05, key=lambda d: d.name)
        >>> [len(part[0].text) // 22 for part in (corpus.train, corpus.valid, corpus.test)]
        [90, 5, 5]
    """
    documents = tuple(documents)
    if len(documents) < MIN_DOCUMENTS_TO_SPLIT:
        splits = _split_contiguously(documents, valid_fraction, test_fraction)
    else:
        splits = _split_by_hash(documents, valid_fraction, test_fraction, key)
    fractions = (1 - valid_fraction - test_fraction, valid_fraction, test_fraction)
    for split, part, fraction in zip(SPLITS, splits, fractions, strict=True):
        if fraction > 0 and not part:
            characters = sum(len(document.text) for document in documents)
            raise ValueError(
                f"{name!r} has too little text ({characters} characters) to fill the {split} "
                "split; give more text, or set `valid_fraction` and `test_fraction` to 0."
            )
    return Corpus(name, *splits)


def _split_by_hash(
    documents: Sequence[Document],
    valid_fraction: float,
    test_fraction: float,
    key: Callable[[Document], str],
) -> tuple[tuple[Document, ...], ...]:
    places = [_unit_hash(key(document)) for document in documents]
    # Keys break ties, so that the order of the documents cannot.
    ascending = sorted(range(len(documents)), key=lambda i: (places[i], key(documents[i])))
    chosen = {}
    for index in ascending:
        if places[index] < test_fraction:
            chosen[index] = "test"
        elif places[index] < test_fraction + valid_fraction:
            chosen[index] = "valid"
    for split, fraction in (("test", test_fraction), ("valid", valid_fraction)):
        if fraction > 0 and split not in chosen.values():
            chosen[next(i for i in ascending if i not in chosen)] = split
    return tuple(
        tuple(d for i, d in enumerate(documents) if chosen.get(i, "train") == split)
        for split in SPLITS
    )


def _unit_hash(key: str) -> float:
    digest = hashlib.sha256(key.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _split_contiguously(
    documents: Sequence[Document], valid_fraction: float, test_fraction: float
) -> tuple[tuple[Document, ...], ...]:
    splits = {split: [] for split in SPLITS}
    for document in documents:
        text = document.text
        first = _cut(text, 1 - valid_fraction - test_fraction) if valid_fraction else None
        second = _cut(text, 1 - test_fraction) if test_fraction else len(text)
        first = second if first is None else min(first, second)
        parts = text[:first], text[first:second], text[second:]
        for split, part in zip(SPLITS, parts, strict=True):
            if part.strip():
                splits[split].append(Document(f"{document.name}#{split}", part))
    return tuple(tuple(part) for part in splits.values())


def _cut(text: str, fraction: float) -> int:
    """Return the place closest to `fraction` that follows a paragraph, a line or a word."""
    wished = round(len(text) * fraction)
    reach = round(len(text) * _CUT_TOLERANCE)
    low, high = max(0, wished - reach), min(len(text), wished + reach)
    for separator in ("\n\n", "\n", " "):
        before = text.rfind(separator, low, wished)
        after = text.find(separator, wished, high)
        ends = [place + len(separator) for place in (before, after) if place >= 0]
        if ends:
            return min(ends, key=lambda end: abs(end - wished))
    return wished
