"""The import graph: no circles, and no import from a lower floor to a higher one."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "fwl_keras"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"

# What needs a library that not everybody has, on the floors where a block or a model is made.
OPTIONAL = ("rich", "typer", "sentencepiece", "keras_hub", "matplotlib", "tf_keras", "official")


def modules():
    """All modules of the package, by name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path, known):
    """Modules of the package that a file imports anywhere in it, also inside its functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.fixture(scope="module")
def graph():
    """Which modules of the package each one imports."""
    known = modules()
    return {
        name: sorted({one for one in imports(path, known) if one.split(".")[0] == PACKAGE} - {name})
        for name, path in known.items()
    }


def floor_of(module):
    """A module's folder, or its own name where it stands in none; "" for the package."""
    return module.removeprefix(PACKAGE).lstrip(".").split(".")[0]


def allowed():
    """From CONTRIBUTING: the floors, from the lowest up, and what each may import."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", CONTRIBUTING.read_text("utf-8"), re.M)
    return {name: set(re.findall(r"`(\w+)`", arrows)) for name, arrows in rows}


def circles(graph):
    """Groups of modules that import each other (Tarjan's strongly connected components)."""
    order, low, stack, found = {}, {}, [], []

    def visit(one):
        order[one] = low[one] = len(order)
        stack.append(one)
        for other in graph[one]:
            if other not in order:
                visit(other)
                low[one] = min(low[one], low[other])
            elif other in stack:
                low[one] = min(low[one], order[other])
        if low[one] == order[one]:
            group = stack[stack.index(one) :]
            del stack[stack.index(one) :]
            if len(group) > 1:
                found.append(sorted(group))

    for one in graph:
        if one not in order:
            visit(one)
    return found


def test_the_circles_are_found_where_there_are_some():
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": ["a"]}) == [["b", "c"]]


def test_no_circles(graph):
    # Not through the package itself, which everything stands in and which imports what it shows.
    inside = {name: [one for one in to if one != PACKAGE] for name, to in graph.items()}
    assert all(PACKAGE not in to for to in graph.values()), "import the module, not the package"
    found = circles(inside)
    print(f"circles: {len(found)}")
    assert found == []


def test_every_import_goes_down_an_arrow_that_contributing_lists(graph):
    arrows = allowed()
    floors = list(arrows)
    for number, (floor, below) in enumerate(arrows.items()):
        assert below <= set(floors[:number]), f"CONTRIBUTING: `{floor}` imports from above"
    seen, upward = {}, []
    for module, others in graph.items():
        for other in others:
            pair = floor_of(module), floor_of(other)
            if pair[0] and pair[0] != pair[1]:
                seen.setdefault(pair, []).append((module, other))
                if pair[1] not in arrows.get(pair[0], ()):
                    upward.append(f"{module} -> {other}")
    for floor in reversed(floors):
        print(f"{floor:12} -> {', '.join(sorted(to for one, to in seen if one == floor))}")
    print(f"upward imports: {len(upward)}")
    assert upward == []
    listed = {(floor, to) for floor, below in arrows.items() for to in below}
    assert listed == set(seen), "CONTRIBUTING lists an arrow that no module goes along any more"
    assert set(floors) == {floor_of(module) for module in graph} - {""}


def test_a_block_and_a_model_need_none_of_the_optional_libraries():
    code = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

before = set(sys.modules)
import keras  # which looks for visualisation libraries of its own
sys.meta_path.insert(0, Missing())
import numpy as np
import fwl_keras
from fwl_keras import backbones, callbacks, evaluation, layers, models, ops
body = keras.Sequential([keras.layers.Embedding(9, 4), keras.layers.GRU(4, return_sequences=True)])
lm = fwl_keras.FWLCausalLM(body, fwl_keras.FWLBlock(4, 9))
lm.compile("sgd", sampler=None, run_eagerly=True)
ids = np.arange(12).reshape(2, 6) % 9
lm.fit(ids, verbose=0)
print(lm.score(ids).perplexity.shape)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split()[-1] == "(2,)"
