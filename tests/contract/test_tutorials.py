"""The notebooks run as they are printed, and their outputs are of a clean run."""

from __future__ import annotations

import re
from importlib.util import find_spec

import nbformat
import pytest
from tutorials.execute import DATA, NOTEBOOKS, execute, files_of

NAMES = [path.stem for path in NOTEBOOKS]


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def notebook(request) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


@pytest.fixture
def name(request, notebook) -> str:
    return request.node.callspec.id


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 11


@pytest.mark.tutorials
def test_runs(notebook):
    if missing := [name for name in files_of(notebook) if not (DATA / name).exists()]:
        pytest.skip(f"{', '.join(missing)} not in the folder that TRANSANNO_DATA names")
    if "import jax" in str(notebook.cells) and find_spec("jax") is None:
        pytest.skip("jax is not installed")
    execute(notebook)


def test_outputs_are_of_a_whole_and_quiet_run(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) or "text/html" in output.get("data", {}) for output in outputs)
    texts = [output.get("text", "") for output in outputs]
    for noise in (r"(?<!\w)/(home|tmp|work|usr|root)/", r"GPU available|litlogger|Deprecat|FutureWarning", r"\d+it/s"):
        assert not [text for text in texts if re.search(noise, text)], noise


def test_first_cell_is_the_title_and_the_last_says_what_is_next(notebook, name):
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert f"/tutorials/{name}.ipynb)" in first.source  # on Colab
    assert "## What next" in last.source
