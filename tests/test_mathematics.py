"""docs/mathematics.md: what it names is there, and what names its equations finds them."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "mathematics.md").read_text()
NAMES = sorted(set(re.findall(r"`((?:layers|ops|models|inference)\.[\w.]+)`", TEXT)))
EQUATIONS = [int(number) for number in re.findall(r"\\tag\{(\d+)\}", TEXT)]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_exists(name):
    folder, module, *attributes = name.split(".")
    found = importlib.import_module(f"fwl_keras.{folder}.{module}")
    for attribute in attributes:
        found = getattr(found, attribute)


def test_equations_are_numbered_in_their_order():
    assert list(range(1, len(EQUATIONS) + 1)) == EQUATIONS
    assert len(EQUATIONS) > 20 and len(NAMES) > 40
    prose = re.sub(r"```math.*?```", "", TEXT, flags=re.DOTALL)
    named = {int(number) for number in re.findall(r"\((\d+)\)", prose)}
    assert named <= set(EQUATIONS)
    # Nearly all of them: spans, (16) to (19), leave some out.
    assert len(named) > 20


def test_code_that_points_to_equations_points_to_some():
    pointed = {}
    for path in sorted((ROOT / "fwl_keras").rglob("*.py")):
        code = path.read_text()
        if "docs/mathematics.md" in code:
            prose = " ".join(re.findall(r'""".*?"""|#[^\n]*', code, flags=re.DOTALL))
            pointed[path.stem] = {int(number) for number in re.findall(r"(?<!\w)\((\d+)\)", prose)}
    assert {"fwl_block", "fast_state", "cross_entropy"} <= set(pointed)
    for name, numbers in pointed.items():
        assert numbers <= set(EQUATIONS), name
