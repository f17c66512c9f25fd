"""WikiText-2 and WikiText-103 (Merity et al. 2016, arXiv 1609.07843)."""

import contextlib
import re
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fwl_keras.data.corpus import SPLITS, Corpus, Document, word_count

# What the file of a split is called.
SPLIT_FILE = "wiki.{}.tokens"

# A title with a blank line after it. Section titles have more signs (` = = History = = `), and the
# legends of tables have the form of a title but no blank lines around it. The line before is
# checked afterwards: a pattern that starts with fixed text is more than twice as fast.
_TITLE = re.compile(r"\n( = (?!= ).* = \n)(?=[ \t]*(?:\n|$))")


@dataclass(frozen=True)
class _Archive:
    """A published archive: where it is, its SHA-256, and the words of two of its splits."""

    url: str
    sha256: str
    valid_words: int = 217_646
    test_words: int = 245_569


# The first home of these archives (Salesforce research) is gone; this is the author's own.
ARCHIVES = {
    "wikitext-2": _Archive(
        "https://wikitext.smerity.com/wikitext-2-v1.zip",
        "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
    ),
    "wikitext-103": _Archive(
        "https://wikitext.smerity.com/wikitext-103-v1.zip",
        "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
    ),
}


def split_wikitext(text: str, name: str) -> tuple[Document, ...]:
    r"""Cut a WikiText file into its articles.

    An article starts at a line ` = Title = ` between two blank lines; the blank line before it
    belongs to the article before. The documents joined are the file, character for character.

    Args:
        text: the file's text.
        name: name of a document without title: the whole text where it has no titles, or what
            stands before the first one.

    Returns:
        The documents, named by their titles, in the file's order.

    Example:
        >>> [d.name for d in split_wikitext(" \n = One = \n \n Text . \n", "valid")]
        ['One']
    """
    titles = [
        match
        for match in _TITLE.finditer(text)
        if not text[text.rfind("\n", 0, match.start()) + 1 : match.start()].strip()
    ]
    starts = [match.start(1) for match in titles]
    names = [match.group(1).strip(" =\n") for match in titles]
    if not starts or text[: starts[0]].strip():
        starts.insert(0, 0)
        names.insert(0, name)
    starts[0] = 0
    ends = [*starts[1:], len(text)]
    return tuple(
        Document(title, text[start:end])
        for title, start, end in zip(names, starts, ends, strict=True)
    )


def download_wikitext(name: str, cache_dir: str | Path | None = None) -> Corpus:
    """Download WikiText, once, and check it against its published SHA-256.

    Args:
        name: `"wikitext-2"` (4 MB) or `"wikitext-103"` (190 MB).
        cache_dir: directory for the archive; by default Keras's (`$KERAS_HOME` or `~/.keras`).

    Returns:
        The corpus, in its published splits.

    Raises:
        ValueError: if the archive could not be downloaded or is not the published one.
    """
    # Here and not above: Keras brings its backend with it.
    import keras

    archive = ARCHIVES[name]
    if cache_dir is not None:
        # Keras quietly falls back to /tmp when the directory is not there yet.
        Path(cache_dir).expanduser().mkdir(parents=True, exist_ok=True)
    try:
        with _own_user_agent():
            path = keras.utils.get_file(
                origin=archive.url,
                file_hash=archive.sha256,
                hash_algorithm="sha256",
                cache_dir=None if cache_dir is None else str(cache_dir),
            )
    # Keras raises bare exceptions here.
    except Exception as error:
        raise ValueError(
            f"`name_or_path`={name!r} could not be downloaded from {archive.url}: {error}. Try "
            "again, or fetch the archive by other means, unpack it, and give its directory instead."
        ) from error
    with zipfile.ZipFile(path) as files:
        splits = {
            split: split_wikitext(
                files.read(f"{name}/{SPLIT_FILE.format(split)}").decode("utf-8"), split
            )
            for split in SPLITS
        }
    corpus = Corpus(name, **splits)
    for split, expected in (("valid", archive.valid_words), ("test", archive.test_words)):
        words = sum(word_count(document.text) for document in splits[split])
        if words != expected:
            raise ValueError(
                f"`name_or_path`={name!r}: the {split} split of {path} has {words} words and line "
                f"ends instead of {expected}; delete the file and try again."
            )
    return corpus


@contextlib.contextmanager
def _own_user_agent() -> Iterator[None]:
    """Make urllib introduce itself by our name: the server refuses urllib's own."""
    previous = urllib.request._opener
    opener = urllib.request.build_opener()
    opener.addheaders = [("User-Agent", "fwl_keras")]
    urllib.request.install_opener(opener)
    try:
        yield
    finally:
        urllib.request.install_opener(previous)
