"""The standard library's sources: the corpus that every machine has."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from fwl_keras.data.corpus import Corpus, Document
from fwl_keras.data.splits import split_documents

NAME = "python-stdlib"

_SKIPPED_DIRECTORIES = {
    "__pycache__",
    "dist-packages",
    "idle_test",
    "site-packages",
    "test",
    "tests",
}

# Written when the interpreter was built or installed: they hold the machine's own paths.
_SKIPPED_PREFIXES = ("_sysconfigdata", "config-", "sitecustomize", "usercustomize")

# The language reference as one generated string: a sixteenth of all text, and most of its split's.
_SKIPPED_MODULES = {"pydoc_data/topics.py"}


def load_python_stdlib(valid_fraction: float = 0.05, test_fraction: float = 0.05) -> Corpus:
    r"""Read the running interpreter's standard library, a document per module.

    Left out: `site-packages`, `dist-packages`, test directories, generated files (what the
    interpreter's build wrote, `pydoc_data/topics.py`), empty files and files that are not UTF-8.
    Line ends are `\n` on every system. A module's split follows from its name, so it is the same in
    every Python version that has it.

    Args:
        valid_fraction: part of the modules for validation.
        test_fraction: part of the modules for the test.

    Returns:
        The corpus; a document's name is the module's path, like `collections/__init__.py`.

    Raises:
        ValueError: if the interpreter has no sources of its standard library on disk.

    Example:
        >>> corpus = load_python_stdlib()
        >>> sum(len(split) for split in (corpus.train, corpus.valid, corpus.test)) > 100
        True
    """
    root = Path(sysconfig.get_path("stdlib"))
    documents = sorted(_modules(root), key=lambda document: document.name)
    if not documents:
        raise ValueError(
            f"`name_or_path`={NAME!r}: this interpreter keeps no sources of its standard library "
            f"under {root}; use another corpus, or an interpreter installed with them."
        )
    return split_documents(NAME, documents, valid_fraction, test_fraction, key=lambda d: d.name)


def _modules(root: Path) -> Iterator[Document]:
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if _SKIPPED_DIRECTORIES.intersection(parts[:-1]) or parts[0].startswith(_SKIPPED_PREFIXES):
            continue
        name = "/".join(parts)
        if name in _SKIPPED_MODULES:
            continue
        try:
            text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield Document(name, text)
