"""A named text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    r"""One text that is read from its beginning to its end.

    Attributes:
        name: What the document is called in its corpus: a module's path, an article's title, a
            file's name. Not necessarily unique.
        text: The whole text, line ends as they are in the source.

    Example:
        >>> Document("greeting.txt", "Hello.\n").text
        'Hello.\n'
    """

    name: str
    text: str
