"""Execute notebooks of this folder and keep what they print and draw: ``python tutorials/execute.py [NAME.ipynb ...]``.

``TRANSANNO_DATA`` names the folder with the data. Every notebook runs in a folder of its own, so that files that it writes do not stay. The
picture of a notebook in the gallery of the documentation is the first that it draws under a cell tagged "thumbnail".
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
DATA = Path(os.environ.get("TRANSANNO_DATA", FOLDER.parent.parent / "shared" / "data"))
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
THUMBNAILS = FOLDER.parent / "docs" / "_static" / "gallery"
# Where a cell was compiled, which is another file in every run.
_CELL_FILE = re.compile(r"\S*ipykernel_\d+\S*:\d+: ")
# Progress, which writes over itself; and below a warning the code that it points at, which is that of the cell.
_NOISE = {
    "stdout": re.compile(r"^.*(it/s|s/it).*\n?|^.*\r.*\n?", re.MULTILINE),
    "stderr": re.compile(
        r"^Seed set to.*\n?|^.*TqdmWarning.*\n?|^  \S.*\n?|^.*(it/s|s/it).*\n?|^.*\r.*\n?", re.MULTILINE
    ),
}


def files_of(notebook: nbformat.NotebookNode) -> list[str]:
    """-> names of the files of the data folder that a notebook reads."""
    return sorted({name for cell in notebook.cells for name in re.findall(r'/ "(\w+\.h5ad)"', cell.source)})


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """-> the notebook with the outputs of this run; raises `nbclient.exceptions.CellExecutionError` if a cell fails."""
    os.environ["TRANSANNO_DATA"] = str(DATA.resolve())
    with tempfile.TemporaryDirectory() as folder:
        return NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out times, counters, progress and paths, which differ from run to run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
        cell.execution_count, outputs, cell.outputs = number, cell.outputs, []
        for output in outputs:
            if output.output_type == "stream":
                output.text = _NOISE[output.name].sub("", _CELL_FILE.sub("", output.text)).strip("\n")
                if not output.text:
                    continue
            if "execution_count" in output:
                output.execution_count = number
            cell.outputs.append(output)
    return notebook


def thumbnail(notebook: nbformat.NotebookNode) -> bytes | None:
    """-> PNG of the picture that stands for a notebook, 480 pixels wide; None if there is none."""
    from PIL import Image

    tagged = [cell for cell in notebook.cells if "thumbnail" in cell.metadata.get("tags", ())]
    pictures = [
        output.data["image/png"] for cell in tagged for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    if not pictures:
        return None
    image = Image.open(io.BytesIO(base64.b64decode(pictures[0]))).convert("RGB")
    image.thumbnail((480, 480))
    small = io.BytesIO()
    image.quantize(64).save(small, "PNG", optimize=True)
    return small.getvalue()


def main(names: list[str]) -> None:
    """Execute the notebooks of these names, by default all."""
    THUMBNAILS.mkdir(exist_ok=True)
    for path in [FOLDER / name for name in names] or NOTEBOOKS:
        start = time.perf_counter()
        notebook = clean(execute(nbformat.read(path, as_version=4)))
        nbformat.write(notebook, path)
        picture = thumbnail(notebook)
        if picture is not None:
            (THUMBNAILS / path.with_suffix(".png").name).write_bytes(picture)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
