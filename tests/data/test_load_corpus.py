import gzip
import hashlib
import http.server
import json
import os
import subprocess
import sys
import sysconfig
import threading
import urllib.request
import zipfile
from pathlib import Path

import pytest

from fwl_keras.data import load_corpus, load_documents, wikitext, word_count
from fwl_keras.data.wikitext import split_wikitext

WIKITEXT_2 = Path(
    os.environ.get(
        "FWL_KERAS_WIKITEXT_2",
        Path(__file__).parents[2] / ".." / "shared" / "wikitext-2",
    )
)
needs_wikitext = pytest.mark.skipif(
    not WIKITEXT_2.is_dir(), reason="set FWL_KERAS_WIKITEXT_2 to a directory with WikiText-2"
)


def names(documents):
    return {document.name for document in documents}


def texts(documents):
    return [document.text for document in documents]


def everything(corpus):
    return corpus.train + corpus.valid + corpus.test


# --- python-stdlib


@pytest.fixture(scope="module")
def stdlib():
    return load_corpus("python-stdlib")


def test_stdlib_holds_the_modules_and_no_tests(stdlib):
    modules = names(everything(stdlib))
    assert {"argparse.py", "collections/__init__.py", "xml/dom/minidom.py"} <= modules
    directories = {part for name in modules for part in name.split("/")[:-1]}
    assert directories.isdisjoint(
        {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    )
    # About 12 MB of sources, whatever the version.
    assert 8e6 < sum(map(len, texts(everything(stdlib)))) < 20e6


def test_stdlib_documents_are_the_files(stdlib):
    root = Path(sysconfig.get_path("stdlib"))
    for document in everything(stdlib)[::50]:
        assert document.text == (root / document.name).read_text("utf-8-sig")


def test_stdlib_split_follows_from_the_sha256_of_the_name(stdlib):
    def place(name):
        return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 16**16

    for document in everything(stdlib):
        expected = "test" if place(document.name) < 0.05 else "train"
        if 0.05 <= place(document.name) < 0.1:
            expected = "valid"
        assert document in getattr(stdlib, expected)
    assert sum(len(part) for part in (stdlib.train, stdlib.valid, stdlib.test)) == len(
        names(everything(stdlib))
    )


def test_stdlib_without_sources_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=r"python-stdlib.*no sources"):
        load_corpus("python-stdlib")


def test_stdlib_leaves_out_what_is_not_text(monkeypatch, tmp_path):
    for number in range(12):
        (tmp_path / f"m{number}.py").write_bytes(b"x = %d\r\n" % number)
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\n# é\n".encode("latin-1"))
    (tmp_path / "empty.py").write_text("\n")
    (tmp_path / "_sysconfigdata__linux.py").write_text("prefix = '/usr'\n")
    for directory in ("site-packages", "test", "unittest/test", "pydoc_data", "config-3.11"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "topics.py").write_text("y = 1\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    corpus = load_corpus("python-stdlib")
    assert names(everything(corpus)) == {f"m{number}.py" for number in range(12)}
    assert set(texts(everything(corpus))) == {f"x = {number}\n" for number in range(12)}


# --- WikiText


@pytest.fixture(scope="module")
def wikitext_2():
    return load_corpus(WIKITEXT_2)


@needs_wikitext
def test_wikitext_2_has_its_published_counts(wikitext_2):
    counts = wikitext_2.counts()
    assert [counts[split]["documents"] for split in counts] == [600, 60, 60]
    words = {split: sum(map(word_count, texts(getattr(wikitext_2, split)))) for split in counts}
    assert words == {"train": 2_088_628, "valid": 217_646, "test": 245_569}


@needs_wikitext
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_wikitext_documents_joined_are_the_file(wikitext_2, split):
    joined = "".join(texts(getattr(wikitext_2, split))).encode()
    assert joined == (WIKITEXT_2 / f"{split}.txt").read_bytes()


@needs_wikitext
def test_wikitext_documents_start_at_their_titles(wikitext_2):
    assert wikitext_2.valid[0].name == "Homarus gammarus"
    for document in wikitext_2.valid[1:]:
        assert document.text.startswith(f" = {document.name} = \n")


ARTICLES = (
    " \n = One = \n \n Text . \n \n = = Section = = \n \n = Legend = \n A B \n \n"
    " = Two = \n \n More . \n"
)


def test_sections_and_table_legends_start_no_document():
    documents = split_wikitext(ARTICLES, "valid")
    assert [document.name for document in documents] == ["One", "Two"]
    assert documents[1].text == " = Two = \n \n More . \n"


def test_text_before_the_first_title_and_text_without_titles_are_documents():
    documents = split_wikitext("Preface . \n" + ARTICLES, "valid")
    assert [document.name for document in documents] == ["valid", "One", "Two"]
    assert "".join(texts(documents)) == "Preface . \n" + ARTICLES
    assert names(split_wikitext("My own text.\n", "train")) == {"train"}


@pytest.mark.parametrize(
    "naming", ["{}.txt", "wiki.{}.tokens", "{}.txt.gz", "{}.jsonl", "{}.jsonl.gz"]
)
def test_directory_with_splits_keeps_them(tmp_path, naming):
    for split in ("train", "valid", "test"):
        data = ARTICLES.replace("One", split)
        if "jsonl" in naming:
            data = json.dumps({"text": data}) + "\n"
        data = data.encode()
        (tmp_path / naming.format(split)).write_bytes(
            gzip.compress(data, mtime=0) if naming.endswith("gz") else data
        )
    corpus = load_corpus(tmp_path)
    for split in ("train", "valid", "test"):
        assert "".join(texts(getattr(corpus, split))) == ARTICLES.replace("One", split)
    assert len(corpus.valid) == (1 if "jsonl" in naming else 2)


def test_directory_with_only_some_splits_is_an_error(tmp_path):
    (tmp_path / "wiki.train.tokens").write_text(ARTICLES)
    (tmp_path / "wiki.test.tokens").write_text(ARTICLES)
    with pytest.raises(ValueError, match=r"wiki\.train\.tokens but not wiki\.valid\.tokens"):
        load_corpus(tmp_path)


def test_empty_split_is_an_error(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("" if split == "valid" else ARTICLES)
    with pytest.raises(ValueError, match=r"valid\.txt has no text"):
        load_corpus(tmp_path)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "wikitext-2-v1.zip"
    with zipfile.ZipFile(path, "w") as files:
        for split in ("train", "valid", "test"):
            files.writestr(f"wikitext-2/wiki.{split}.tokens", ARTICLES)
    return path


@pytest.fixture
def server(archive, monkeypatch):
    """Serves the archive over HTTP, and like the real one refuses urllib's own name."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if self.headers["User-Agent"].startswith("Python-urllib"):
                self.send_error(403)
                return
            data = archive.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        monkeypatch.setitem(
            wikitext.ARCHIVES,
            "wikitext-2",
            wikitext._Archive(
                f"http://127.0.0.1:{httpd.server_port}/wikitext-2-v1.zip",
                hashlib.sha256(archive.read_bytes()).hexdigest(),
                valid_words=word_count(ARTICLES),
                test_words=word_count(ARTICLES),
            ),
        )
        yield requests
        httpd.shutdown()


def test_wikitext_is_downloaded_once(server, tmp_path):
    opener = urllib.request._opener
    corpus = load_corpus("wikitext-2", cache_dir=tmp_path / "new" / "cache")
    again = load_corpus("wikitext-2", cache_dir=tmp_path / "new" / "cache")
    assert server == ["/wikitext-2-v1.zip"]
    assert names(corpus.train) == {"One", "Two"}
    assert "".join(texts(corpus.test)) == ARTICLES
    assert again == corpus
    assert urllib.request._opener is opener


def test_download_of_something_else_is_an_error(server, archive, tmp_path):
    archive.write_bytes(archive.read_bytes() + b"!")
    with pytest.raises(ValueError, match=r"wikitext-2.*could not be downloaded.*its directory"):
        load_corpus("wikitext-2", cache_dir=tmp_path / "cache")


def test_archive_with_other_text_is_an_error(server, archive, tmp_path, monkeypatch):
    other = wikitext._Archive(
        wikitext.ARCHIVES["wikitext-2"].url, wikitext.ARCHIVES["wikitext-2"].sha256
    )
    monkeypatch.setitem(wikitext.ARCHIVES, "wikitext-2", other)
    with pytest.raises(ValueError, match=f"has {word_count(ARTICLES)} words.*instead of 217646"):
        load_corpus("wikitext-2", cache_dir=tmp_path / "cache")


def test_published_archives_are_asked_for_with_their_checksums(monkeypatch):
    import keras

    asked = {}

    def get_file(**arguments):
        asked[arguments["origin"].rsplit("/", 1)[1]] = arguments["file_hash"]
        raise Exception("no network")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    for name in ("wikitext-2", "wikitext-103"):
        with pytest.raises(ValueError, match="no network"):
            load_corpus(name)
    # As published by CorpusLoaders.jl, among others.
    assert asked == {
        "wikitext-2-v1.zip": "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        "wikitext-103-v1.zip": "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
    }


# --- own files

BOOK = "".join(f"Line {number} of the book.\n" + "\n" * (number % 5 == 0) for number in range(400))


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_book_is_cut_at_paragraphs(tmp_path, suffix):
    path = tmp_path / f"my_book{suffix}"
    data = b"\xef\xbb\xbf" + BOOK.replace("\n", "\r\n").encode()
    path.write_bytes(gzip.compress(data, mtime=0) if suffix.endswith("gz") else data)
    corpus = load_corpus(str(path))
    assert corpus.name == path.name
    (train,), (valid,), (test,) = (
        texts(part) for part in (corpus.train, corpus.valid, corpus.test)
    )
    assert train + valid + test == BOOK.replace("\n", "\r\n")
    assert abs(len(train) / len(BOOK) - 0.9) < 0.06
    assert valid.startswith("Line") and test.startswith("Line")


def test_fractions_of_zero_leave_everything_for_training(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(BOOK)
    corpus = load_corpus(path, valid_fraction=0, test_fraction=0)
    assert texts(corpus.train) == [BOOK] and corpus.valid == corpus.test == ()
    corpus = load_corpus(path, valid_fraction=0, test_fraction=0.5)
    assert corpus.valid == () and texts(corpus.train + corpus.test)[0] + corpus.test[0].text == BOOK


def test_text_without_any_boundary_is_still_split(tmp_path):
    path = tmp_path / "dna.txt"
    path.write_text("acgt" * 250)
    corpus = load_corpus(path)
    assert [len(part[0].text) for part in (corpus.train, corpus.valid, corpus.test)] == [
        900,
        50,
        50,
    ]


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_jsonl_split_depends_on_content_only(tmp_path):
    records = [{"body": f"Document {number}\u2028.\n", "id": number} for number in range(300)]
    write_jsonl(tmp_path / "a.jsonl", records)
    write_jsonl(tmp_path / "b.jsonl", records[::-1])
    first, second = (
        load_corpus(tmp_path / name, text_field="body") for name in ("a.jsonl", "b.jsonl")
    )
    for split in ("train", "valid", "test"):
        assert sorted(texts(getattr(first, split))) == sorted(texts(getattr(second, split)))
    assert sorted(texts(everything(first))) == sorted(record["body"] for record in records)
    assert 5 <= len(first.valid) <= 25 and 5 <= len(first.test) <= 25
    assert "a.jsonl:1" in names(everything(first))


def test_no_split_stays_empty(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"Document {number}"} for number in range(10)])
    for fraction in (0.001, 0.05):
        corpus = load_corpus(tmp_path / "a.jsonl", valid_fraction=fraction, test_fraction=fraction)
        assert len(corpus.valid) >= 1 and len(corpus.test) >= 1
        assert len(everything(corpus)) == len(names(everything(corpus))) == 10


def test_directory_of_files(tmp_path):
    (tmp_path / "deep").mkdir()
    for number in range(20):
        (tmp_path / "deep" / f"{number}.txt").write_text(f"Text {number}.\n")
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"Packed.\n", mtime=0))
    write_jsonl(tmp_path / "r.jsonl", [{"text": "Record."}, {"text": " "}])
    (tmp_path / "README.md").write_text("not read")
    (tmp_path / "empty.txt").write_text("\n")
    corpus = load_corpus(tmp_path)
    assert names(everything(corpus)) == {f"deep/{number}.txt" for number in range(20)} | {
        "more.txt.gz",
        "r.jsonl:1",
    }


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", r"a\.txt.*no text.*give"),
        ("a.txt", b" \n\n", r"a\.txt.*no text.*give"),
        ("a.txt", b"x", r"a\.txt.*too little text \(1 characters\)"),
        ("a.txt", b"one\ntwo \xe9\n", r"a\.txt is not UTF-8: byte 0xe9 in line 2.*iconv"),
        ("a.txt.gz", b"not gzip", r"a\.txt\.gz cannot be read.*Not a gzipped file"),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-12], r"a\.txt\.gz cannot be read"),
        ("a.jsonl", b"", r"a\.jsonl.*no text"),
        ("a.jsonl", b'{"text": "a"}\n{"te', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b"\n[1]\n", r"a\.jsonl, line 2: a JSON object is needed, not an array"),
        ("a.jsonl", b'{"body": "a", "id": 1}', r"line 1: `text_field`='text'.*\['body', 'id'\]"),
        ("a.jsonl", b'{"text": 5}', r"line 1: `text_field`='text' is not a string"),
        ("a.jsonl", b'{"text": "\\ud800"}', r"line 1: .*surrogate"),
        ("a.csv", b"a,b", r"a\.csv.*\.txt, \.jsonl"),
    ],
)
def test_bad_file_is_an_error(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path / name)


def test_bad_directory_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"directory without any \.txt"):
        load_corpus(tmp_path)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match=r"gone\.txt cannot be read.*check that it exists"):
        load_corpus(tmp_path)


@pytest.mark.parametrize("name", ["wikitext2", Path("wikitext-2") / "nowhere", ""])
def test_unknown_corpus_is_an_error(name, tmp_path, monkeypatch):
    (tmp_path / "book.txt").write_text(BOOK)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"`name_or_path`=.* is neither"):
        load_corpus(name)


def test_unknown_corpus_error_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'wikitext2' is neither.*python-stdlib, wikitext-2"):
        load_corpus("wikitext2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"valid_fraction": -0.1}, "`valid_fraction` .* received -0.1"),
        ({"test_fraction": 1.0}, "`test_fraction` .* received 1.0"),
        ({"test_fraction": float("nan")}, "`test_fraction` .* received nan"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "nothing is left to train on"),
    ],
)
def test_bad_fractions_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_corpus("python-stdlib", **arguments)


def test_describe_has_the_counts(tmp_path):
    (tmp_path / "book.txt").write_text(BOOK)
    corpus = load_corpus(tmp_path / "book.txt")
    description = corpus.describe()
    assert description.startswith("book.txt\n")
    for count in corpus.counts().values():
        assert f"{count['characters']:,} characters" in description


def test_word_count_counts_words_and_line_ends():
    assert word_count(" = Title = \n \n Two words . \n") == 3 + 1 + 1 + 3 + 1
    assert word_count("") == 0


def test_import_brings_no_framework():
    code = (
        "import sys, types, importlib.util as u\n"
        # The package's own __init__ may need Keras; what is tested is the sub-package.
        "spec = u.find_spec('fwl_keras')\n"
        "package = types.ModuleType('fwl_keras')\n"
        "package.__path__ = list(spec.submodule_search_locations)\n"
        "sys.modules['fwl_keras'] = package\n"
        "import fwl_keras.data\n"
        "print(sorted({'tensorflow', 'keras', 'jax', 'tensorflow_text', 'keras_hub'}"
        " & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.strip() == "[]"


def test_documents_as_they_are(tmp_path):
    (tmp_path / "module.py").write_bytes(b"x = 1\r\n")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"zipped"))
    module = load_documents(tmp_path / "module.py")
    assert [(d.name, d.text) for d in module] == [(str(tmp_path / "module.py"), "x = 1\r\n")]
    inside = load_documents(tmp_path)
    assert texts(inside) == ["zipped", "one", "two"]
    assert [d.name.removeprefix(f"{tmp_path}{os.sep}") for d in inside] == [
        "a.txt.gz",
        "b.jsonl:1",
        "b.jsonl:3",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "does not exist"),
        ("blank.txt", "no text in it"),
        ("latin.txt", "not UTF-8"),
        ("empty", "directory without any"),
    ],
)
def test_documents_that_cannot_be_read(tmp_path, name, message):
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        load_documents(tmp_path / name)
