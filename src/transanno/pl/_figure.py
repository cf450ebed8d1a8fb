"""What the plots share: figures of pyplot, which are saved, shown and handed back as those of scanpy are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import scanpy as sc
from matplotlib.figure import Figure
from matplotlib.text import Text

from transanno.data._files import atomic_path

_DPI = 150

_Axes = TypeVar("_Axes")


def new_figure(width: float, height: float) -> Figure:
    """Size in inches -> current figure of pyplot, whose parts make room for each other."""
    return plt.figure(figsize=(width, height), layout="constrained")


def finish(
    figure: Figure,
    axes: _Axes,
    *,
    show: bool | None,
    save: str | Path | None,
    return_fig: bool | None,
    is_ours: bool = True,
) -> Figure | _Axes | None:
    """Save the figure, show it, and hand back what was asked for: the figure, its axes or nothing.

    Unlike scanpy, ``show=None`` does not call ``plt.show()``, which would block a script, and close the figure in a notebook so
    that ``plt.savefig`` wrote an empty one. A notebook shows what is open at the end of its cell.
    """
    if save is not None:
        save_figure(figure, save)
    if return_fig:
        return figure
    if not (sc.settings.autoshow if show is None else show):
        return axes
    if show:
        plt.show()
    if save is not None and is_ours and not plt.isinteractive():
        plt.close(figure)  # files that a script writes in a loop must not pile up in memory
    return None


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of the path's suffix, PNG if it has none; an earlier file is replaced in one step."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png", dpi=_DPI, bbox_inches="tight")


def show_literally(texts: Sequence[Text]) -> None:
    """Keep matplotlib from reading a ``$`` in a cell type as mathematics."""
    for text in texts:
        text.set_parse_math(False)
