"""A corpus: documents in three splits."""

from dataclasses import dataclass

from fwl_keras.data.document import Document


@dataclass(frozen=True)
class Corpus:
    r"""Documents for training, for choosing between models, and for the final figures.

    Attributes:
        name: The corpus's name, or the name of the file or directory it was read from.
        train: Documents to train on.
        valid: Documents to choose models with.
        test: Documents for the final figures.

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
        """Counts documents and characters (Unicode code points), split by split."""
        return {
            split: {
                "documents": len(documents),
                "characters": sum(len(document.text) for document in documents),
            }
            for split, documents in self._splits()
        }

    def describe(self) -> str:
        """Returns the counts as a small table to print."""
        lines = [self.name]
        for split, count in self.counts().items():
            lines.append(
                f"  {split:5} {count['documents']:>9,} documents"
                f" {count['characters']:>14,} characters"
            )
        return "\n".join(lines)

    def _splits(self) -> tuple[tuple[str, tuple[Document, ...]], ...]:
        return (("train", self.train), ("valid", self.valid), ("test", self.test))
