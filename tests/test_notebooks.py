"""Every notebook runs from its first cell to its last, on settings small enough for a test."""

import base64
import math
import re
import sysconfig
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

# A graph takes longer to make than the few steps of a test in it.
EAGERLY = "import tensorflow\ntensorflow.config.run_functions_eagerly(True)\n"

# By notebook, what a cell injected after the one tagged `parameters` sets.
SMALL = {
    "add_fast_weights.ipynb": {
        "VOCAB_SIZE": 300,
        "LENGTH": 24,
        "SEGMENT_LENGTH": 16,
        "WIDTH": 16,
        "BATCH_SIZE": 2,
        "STEPS": 20,
        "HELD_OUT_WINDOWS": 9,
    },
}


def paths():
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def named(path):
    return path.name


def read(path):
    return nbformat.read(path, as_version=4)


def own_text(directory):
    """A user's own file: one document of about 100 kB."""
    standard_library = Path(sysconfig.get_path("stdlib"))
    text = "".join(
        (standard_library / name).read_text("utf-8") for name in ("ast.py", "dataclasses.py")
    )
    path = directory / "book.txt"
    path.write_text(text, "utf-8")
    return str(path)


def inject(notebook, settings):
    tagged = [
        index
        for index, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(tagged) == 1, "one cell is tagged `parameters`"
    known = notebook.cells[tagged[0]].source
    for name in settings:
        assert re.search(rf"^{name} = ", known, re.MULTILINE), f"{name} is no parameter"
    source = EAGERLY + "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(source))


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_there_are_notebooks():
    assert {path.name for path in paths()} == set(SMALL)


@pytest.mark.parametrize("path", paths(), ids=named)
def test_is_committed_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.slow
@pytest.mark.parametrize("path", paths(), ids=named)
def test_runs(path, tmp_path):
    notebook = read(path)
    inject(notebook, {"TEXT": own_text(tmp_path), **SMALL[path.name]})

    # Raises if a cell does.
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()

    pictures = [
        base64.b64decode(output.data["image/png"])
        for output in outputs(notebook)
        if "image/png" in output.get("data", {})
    ]
    assert pictures and all(picture.startswith(b"\x89PNG") for picture in pictures)

    said = "".join(output.text for output in notebook.cells[-1].outputs if "text" in output)
    found = re.search(r"Perplexity .*: (\S+) with fast weights, (\S+) without", said)
    assert found, said
    perplexities = [float(number) for number in found.groups()]
    assert all(math.isfinite(value) and value > 1 for value in perplexities)
    # A model of 300 ids that has learned nothing has a perplexity of 300.
    assert all(value < 300 for value in perplexities)
