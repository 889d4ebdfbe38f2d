"""Runs the notebooks of examples/ and writes them with what they show.

    python scripts/notebooks.py [examples/rome-paper.ipynb ...]

Each runs in an empty folder, in a kernel of its own with this Python. Whatever a kernel says beside
its results, such as a warning, is an error: a committed notebook has nothing of the kind. What is
written says of which cells the outputs are, so that a test sees whether one was changed since.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
PARAMETERS = "parameters"
_PATIENCE_S = 3600
# tqdm asks for ipywidgets where bars are drawn, and none is.
_ENVIRONMENT = {"PYTHONWARNINGS": "ignore:IProgress not found"}


def executed(notebook: Any, instead: Mapping[str, Any] | None = None) -> Any:
    """A notebook with the outputs of all its cells.

    Args:
        notebook: is left as it is.
        instead: values for names that the cell tagged `parameters` sets, put below what it says.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        RuntimeError: a cell wrote to stderr.
    """
    made = nbformat.from_dict(notebook)
    if instead:
        (cell,) = (cell for cell in made.cells if PARAMETERS in cell.metadata.get("tags", ()))
        cell.source += "".join(f"\n{name} = {value!r}" for name, value in instead.items())
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        client = NotebookClient(
            made, km=kernel, timeout=_PATIENCE_S, record_timing=False, coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )  # fmt: skip
        client.execute(cleanup_kc=True, env=os.environ | _ENVIRONMENT)
    for cell in made.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stderr":
                raise RuntimeError(f"A cell says on stderr: {output.text}\n{cell.source}")
            _tidy(output)
    made.metadata = notebook.metadata | {"factlab": {"cells": cells_digest(notebook)}}
    return made


def cells_digest(notebook: Any) -> str:
    """SHA-256 of what the cells with code say."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _tidy(output: Any) -> None:
    """Drop the picture that the HTML has in it already."""
    data = output.get("data", {})
    if "text/html" in data:
        data.pop("image/png", None)


def main(names: list[str]) -> None:
    """Run those that are named, or all."""
    for path in map(Path, names) if names else sorted(EXAMPLES.glob("*.ipynb")):
        made = executed(nbformat.read(path, as_version=4))
        nbformat.write(made, path)
        sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
