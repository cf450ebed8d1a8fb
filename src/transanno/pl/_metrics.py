"""Scores of every type, and of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transanno.metrics import CrossValidation, Evaluation
from transanno.pl._figure import finish, new_figure, show_literally

_ROW, _PANEL = 0.26, 1.75  # inches
_SCORES = {"precision": "precision", "recall": "recall", "f1": "F1"}
_COLORS = {"precision": "#7b9ec4", "recall": "#7fb394", "f1": "#35608f", "support": "#b3b3b3"}
# In the title, in this order, where they are defined.
_TITLE = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted F1",
    "macro_auc": "macro AUC",
    "coverage": "coverage",
}


def metrics(
    result: Evaluation | CrossValidation,
    *,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool | None = None,
) -> Figure | dict[str, Axes] | None:
    """Bars of precision, recall, F1 and number of cells of every type, with the scores over all types above.

    Types go from the most to the least frequent; the line in the panel of F1 is its mean over the types, the macro-F1.
    Of a cross-validation, bars are over the cells of all folds, and whiskers and ``±`` are standard deviations over
    folds.

    Parameters
    ----------
    result
        What :func:`transanno.tl.evaluate` or :func:`transanno.tl.cross_validate` returned.
    show
        Show the figure now, by ``plt.show()``. Default: a notebook shows it at the end of the cell, a script when it calls
        ``plt.show()``; nothing is shown, and the axes are returned, if ``scanpy.settings.autoshow`` is off.
    save
        File to write; the suffix is the format.
    return_fig
        Return the figure.

    Returns
    -------
    If ``return_fig``, the figure; if ``show=False``, the axes by name: ``"precision"``, ``"recall"``, ``"f1"`` and ``"cells"``;
    else nothing.

    Raises
    ------
    ValueError
        If no cell is of a type that the model has seen.

    Examples
    --------
    >>> transanno.pl.metrics(transanno.tl.evaluate(query, "cell_type"), save="metrics.png")
    """
    table = result.per_class
    if table.empty:
        raise ValueError(
            "There is nothing to draw: no cell is of a type that the model has seen. Look at result.unseen for the types."
        )
    names = 0.085 * max(map(len, table.index))
    figure = new_figure(names + 4 * _PANEL + 0.6, _ROW * len(table) + 1.2)
    axes = figure.subplots(1, 4, sharey=True)
    rows = np.arange(len(table))
    for ax, (column, label) in zip(axes, _SCORES.items(), strict=False):
        ax.barh(rows, table[column], color=_COLORS[column], height=0.72)
        if column == "f1" and "f1_sd" in table:
            ax.errorbar(table["f1"], rows, xerr=table["f1_sd"], fmt="none", ecolor="black", elinewidth=0.8)
        ax.set(title=label, xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
        _annotate(ax, [_two_decimals(value) for value in table[column]])
    axes[2].axvline(table["f1"].mean(), color="black", linewidth=0.8, linestyle=(0, (4, 3)))
    axes[3].barh(rows, table["support"], color=_COLORS["support"], height=0.72, log=True)
    axes[3].set(title="cells", xlim=(0.7, None))
    _annotate(axes[3], [f"{n:,}" for n in table["support"]])
    axes[0].set_yticks(rows, table.index)
    axes[0].set_ylim(len(table) - 0.4, -0.6)
    show_literally(axes[0].get_yticklabels())
    for ax in axes:
        ax.grid(False)  # which sc.set_figure_params() switches on
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(_title(result), fontsize=10)
    panels = dict(zip((*_SCORES, "cells"), axes, strict=True))
    return finish(figure, panels, show=show, save=save, return_fig=return_fig)


def _annotate(ax: Axes, texts: list[str]) -> None:
    """Numbers in a column to the right of the panel, where no bar can hide them."""
    offset = 6 + 5.2 * max(map(len, texts))  # points; the numbers are aligned to the right
    for row, text in enumerate(texts):
        ax.annotate(
            text,
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(offset, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
        )


def _two_decimals(value: float) -> str:
    # A rounded 1.00 would hide that some cells were missed.
    return "0.99" if 0.99 < value < 1 else f"{value:.2f}"


def _title(result: Evaluation | CrossValidation) -> str:
    is_single = isinstance(result, Evaluation)
    mean = result.summary if is_single else result.summary["mean"]
    sd = None if is_single else result.summary["sd"]
    shown = {key: label for key, label in _TITLE.items() if pd.notna(mean[key])}
    if mean["coverage"] == 1:
        del shown["coverage"]
    title = "    ".join(
        f"{label} {mean[key]:.3f}" + ("" if sd is None or pd.isna(sd[key]) else f" ± {sd[key]:.3f}")
        for key, label in shown.items()
    )
    if n_unseen := result.unseen.sum():
        title += f"\nwithout {n_unseen:,} cells of types that were not in the training data"
    return title
