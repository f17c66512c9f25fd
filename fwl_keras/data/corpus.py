"""Documents, and a corpus of them in three splits."""

from dataclasses import dataclass

# The parts of a corpus, and its fields.
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Document:
    r"""One text that is read from its beginning to its end.

    Attributes:
        name: what the document is called in its corpus: a module's path, an article's title, a
            file's name. Not necessarily unique.
        text: the whole text, line ends as they are in the source.

    Example:
        >>> Document("greeting.txt", "Hello.\n").text
        'Hello.\n'
    """

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    r"""Documents for training, for choosing between models, and for the final figures.

    Attributes:
        name: the corpus's name, or the name of the file or directory it was read from.
        train: documents to train on.
        valid: documents to choose models with.
        test: documents for the final figures.

    Example:
        >>> corpus = Corpus("tiny", train=(Document("a", "one two\n"),), valid=(), test=())
        >>> corpus.counts()["train"]
        {'documents': 1, 'characters': 8}
    """

    name: str
    train: tuple[Document, ...]
    valid: tuple[Document, ...]
    test: tuple[Document, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Count documents and characters (Unicode code points), split by split."""
        return {
            split: {
                "documents": len(getattr(self, split)),
                "characters": sum(len(document.text) for document in getattr(self, split)),
            }
            for split in SPLITS
        }

    def describe(self) -> str:
        """Return the counts as a small table to print."""
        lines = [self.name]
        for split, count in self.counts().items():
            lines.append(
                f"  {split:5} {count['documents']:>9,} documents"
                f" {count['characters']:>14,} characters"
            )
        return "\n".join(lines)


def word_count(text: str) -> int:
    r"""Count words and line ends, the tokens that WikiText's perplexities are quoted per.

    A word is what stands between white space; every line end counts as one more token (`<eos>` in
    the literature). The count does not depend on any tokeniser.

    Args:
        text: any text.

    Returns:
        The number of words plus the number of line ends.

    Example:
        >>> word_count("Fast weights .\n")
        4
    """
    return len(text.split()) + text.count("\n")
