"""The notebook of the examples, executed from its first cell to its last in a real kernel."""

import nbformat
import pytest
from checkout import ROOT
from nbclient import NotebookClient


@pytest.mark.e2e
def test_the_quickstart_notebook_runs(tmp_path):
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources=resources).execute()
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
    results = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "execute_result"
    ]
    assert "'problems': 2" in results[-1]
