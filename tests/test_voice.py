"""One voice: what every error message of the package looks like."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "fwl_keras").rglob("*.py"))
# Stands for a value that is only known when the message is made.
VALUE = "\0"


def text_of(node):
    """A message's text, with VALUE for what is filled in; None where it is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else VALUE for p in node.values)
        return "".join(parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return None if left is None and right is None else (left or VALUE) + (right or VALUE)
    if isinstance(node, ast.IfExp):
        return text_of(node.body)
    return None


def messages(path):
    """Line and text of every message that a file raises."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
            continue
        if ast.unparse(node.exc.func) == "AttributeError":
            continue  # Python's own words.
        for argument in node.exc.args[:1]:
            text = text_of(argument)
            if text is not None:
                yield node.lineno, text


def faults(text):
    """What is wrong with a message."""
    if not re.match(rf"[A-Z`'\"{VALUE}]", text):
        yield "begins with a small letter"
    if not re.search(rf"[.{VALUE}]$", text):
        yield "does not end with a period"
    if text.count("`") % 2:
        yield "has a backtick without its other"
    if re.search(r"\b(?:must|cannot) be\b", text) and not re.search(rf"[`'\"{VALUE}]", text):
        yield "names no argument in backticks"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("`seed` must be positive; received 0.", None),
        (f"{VALUE} is not empty; give another directory.", None),
        ("`seed` must be positive; received 0", "does not end with a period"),
        ("nothing to read.", "begins with a small letter"),
        ("`seed must be positive.", "has a backtick without its other"),
        ("The seed must be positive.", "names no argument in backticks"),
    ],
)
def test_the_faults_are_found(text, fault):
    assert list(faults(text)) == ([] if fault is None else [fault])


def test_every_message_is_a_sentence():
    found = [(path, *one) for path in SOURCES for one in messages(path)]
    assert len(found) > 200
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {fault}: {text.replace(VALUE, '{}')}"
        for path, line, text in found
        for fault in faults(text)
    ]
    assert not wrong, "\n".join(wrong)
