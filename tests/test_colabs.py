"""Every notebook, from top to bottom, with its small settings."""

import os
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from tests.commands import ROOT

LIMIT = 900  # seconds of a cell
NOTEBOOKS = sorted(path.name for path in (ROOT / "colabs").glob("*.ipynb"))


@pytest.mark.thorough
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_its_outputs_are_small(name, tmp_path, monkeypatch):
    for part in ("jaxvid", "configs", "colabs"):
        shutil.copytree(ROOT / part, tmp_path / part)
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setitem(os.environ, "PYTHONPATH", str(tmp_path))
    path = tmp_path / "colabs" / name
    assert path.stat().st_size < 500_000
    notebook = nbformat.read(path, 4)
    assert all(cell.outputs for cell in notebook.cells if "print" in cell.source)
    about = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=LIMIT, kernel_name="python3", resources=about).execute()
