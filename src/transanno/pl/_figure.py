"""What the plots share: figures apart from pyplot's state, and saving."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from transanno.data._files import atomic_path

_DPI = 150


class _Figure(Figure):
    """Figure that a notebook shows also where pyplot, which would teach it to, has drawn nothing yet."""

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        self.savefig(image, format="png", bbox_inches="tight")
        return image.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Size in inches -> figure that needs no display and that pyplot does not know."""
    figure = _Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of the path's suffix, PNG if it has none; an earlier file is replaced in one step."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png", dpi=_DPI, bbox_inches="tight")


def show_literally(texts: Sequence[Text]) -> None:
    """Keep matplotlib from reading a ``$`` in a cell type as mathematics."""
    for text in texts:
        text.set_parse_math(False)
