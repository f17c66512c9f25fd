"""Bytes of a text file to text, or a message that says what they are instead."""

import codecs
from pathlib import Path

# UTF-32's mark begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# First bytes of what is often taken for text, and what to do about it.
_OTHERS = {
    b"\x1f\x8b": "it is compressed with gzip; name it .txt.gz, or unpack it",
    b"BZh": "it is compressed with bzip2; unpack it",
    b"\xfd7zXZ": "it is compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd; unpack it",
    b"PK\x03\x04": "it is a zip archive (or an office document); unpack it",
    b"%PDF": "it is a PDF; extract its text",
    b"PAR1": "it is a Parquet file; write its text column as .jsonl",
}

# Which of four bytes are nearly always NUL (0), hardly ever (x), or in Latin letters (?).
_WIDE = {"utf-32le": "x?00", "utf-32be": "00?x", "utf-16le": "x?x?", "utf-16be": "?x?x"}
_FITS = {"0": lambda part: part > 0.9, "?": lambda part: True, "x": lambda part: part < 0.2}

# A text in UTF-16 that is UTF-8, too, is half NULs, or a quarter. Single ones get into texts by all
# kinds of accidents, and come back from the tokeniser as they are.
_TOO_MANY_NULS = 0.1

# One in Chinese has at least its line ends'.
_SOME_NULS = 0.002


def decode_text(file: Path, data: bytes) -> str:
    """Decode a file's bytes from UTF-8, without a byte order mark.

    Args:
        file: the file, for the message.
        data: all its bytes.

    Returns:
        The text.

    Raises:
        ValueError: if the bytes are not UTF-8; or they are, but a tenth of them are NUL: a text in
            another encoding, or none.
    """
    mark = next((mark for mark in _MARKS if data.startswith(mark)), None)
    if mark is not None:
        encoding = _MARKS[mark]
        raise ValueError(
            f"{file} is {encoding.upper()}, by its byte order mark, and not UTF-8; convert it with "
            f"`iconv -f {encoding} -t utf-8`."
        )
    if data.count(0) > _TOO_MANY_NULS * len(data):
        line = data.count(b"\n", 0, data.index(0)) + 1
        raise ValueError(
            f"{file} is no text in UTF-8: {data.count(0)} of its {len(data)} bytes are NUL, the "
            f"first in line {line}; {_advice(data)}."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}; {_advice(data)}."
        ) from error


def _advice(data: bytes) -> str:
    for first, advice in _OTHERS.items():
        if data.startswith(first):
            return advice
    encoding = _wide_encoding(data)
    if encoding is not None:
        return f"it looks like {encoding.upper()}; convert it with `iconv -f {encoding} -t utf-8`"
    if b"\0" in data:
        return "it is damaged, or not a text at all"
    return "convert it, for example with `iconv -f latin1 -t utf-8`"


def _wide_encoding(data: bytes) -> str | None:
    """Return the encoding in units of two or four bytes that the places of the NULs speak for."""
    if data.count(0) < _SOME_NULS * len(data):
        return None
    shares = [data[place::4].count(0) * 4 / len(data) for place in range(4)]
    for encoding, places in _WIDE.items():
        if all(_FITS[place](share) for place, share in zip(places, shares, strict=True)):
            return encoding
    return None
