"""Every notebook runs from top to bottom."""

import os
import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter client, not of ours
def test_a_notebook_runs_and_draws(path):
    notebook = nbformat.read(path, as_version=4)
    as_a_reader = {**os.environ, "XLA_FLAGS": ""}  # it runs more than it compiles: what speeds tests up slows it down
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(env=as_a_reader)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
