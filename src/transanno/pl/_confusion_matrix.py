"""Which types are taken for which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transanno import metrics
from transanno._constants import KEY_ADDED
from transanno.checks._data import check_obs_column
from transanno.pl._figure import finish, new_figure, show_literally

# Up to so many columns a cell of the matrix has room for a number; its side in inches then, and beyond.
_MAX_ANNOTATED, _CELL, _SMALL_CELL = 25, 0.42, 0.24


def confusion_matrix(
    data: AnnData | metrics.Evaluation | metrics.CrossValidation,
    labels_key: str | None = None,
    predicted_key: str = KEY_ADDED,
    *,
    normalize: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool | None = None,
) -> Figure | Axes | None:
    """Heat map of true against predicted cell types.

    Rows and columns go from the most to the least frequent true type, so that right predictions lie on the diagonal;
    columns of types that are only predicted come last. Cells without a label or a prediction are left out.

    Parameters
    ----------
    data
        Annotated cells, or the result of :func:`transanno.tl.evaluate` or :func:`transanno.tl.cross_validate`: types
        that the model had not seen are the last rows then, and have no column.
    labels_key
        Column of ``obs`` with the true types; required with cells, and not read with a result.
    predicted_key
        Column of ``obs`` with the predicted types; not read with a result.
    normalize
        Show the percentage of each row, else the number of cells.
    ax
        Where to draw. Default: axes of a new figure.
    show
        Show the figure now, by ``plt.show()``. Default: a notebook shows it at the end of the cell, a script when it calls
        ``plt.show()``; nothing is shown, and the axes are returned, if ``scanpy.settings.autoshow`` is off.
    save
        File to write; the suffix is the format.
    return_fig
        Return the figure.

    Returns
    -------
    If ``return_fig``, the figure; if ``show=False``, the axes of the matrix; else nothing.

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If no cell has both a label and a prediction, or ``labels_key`` is missing.

    Examples
    --------
    >>> transanno.pl.confusion_matrix(query, "cell_type", save="confusion_matrix.png")
    >>> transanno.pl.confusion_matrix(transanno.tl.cross_validate(reference, "cell_type"))
    """
    if isinstance(data, AnnData):
        table = _count_pairs(data, labels_key, predicted_key)
        x_label, y_label = f"prediction ({predicted_key})", f"truth ({labels_key}), number of cells"
    else:
        table, x_label, y_label = data.confusion_matrix, "prediction", "truth, number of cells"
    n_rows, n_columns = table.shape
    counts = table.to_numpy()
    n_per_row = counts.sum(axis=1)
    shares = counts / n_per_row[:, None]
    values, maximum = (shares, 1) if normalize else (counts, counts.max())
    is_ours = ax is None
    if ax is None:
        cell = _CELL if n_columns <= _MAX_ANNOTATED else _SMALL_CELL
        names = 0.085 * max(map(len, [*table.index, *table.columns]))
        ax = new_figure(max(cell * n_columns, 1.5) + names + 2.0, max(cell * n_rows, 1.5) + names + 0.6).add_subplot()
    image = ax.imshow(values, cmap="Blues", vmin=0, vmax=maximum, aspect="equal")
    ax.set_xticks(range(n_columns), table.columns, rotation=90)
    ax.set_yticks(range(n_rows), [f"{name} ({n:,})" for name, n in zip(table.index, n_per_row, strict=True)])
    show_literally([*ax.get_xticklabels(), *ax.get_yticklabels()])
    # White lines between the cells of the matrix.
    ax.set_xticks(np.arange(n_columns + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(n_rows + 1) - 0.5, minor=True)
    ax.grid(False)  # which sc.set_figure_params() switches on
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label, labelpad=8)
    if n_columns <= _MAX_ANNOTATED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            # A rounded 100 % would hide that some cells were missed.
            percent = "99" if 0.99 < share < 1 else "<1" if share < 0.005 else f"{100 * share:.0f}"
            ax.text(
                column,
                row,
                percent if normalize else f"{counts[row, column]}",
                color="white" if values[row, column] > 0.6 * maximum else "black",
                ha="center",
                va="center",
                fontsize=8 if normalize or counts.max() < 1000 else 6,
            )
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, label="% of the true type" if normalize else "cells")
    bar.outline.set_visible(False)
    if normalize:
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25", "50", "75", "100"])
    figure = ax.figure if isinstance(ax.figure, Figure) else ax.figure.figure  # the user's axes may be in a subfigure
    return finish(figure, ax, show=show, save=save, return_fig=return_fig, is_ours=is_ours)


def _count_pairs(adata: AnnData, labels_key: str | None, predicted_key: str) -> pd.DataFrame:
    """-> numbers of cells, true types × predicted types."""
    if labels_key is None:
        raise ValueError("labels_key is missing: name the column of adata.obs that holds the true cell types.")
    check_obs_column(adata, labels_key, argument="labels_key", name="adata")
    check_obs_column(adata, predicted_key, argument="predicted_key", name="adata")
    table = metrics.confusion_matrix(adata.obs[labels_key], adata.obs[predicted_key])
    if table.empty:
        raise ValueError(
            f"No cell has both a label in obs[{labels_key!r}] and a prediction in obs[{predicted_key!r}]. "
            "Predict the labeled cells first, or name other columns."
        )
    return table
