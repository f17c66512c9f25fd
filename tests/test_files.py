"""Files and directories that are written whole, or not at all."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fwl_keras.files import check_new, new_directory, replace_file


def test_what_is_in_the_way_is_named_and_what_to_do(tmp_path):
    file = tmp_path / "file"
    check_new(file)
    file.touch()
    with pytest.raises(ValueError, match=r"file' is a file; give another directory\.$"):
        check_new(file)
    with pytest.raises(ValueError, match=r"is not empty; remove it\.$"):
        check_new(tmp_path, "remove it")
    file.unlink()
    check_new(tmp_path)


def test_a_directory_is_there_when_all_of_it_is(tmp_path):
    path = tmp_path / "deep" / "new"
    with new_directory(path) as beside:
        (beside / "part").mkdir()
        (beside / "part" / "one").write_text("1")
        assert not path.exists() and beside.parent == path.parent
        assert beside.name.startswith(".new.")
    assert (path / "part" / "one").read_text() == "1"
    assert os.listdir(path.parent) == ["new"]


def test_a_directory_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "new") as beside:
        (beside / "one").touch()
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)


def test_whoever_is_first_has_the_directory(tmp_path):
    path = tmp_path / "new"
    refused = pytest.raises(ValueError, match="is not empty")
    with refused, new_directory(path), new_directory(path) as other:
        (other / "first").touch()
    assert os.listdir(tmp_path) == ["new"] and os.listdir(path) == ["first"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_are_those_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        with new_directory(tmp_path / "new") as beside:
            replace_file(beside / "file", lambda path: path.write_text("1"))
    finally:
        os.umask(before)
    modes = [one.stat().st_mode & 0o777 for one in (tmp_path / "new", tmp_path / "new" / "file")]
    assert modes == [0o750, 0o640]


def test_two_threads_may_write_a_file(tmp_path):
    path, both = tmp_path / "file", threading.Barrier(2)

    def write(text):
        def write_beside(beside):
            beside.write_text(text)
            both.wait(10)

        replace_file(path, write_beside)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("a" * 1000, "b" * 1000)))
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert os.listdir(tmp_path) == ["file"]
