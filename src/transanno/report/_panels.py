"""Pictures of all cells, as data URIs."""

from __future__ import annotations

import base64
from io import BytesIO

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from transanno.report._calls import Calls
from transanno.report._contents import Panel
from transanno.report._umap import Placed

# Inches, of the cells and of the bar of colors below, and pixels for each: sharp at twice the width of a column.
_WIDTH, _BELOW, _DPI = 4.2, 0.7, 170
_MISSING = "#dddddd"


def draw_panels(placed: Placed, calls: Calls) -> list[Panel]:
    """Where cells are, calls of all cells -> pictures by call, confidence and novelty."""
    order = np.random.default_rng(0).permutation(len(placed.xy))  # else the last type covers the others
    xy, positions = placed.xy[order], placed.positions[order]
    names = calls.names[positions]
    colors = [calls.colors.get(name, _MISSING) for name in names]
    panels = [Panel("Type", _scatter(xy, colors), "UMAP of the cells, colored by type; the legend is the table above")]
    if calls.confidence is not None:
        image = _scatter(xy, calls.confidence[positions], "viridis", (0.0, 1.0), "probability of the call")
        panels.append(
            Panel("Confidence", image, "UMAP of the cells, colored by the probability of their call, from 0 to 1")
        )
    if calls.novelty is not None and np.isfinite(calls.novelty[positions]).any():
        values = calls.novelty[positions]
        low, high = np.nanquantile(values, [0.01, 0.99])  # one odd cell must not be all that is seen
        image = _scatter(xy, values, "magma_r", (low, max(high, low + 1e-6)), "standard deviations")
        panels.append(Panel("Novelty", image, "UMAP of the cells, colored by how much they are unlike the reference"))
    return panels


def _scatter(
    xy: np.ndarray,
    colors: list[str] | np.ndarray,
    cmap: str | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    label: str = "",
) -> str:
    """Colors, or numbers and how to color them, of cells -> picture as a data URI."""
    is_known = np.ones(len(xy), dtype=bool) if cmap is None else ~np.isnan(np.asarray(colors))
    size = float(np.clip(20_000 / len(xy), 1.0, 22.0))
    low, high = limits
    with matplotlib.style.context("default"):  # a page is white, whatever the user's own figures are
        figure = Figure(figsize=(_WIDTH, _WIDTH + _BELOW))
        # Axes of the same size, with colors below or not.
        ax = figure.add_axes((0.07, 0.06 + _BELOW / (_WIDTH + _BELOW), 0.92, 0.93 - _BELOW / (_WIDTH + _BELOW)))
        ax.scatter(xy[~is_known, 0], xy[~is_known, 1], c=_MISSING, s=size, linewidths=0)
        if cmap is None:
            ax.scatter(xy[:, 0], xy[:, 1], c=colors, s=size, linewidths=0)
        else:
            values = np.asarray(colors)[is_known]
            known = xy[is_known]
            points = ax.scatter(
                known[:, 0], known[:, 1], c=values, s=size, linewidths=0, cmap=cmap, vmin=low, vmax=high
            )
            below = figure.add_axes((0.2, 0.11, 0.66, 0.025))
            bar = figure.colorbar(points, cax=below, orientation="horizontal", label=label)
            bar.outline.set_visible(False)  # type: ignore[operator]
        ax.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
        ax.spines[["top", "right"]].set_visible(False)
        image = BytesIO()
        figure.savefig(image, format="png", dpi=_DPI, pil_kwargs={"optimize": True})
    return "data:image/png;base64," + base64.b64encode(image.getvalue()).decode("ascii")
