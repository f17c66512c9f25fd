"""Files that are no text in UTF-8, and records without a text: one line, and what it says is so."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import re
import zipfile

import pytest

from fwl_keras.data import load_corpus, load_documents

TEXT = "A line of text.\nAnother: über den Deich, 12 km.\n" * 9
CHINESE = "这是第一行文字。\n这是第 2 行。\n" * 9


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", TEXT)
    return file.getvalue()


def message_of(path, **options):
    """What both readers say; on one line, with the file's name."""
    messages = []
    for read in (load_corpus, load_documents):
        with pytest.raises(ValueError) as error:
            read(path, **options)
        messages.append(str(error.value))
        assert "\n" not in messages[-1]
        assert str(path) in messages[-1]
    assert messages[0].replace("`name_or_", "`", 1) == messages[1]
    return messages[0]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".txt.gz"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "is UTF-16, by its.*`iconv -f utf-16 -t"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "is UTF-16, by its.*`iconv -f utf-16 -t"),
        (codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"), "is UTF-32, by its.*`iconv -f utf-32 -t"),
        (codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"), "is UTF-32, by its.*`iconv -f utf-32 -t"),
        ("plain\n".encode("utf-16-le"), "NUL, the first in line 1.*`iconv -f utf-16le -t utf-8`"),
        ("plain\n".encode("utf-16-be"), "NUL, the first in line 1.*`iconv -f utf-16be -t utf-8`"),
        (TEXT.encode("utf-16-le"), "NUL.*looks like UTF-16LE.*`iconv -f utf-16le -t utf-8`"),
        (TEXT.encode("utf-32-be"), "NUL.*looks like UTF-32BE.*`iconv -f utf-32be -t utf-8`"),
        (TEXT.encode("utf-32-le"), "NUL.*looks like UTF-32LE.*`iconv -f utf-32le -t utf-8`"),
        (CHINESE.encode("utf-16-le"), "looks like UTF-16LE"),
        (CHINESE.encode("utf-16-be"), "looks like UTF-16BE"),
        (b"A line.\nThen a hole: " + bytes(4096), "4096 of its .*first in line 2; it is damaged"),
        (bz2.compress(TEXT.encode()), "not UTF-8.*compressed with bzip2; unpack"),
        (lzma.compress(TEXT.encode()), "compressed with xz; unpack"),
        (zipped(), "zip archive"),
        (b"caf\xe9\n", "not UTF-8: byte 0xe9 in line 1; .*`iconv -f latin1 -t utf-8`"),
    ],
)
def test_other_encodings_are_named(tmp_path, suffix, data, message):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data, mtime=0) if suffix.endswith("gz") else data)
    assert re.search(message, message_of(path))


def test_gzip_under_another_name_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(gzip.compress(TEXT.encode(), mtime=0))
    assert "compressed with gzip; name it .txt.gz" in message_of(tmp_path / "a.txt")


def test_a_few_nuls_are_text(tmp_path):
    text = TEXT + "a \0 b\n"
    (tmp_path / "a.txt").write_text(text)
    assert load_documents(tmp_path / "a.txt")[0].text == text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"text": ' + "[" * 200_000 + "]" * 200_000 + "}", "nested too deeply.*leave out"),
        ('{"a": ' * 200_000 + "1" + "}" * 200_000, "nested too deeply.*leave out"),
        ("[" * 200_000, "nested too deeply.*leave out"),
        ('{"text": "a", "n": ' + "7" * 5000 + "}", "number.*too long.*5000 digits"),
        (
            '{"text": null}',
            "`text_field`='text' is not a string in this record but null; .*--text-f",
        ),
        ('{"text": 5}', "is not a string in this record but a number"),
        ('{"text": 5.5}', "is not a string in this record but a number"),
        ('{"text": true}', "is not a string in this record but true or false"),
        ('{"text": ["a"]}', "is not a string in this record but an array"),
        ('{"text": {"a": 1}}', "is not a string in this record but an object"),
        ('{"body": "x", "id": 1}', r"is not a field.* has \['body', 'id'\]; .*--text-field"),
        (json.dumps({f"{n:03}" + "x" * 9999: 1 for n in range(200)}), r"is not a field.*\.\.\.\]"),
        ("{}", r"is not a field of the record, which has \[\]"),
        ("null", "a JSON object is needed, not null"),
        ('"text"', "a JSON object is needed, not a string"),
        ("NaN", "a JSON object is needed, not a number"),
        ('{"text": "a\0b"}', "not JSON"),
        ('{"text": "a"} {"text": "b"}', "not JSON.*Extra data"),
        (r'{"text": "a\udc00"}', "half of a surrogate pair"),
    ],
)
def test_records_without_text_are_named_by_file_and_line(tmp_path, record, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n\n' + record + "\n")
    found = message_of(path)
    assert found.startswith(f"{path}, line 3: ")
    assert len(found) < len(str(path)) + 1500
    assert re.search(message, found)


def test_text_field_names_another_field(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"body": "Text {n}.", "text": null}}\n' for n in range(20)))
    assert load_documents(path, text_field="body")[3].text == "Text 3."
    assert load_corpus(path, text_field="body").counts()["train"]["documents"] > 10
    assert "`text_field`='title' is not a field" in message_of(path, text_field="title")


def test_a_text_field_that_is_no_name_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' * 20)
    for read in (load_corpus, load_documents):
        with pytest.raises(ValueError, match=r"`text_field` must be a str.*received \['"):
            read(tmp_path / "a.jsonl", text_field=["text"])


def test_suffixes_may_be_capital_letters(tmp_path):
    for name, data in (
        ("A.TXT", b"one"),
        ("B.JSONL", b'{"text": "two"}'),
        ("C.TXT.GZ", gzip.compress(b"three", mtime=0)),
        ("D.Jsonl.Gz", gzip.compress(b'{"text": "four"}', mtime=0)),
    ):
        (tmp_path / name).write_bytes(data)
    assert [one.text for one in load_documents(tmp_path)] == ["one", "two", "three", "four"]
    assert load_documents(tmp_path / "B.JSONL")[0].text == "two"


# --- paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 5000, "cannot be read: .*too long"),
        ("a\0b.txt", "cannot be read: .*null"),
        (None, "`=None cannot be read"),
        ("~no_such_user_at_all/a.txt", "cannot be read: .*home"),
        ("{tmp}/loop", "cannot be read: .*symbolic links"),
    ],
)
def test_paths_that_can_be_none(tmp_path, name, message):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for read in (load_corpus, load_documents):
        with pytest.raises(ValueError, match=message):
            read(name and name.format(tmp=tmp_path))


def test_a_directory_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "closed" in message_of(tmp_path)


def test_a_pipe_in_a_directory_is_an_error_and_no_wait(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    os.mkfifo(tmp_path / "b.txt")
    assert "neither a file nor a directory" in message_of(tmp_path)


def test_a_name_that_is_not_utf8_can_be_printed(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text(TEXT)
    names = [one.name for one in load_documents(tmp_path)]
    assert names == [f"{tmp_path}/caf\\udce9.txt"]
    names = [one.name for one in load_corpus(tmp_path).train]
    assert names == ["caf\\udce9.txt#train"]
