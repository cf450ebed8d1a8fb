"""Names of types beside the panels, below them or on the cells, where they do not hide each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from transanno.pl._figure import show_literally

# Inches of a letter.
_LETTER = 0.085
_MAX_ROUNDS = 200
# Pixels between two names.
_GAP = 1.0


def legend_beside(ax: Axes, colors: Mapping[str, str], fontsize: Any) -> None:
    """List the types to the right of the axes."""
    _legend(ax, list(colors), colors, fontsize=fontsize, loc="center left", bbox_to_anchor=(1, 0.5))


def legend_below(figure: Figure, colors: Mapping[str, str]) -> None:
    """List the types, which are numbered in this order, at the bottom."""
    names = [f"{number}  {name}" for number, name in enumerate(colors, 1)]
    n_columns = max(1, int(figure.get_figwidth() / (0.5 + _LETTER * max(map(len, names)))))
    _legend(figure, names, colors, loc="outside lower center", ncols=n_columns)


def _legend(parent: Axes | Figure, names: list[str], colors: Mapping[str, str], **placement: Any) -> None:
    handles = [Line2D([], [], marker="o", linestyle="", color=color) for color in colors.values()]
    show_literally(parent.legend(handles, names, frameon=False, handletextpad=0.2, **placement).get_texts())


def make_room(figure: Figure, axes: list[Axes]) -> None:
    """Enlarge the figure by the legends that are not inside of panels, so that these keep their size."""
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    height += sum(legend.get_window_extent().height for legend in figure.legends) / figure.dpi
    for ax in axes:
        if legend := ax.get_legend():
            box = legend.get_window_extent()
            if box.x1 > ax.get_window_extent().x1:
                width, height = width + box.width / figure.dpi, max(height, box.height / figure.dpi + 0.5)
    figure.set_size_inches(width, height)
    figure.draw_without_rendering()


def spread_names(ax: Axes) -> None:
    """Move the texts of drawn axes apart, up and down only, and into the axes."""
    texts = ax.texts
    if not texts:
        return
    boxes = np.array([text.get_window_extent().extents for text in texts])  # x0, y0, x1, y1
    frame = ax.get_window_extent()
    # Of a name that is wider than the axes the beginning is shown.
    boxes[:, [0, 2]] += np.maximum(np.minimum(0, frame.x1 - boxes[:, 2]), frame.x0 - boxes[:, 0])[:, None]
    start = boxes.copy()
    is_beside = (boxes[:, None, 0] < boxes[None, :, 2]) & (boxes[None, :, 0] < boxes[:, None, 2])
    np.fill_diagonal(is_beside, False)
    heights = boxes[:, 3] - boxes[:, 1]
    least = (heights[:, None] + heights[None, :]) / 2 + _GAP
    # Where two names are at one height, the first goes up.
    middle = boxes[:, [1, 3]].mean(axis=1) - 1e-3 * np.arange(len(texts))
    for _ in range(_MAX_ROUNDS):
        above = middle[:, None] - middle[None, :]
        overlap = np.where(is_beside, np.maximum(least - np.abs(above), 0), 0)
        if not overlap.any():
            break
        middle += 0.3 * (np.sign(above) * overlap).sum(axis=1)
        middle = np.clip(middle, frame.y0 + heights / 2, frame.y1 - heights / 2)
    shift = np.column_stack([start[:, [0, 2]].mean(axis=1), middle])
    for text, position in zip(texts, ax.transData.inverted().transform(shift), strict=True):
        text.set(position=position, ha="center", va="center")
