"""The notebooks of the examples, executed from the first cell to the last in a real kernel."""

import nbformat
import pytest
from checkout import ROOT
from nbclient import NotebookClient

pytestmark = pytest.mark.e2e


def shown(name, folder):
    """What the cells of a notebook show that was executed in a folder."""
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [each["data"]["text/plain"] if "data" in each else each["text"] for each in outputs]


def test_the_quickstart_notebook_runs(tmp_path):
    texts = shown("quickstart.ipynb", tmp_path)
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
    assert "'problems': 2" in texts[-1]


def test_the_notebook_of_three_organisations_runs(tmp_path):
    accuracy, rewards, silent, samples = shown("three_organisations.ipynb", tmp_path)
    assert "150 held-out problems" in accuracy
    assert all("client-2" in table for table in (rewards, silent))
    assert "before:" in samples
