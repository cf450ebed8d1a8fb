"""Genes for and against a call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from transanno.checks._data import check_interval
from transanno.pl._figure import finish, new_figure, show_literally

_ROW, _BARS, _COLUMN = 0.24, 3.6, 0.55  # inches
_COLORS = ("#35608f", "#c8743a")  # for the label, for the one it is compared with
_COLUMNS = {"expression": "these", "expression_label": "label", "expression_against": "against"}


def evidence(
    table: pd.DataFrame,
    *,
    n_genes: int = 20,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool | None = None,
) -> Figure | dict[str, Axes] | None:
    """Bars of the genes that speak for a label and for the one it is compared with, beside their expression.

    Bars of expected genes that the cells lack are hatched.

    Parameters
    ----------
    table
        What :func:`transanno.tl.explain` returned, or some rows of it.
    n_genes
        Number of genes, those with the most evidence. A quarter of them is of either side, if there are as many: what
        speaks against a call is worth seeing, too.
    show
        Show the figure now, by ``plt.show()``. Default: a notebook shows it at the end of the cell, a script when it calls
        ``plt.show()``; nothing is shown, and the axes are returned, if ``scanpy.settings.autoshow`` is off.
    save
        File to write; the suffix is the format.
    return_fig
        Return the figure.

    Returns
    -------
    If ``return_fig``, the figure; if ``show=False``, the axes by name: ``"evidence"``, the bars, and ``"expression"``, mean
    expression in the cells and in those of both labels, as far as it is known; else nothing.

    Raises
    ------
    ValueError
        If the table is not one of :func:`transanno.tl.explain`, or no gene speaks for either label.

    Examples
    --------
    >>> table = transanno.tl.explain(model, "5", groupby="leiden")
    >>> transanno.pl.evidence(table, save="evidence.png")
    """
    check_interval("n_genes", n_genes, 1)
    if missing := [name for name in ("evidence", "speaks_for", "absent", *_COLUMNS) if name not in table]:
        raise ValueError(
            f"The table has no column {', '.join(map(repr, missing))}. Pass what transanno.tl.explain returned."
        )
    shown = _strongest(table, n_genes)
    if shown.empty:
        raise ValueError("There is nothing to draw: no gene of the table speaks for either label.")
    label, against = table["speaks_for"].cat.categories
    columns = {name: short for name, short in _COLUMNS.items() if shown[name].notna().any()}
    names = 0.085 * max(len(str(gene)) for gene in shown.index)
    width = names + _BARS + _COLUMN * len(columns)
    figure = new_figure(width + 0.3, _ROW * len(shown) + 1.5)
    bars, heat = figure.subplots(1, 2, sharey=True, width_ratios=[_BARS, _COLUMN * len(columns)])
    _draw_bars(bars, shown)
    for ax in (bars, heat):
        ax.grid(False)  # which sc.set_figure_params() switches on
    titles = {"these": _cells(table), "label": label, "against": against}
    _draw_expression(heat, shown[list(columns)].to_numpy(dtype=float), [titles[short] for short in columns.values()])
    handles = [Patch(color=color, label=f"for {name}") for color, name in zip(_COLORS, (label, against), strict=True)]
    if shown["absent"].any():
        handles.append(Patch(facecolor="white", edgecolor="#555555", hatch="/////", label="expected, but absent"))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    show_literally(legend.get_texts())
    show_literally([figure.suptitle(_title(table, label, against), fontsize=10)])
    panels = {"evidence": bars, "expression": heat}
    return finish(figure, panels, show=show, save=save, return_fig=return_fig)


def _strongest(table: pd.DataFrame, n_genes: int) -> pd.DataFrame:
    """-> rows of the table with the most evidence, from the most positive to the most negative."""
    ranked = table[table["evidence"] != 0].sort_values("evidence", key=np.abs, ascending=False, kind="stable")
    sides = [ranked[ranked["evidence"] > 0], ranked[ranked["evidence"] < 0]]
    reserved = pd.concat([side.head(n_genes // 4) for side in sides])
    rest = ranked.drop(reserved.index).head(n_genes - len(reserved))
    return pd.concat([reserved, rest]).sort_values("evidence", ascending=False)


def _draw_bars(ax: Axes, shown: pd.DataFrame) -> None:
    rows, values = np.arange(len(shown)), shown["evidence"].to_numpy()
    colors = [_COLORS[int(value < 0)] for value in values]
    bars = ax.barh(rows, values, color=colors, edgecolor=colors, height=0.72)
    for bar, is_absent in zip(bars, shown["absent"], strict=True):
        if is_absent:
            bar.set(facecolor="white", hatch="/////")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel("evidence (nats)", fontsize=8)
    ax.set(ylim=(len(shown) - 0.4, -0.6))
    ax.set_yticks(rows, [str(gene) for gene in shown.index], fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    show_literally(ax.get_yticklabels())


def _draw_expression(ax: Axes, values: np.ndarray, titles: list[str]) -> None:
    largest = max(np.nanmax(values), 1e-9)
    ax.imshow(values, aspect="auto", cmap="Greys", vmin=0, vmax=1.3 * largest)
    middle = 0.65 * largest
    for row, column in np.argwhere(~np.isnan(values)):
        value = values[row, column]
        color = colormaps["Greys"](0.0 if value > middle else 1.0)
        ax.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=color)
    ax.set_xticks(range(len(titles)), titles, rotation=35, ha="left", rotation_mode="anchor", fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(axis="both", length=0)
    ax.tick_params(axis="y", labelleft=False)
    ax.set_xlabel("mean expression", fontsize=8)
    ax.spines[:].set_visible(False)
    show_literally(ax.get_xticklabels())


def _cells(table: pd.DataFrame) -> str:
    n_cells = table.attrs.get("n_cells", 1)
    return "this cell" if n_cells == 1 else f"{n_cells:,} cells"


def _title(table: pd.DataFrame, label: str, against: str) -> str:
    name = table.attrs.get("cells", "")
    title = f"{name}: {label} rather than {against}" if name else f"{label} rather than {against}"
    margin = table.attrs.get("margin")
    return title if margin is None else f"{title}\ndifference of logits {margin:.1f}"
