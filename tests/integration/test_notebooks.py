"""The notebooks of examples/: what they show is of the cells that they have, and all cells run."""

import importlib
import json
import re
import types
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the tools of notebooks are not installed")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# Enough to see every cell run, and no more.
FEW = {
    "own-model": {"n_known": 1},
    "rome-paper": {"samples": 1, "samples_each": 1, "n_known": 2, "n_records": 1},
}
_LARGEST_BYTES = 1_000_000


@pytest.fixture
def notebooks(monkeypatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("notebooks")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_shown_is_of_these_cells(path, notebooks):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata["factlab"]["cells"] == notebooks.cells_digest(notebook), (
        "a cell was changed since: make notebooks"
    )
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert {one.output_type for one in outputs} <= {"execute_result", "stream"}
    assert all(one.name == "stdout" for one in outputs if one.output_type == "stream")
    said = json.dumps(outputs)
    assert not re.search(
        r"Warning|Traceback|site-packages|/tmp/|/home/|/Users/|\.venv|\bhttps?:", said
    )
    assert path.stat().st_size < _LARGEST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    notebook = nbformat.read(path, as_version=4)
    texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for address in re.findall(r"\]\(([^)#\s]+)", texts):
        assert "://" in address or (path.parent / address).exists(), address


def test_a_changed_cell_is_seen(notebooks):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    digest = notebooks.cells_digest(notebook)
    notebook.cells.append(nbformat.v4.new_markdown_cell("words"))
    assert notebooks.cells_digest(notebook) == digest
    notebook.cells[0].source = "1 + 2"
    assert notebooks.cells_digest(notebook) != digest


def test_a_notebook_is_run_and_what_it_should_not_say_is_refused(notebooks):
    cells = ["n = 1", "import sys", "print(n)\nprint(n)", "n + 1"]
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    made = notebooks.executed(notebook, {"n": 41})
    assert [cell.execution_count for cell in made.cells] == [1, 2, 3, 4]
    assert made.cells[2].outputs[0].text == "41\n41\n"
    assert made.cells[3].outputs[0].data["text/plain"] == "42"
    assert not notebook.cells[2].outputs
    notebook.cells[3].source = "print('careful', file=sys.stderr)"
    with pytest.raises(RuntimeError, match="says on stderr: careful"):
        notebooks.executed(notebook)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_all_cells_run(path, notebooks):
    """With fewer facts, every cell still shows what the written notebook has there."""
    written = nbformat.read(path, as_version=4)
    made = notebooks.executed(written, FEW[path.stem])
    for cell, before in zip(code_cells(made), code_cells(written), strict=True):
        kinds, kinds_before = (
            [(one.output_type, {*one.get("data", ())}) for one in each.outputs]
            for each in (cell, before)
        )
        assert kinds == kinds_before, cell.source
