"""A user's own texts: `.txt`, `.jsonl`, `.gz` of both, or a directory of them."""

import gzip
import json
import os
import reprlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from fwl_keras.data.corpus import SPLITS, Corpus, Document
from fwl_keras.data.decode import decode_text
from fwl_keras.data.splits import split_documents
from fwl_keras.data.wikitext import SPLIT_FILE, split_wikitext

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")

_JSONL_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix.startswith(".jsonl"))

# Names of fields in a message: not a whole record's.
_NAMES = reprlib.Repr()
_NAMES.maxlist, _NAMES.maxstring = 10, 60


def load_path(path: Path, text_field: str, valid_fraction: float, test_fraction: float) -> Corpus:
    """Read a corpus from a file or a directory.

    A directory with `train.txt`, `valid.txt` and `test.txt` (or `.jsonl`, or `.gz` of these), or
    with `wiki.train.tokens` and so on, keeps these splits. Any other file or directory is split by
    its documents' content: equal documents never come into different splits.

    Args:
        path: an existing file or directory.
        text_field: the field of a `.jsonl` record that has the text.
        valid_fraction: part of the documents for validation, unless the directory has splits.
        test_fraction: part of the documents for the test, unless the directory has splits.

    Returns:
        The corpus. Documents are named by their file's path below the directory; those of a
        `.jsonl` file by file and line number.

    Raises:
        ValueError: if a file is unreadable, not UTF-8, not valid JSON, has no `text_field` or no
            text, or there is no file at all that can be read.
    """
    if not path.is_dir():
        files = [path]
        if not path.name.lower().endswith(SUFFIXES):
            raise ValueError(
                f"`name_or_path`={str(path)!r} is not a file that can be read as text; give one of "
                f"{', '.join(SUFFIXES)}, or a directory of them."
            )
        root = path.parent
    else:
        splits = _published_splits(path)
        if splits:
            return Corpus(
                path.resolve().name,
                *(_read_split(splits[split], split, text_field) for split in SPLITS),
            )
        root = path
        files = _files_in(path, "name_or_path")
    documents = [
        document
        for file in files
        for document in _read_file(file, printable(file.relative_to(root).as_posix()), text_field)
    ]
    if not documents:
        raise ValueError(
            f"`name_or_path`={str(path)!r} has no text in it: everything there is empty or blank; "
            "give a file with text."
        )
    return split_documents(
        path.resolve().name, documents, valid_fraction, test_fraction, key=lambda d: d.text
    )


def load_documents(path: str | Path, text_field: str = "text") -> list[Document]:
    """Read texts as they are, without splits.

    Args:
        path: a `.jsonl` file, a document a line; any other file, which is one document, its suffix
            whatever it is; `.gz` of both; or a directory, of which the `.txt`, `.jsonl` and `.gz`
            files are read.
        text_field: the field of a `.jsonl` record that has the text.

    Returns:
        The documents that are not blank, named by `path`, and by the path below it or the line.

    Raises:
        ValueError: if there is nothing at `path`, or nothing that can be read, or no text in it.

    Example:
        >>> load_documents("book.txt")[0].name  # doctest: +SKIP
        'book.txt'
    """
    check_text_field(text_field)
    found = existing_path(path, "path")
    if found is None:
        raise ValueError(
            f"`path`={str(path)!r} does not exist; give a file or a directory of texts."
        )
    files = _files_in(found, "path") if found.is_dir() else [found]
    documents = [
        document
        for file in files
        for document in _read_file(file, printable(str(file)), text_field)
    ]
    if not documents:
        raise ValueError(f"`path`={str(path)!r} has no text in it; give a file with text.")
    return documents


def _files_in(directory: Path, argument: str) -> list[Path]:
    files = sorted(
        file
        for file in _walk(directory, argument)
        # A dangling link is reported when it is opened, not skipped.
        if file.name.lower().endswith(SUFFIXES)
    )
    for file in files:
        if file.exists() and not file.is_file():
            raise ValueError(
                f"`{argument}`={str(directory)!r} has {file}, which is neither a file nor a "
                "directory; take it away."
            )
    if not files:
        raise ValueError(
            f"`{argument}`={str(directory)!r} is a directory without any {', '.join(SUFFIXES)} "
            "file; give a directory that has some."
        )
    return files


def _walk(directory: Path, argument: str) -> Iterator[Path]:
    """Yield what is below a directory and no directory; leave out none for want of permission."""

    def refuse(error):
        raise ValueError(
            f"`{argument}`={str(directory)!r} has a directory that cannot be read: {error}; see to "
            "it that it may be read, or take it away."
        ) from error

    for parent, _, names in os.walk(directory, onerror=refuse):
        yield from (Path(parent, name) for name in names)


def _published_splits(directory: Path) -> dict[str, Path]:
    """Return the file of each split, or nothing where the directory has no training split."""
    namings = [SPLIT_FILE, *(f"{{}}{suffix}" for suffix in SUFFIXES)]
    for naming in namings:
        files = {split: directory / naming.format(split) for split in SPLITS}
        if files["train"].exists():
            missing = [file.name for file in files.values() if not file.exists()]
            if missing:
                raise ValueError(
                    f"`name_or_path`={str(directory)!r} has {files['train'].name} but not "
                    f"{' and '.join(missing)}; add what is missing, or rename the training file "
                    "to have the directory split automatically."
                )
            return files
    return {}


def _read_split(file: Path, split: str, text_field: str) -> tuple[Document, ...]:
    if file.name.endswith(_JSONL_SUFFIXES):
        documents = tuple(_read_jsonl(file, file.name, text_field))
    else:
        text = decode_text(file, _read_bytes(file))
        documents = split_wikitext(text, split) if text.strip() else ()
    if not documents:
        raise ValueError(
            f"{file} has no text in it; give a file with text, or remove all three splits to have "
            "the directory split automatically."
        )
    return documents


def _read_file(file: Path, name: str, text_field: str) -> list[Document]:
    if file.name.lower().endswith(_JSONL_SUFFIXES):
        return _read_jsonl(file, name, text_field)
    text = decode_text(file, _read_bytes(file))
    return [Document(name, text)] if text.strip() else []


def _read_jsonl(file: Path, name: str, text_field: str) -> list[Document]:
    documents = []
    # Only "\n" ends a record: JSON strings may hold other line separators as they are.
    for number, line in enumerate(decode_text(file, _read_bytes(file)).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        text = _text_of(line, where, text_field)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: the text has half of a surrogate pair, which UTF-8 cannot write "
                f"({error.reason}); write the whole character."
            ) from error
        if text.strip():
            documents.append(Document(f"{name}:{number}", text))
    return documents


def _text_of(line: str, where: str, text_field: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}); write one JSON object a line.") from error
    except RecursionError as error:
        raise ValueError(
            f"{where}: JSON nested too deeply to be read; leave out of the record what is not text."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{where}: JSON with a number that is too long to be read ({str(error).split(';')[0]});"
            " leave out of the record what is not text."
        ) from error
    if not isinstance(record, dict):
        raise ValueError(
            f"{where}: a JSON object is needed, not {_json_type(record)}; "
            f'write records like {{"{text_field}": "..."}}.'
        )
    if text_field not in record:
        raise ValueError(
            f"{where}: `text_field`={text_field!r} is not a field of the record, which has "
            f"{_NAMES.repr(sorted(record))}; name the field that holds the text with `text_field` "
            "(`--text-field`)."
        )
    text = record[text_field]
    if not isinstance(text, str):
        raise ValueError(
            f"{where}: `text_field`={text_field!r} is not a string in this record but "
            f"{_json_type(text)}; give it a text or leave the record out, or name another field "
            "with `text_field` (`--text-field`)."
        )
    return text


def _json_type(value: object) -> str:
    """Return what a value is called in JSON."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _read_bytes(file: Path) -> bytes:
    try:
        if file.suffix.lower() == ".gz":
            with gzip.open(file) as stream:
                return stream.read()
        return file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{file} cannot be read: {error}; check that it exists, that it may be read, and, "
            "for .gz, that it is whole."
        ) from error


def check_text_field(text_field: str) -> None:
    """Raise a ValueError unless `text_field` can be the name of a field."""
    if not isinstance(text_field, str):
        raise ValueError(
            f"`text_field` must be a str, the name of a field; received {text_field!r}."
        )


def existing_path(path: str | Path, argument: str) -> Path | None:
    """Return a path, `~` written out, or None where there is nothing.

    Args:
        path: a file or directory.
        argument: what it is called in a message.

    Raises:
        ValueError: if it cannot be said what is there.
    """
    try:
        found = Path(path).expanduser()
        found.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    # No permission; no such user; a path that goes round in circles, is too long, or is none.
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        given = str(path) if isinstance(path, Path) else path
        raise ValueError(
            f"`{argument}`={given!r} cannot be read: {error}; give another path, or see to it that "
            "it may be read."
        ) from error
    return found


def printable(name: str) -> str:
    """Return a path as text that UTF-8 can write, whatever bytes it is made of."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
