"""The check that every error was seen, on a package of its own."""

import subprocess
import sys
from pathlib import Path

import raises

MODULE = """\
def require_even(value):
    if value % 2:
        raise ValueError(f"{value} is odd")

def one(value):
    require_even(value)

def other(value):
    require_even(value)

def third(error):
    if error is None:
        raise ValueError("no error")
    raise error
"""
RUN = """\
import os, subprocess, sys
import raises
raises.PACKAGE, raises.ROOT = "few", __import__("pathlib").Path({root!r})
raises.record()
import few
few.one(2)
try:
    few.one(1)
except ValueError as error:
    assert "1 is odd" in str(error) and error.__traceback__.tb_next.tb_lineno == 6, error
try:
    few.third(KeyError())
except KeyError:
    print("fine")
child = "import sys; print([type(one).__name__ for one in sys.meta_path])"
sys.stdout.flush()
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_what_no_test_has_seen(tmp_path, monkeypatch):
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "__init__.py").write_text(MODULE)
    record = tmp_path / "record"
    paths = f"{tmp_path}:{Path(raises.__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(root=str(tmp_path))],
        env={"FWL_RAISES": str(record), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Child processes record too.
    assert done.stdout.startswith("fine") and "_Finder" in done.stdout
    monkeypatch.setattr(raises, "PACKAGE", "few")
    monkeypatch.setattr(raises, "ROOT", tmp_path)
    assert raises.missing(record) == [
        "few/__init__.py:9: require_even(value)",
        "few/__init__.py:13: raise ValueError('no error')",
    ]
    monkeypatch.setitem(raises.UNREACHED, ("few/", "no error"), "a reason")
    assert len(raises.missing(record)) == 1


def test_every_reason_is_needed():
    found = [(path, text) for path, _, text in raises.wanted()]
    for place, part in raises.UNREACHED:
        assert any(place in path and part in text for path, text in found), (place, part)
