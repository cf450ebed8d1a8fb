"""Which types are taken for which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transanno._constants import KEY_ADDED
from transanno._validation import check_obs_column
from transanno.pl._figure import new_figure, save_figure, show_literally

# Up to so many columns a cell of the matrix has room for a number; its side in inches then, and beyond.
_MAX_ANNOTATED, _CELL, _SMALL_CELL = 25, 0.42, 0.24


def confusion_matrix(
    adata: AnnData,
    labels_key: str,
    predicted_key: str = KEY_ADDED,
    *,
    normalize: bool = True,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Heat map of true against predicted cell types.

    Rows and columns go from the most to the least frequent true type, so that right predictions lie on the diagonal;
    columns of types that are only predicted come last. Cells without a label or a prediction are left out.

    Parameters
    ----------
    adata
        Annotated cells.
    labels_key
        Column of ``obs`` with the true types.
    predicted_key
        Column of ``obs`` with the predicted types.
    normalize
        Show the percentage of each row, else the number of cells.
    ax
        Where to draw. Default: axes of a new figure, ``ax.figure``.
    save
        File to write; the suffix is the format.

    Returns
    -------
    Axes that were drawn on.

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If no cell has both a label and a prediction.

    Examples
    --------
    >>> transanno.pl.confusion_matrix(query, "cell_type", save="confusion_matrix.png")
    """
    table = count_pairs(adata, labels_key, predicted_key)
    n_rows, n_columns = table.shape
    counts = table.to_numpy()
    n_per_row = counts.sum(axis=1)
    shares = counts / n_per_row[:, None]
    values, maximum = (shares, 1) if normalize else (counts, counts.max())
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
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"prediction ({predicted_key})")
    ax.set_ylabel(f"truth ({labels_key}), number of cells", labelpad=8)
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
    figure = ax.figure
    bar = figure.colorbar(image, ax=ax, shrink=0.6, label="% of the true type" if normalize else "cells")
    bar.outline.set_visible(False)
    if normalize:
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25", "50", "75", "100"])
    if save is not None:
        save_figure(figure if isinstance(figure, Figure) else figure.figure, save)
    return ax


def count_pairs(adata: AnnData, labels_key: str, predicted_key: str) -> pd.DataFrame:
    """-> numbers of cells, true types × predicted types, both by the frequency of the true type."""
    check_obs_column(adata, labels_key, argument="labels_key", name="adata")
    check_obs_column(adata, predicted_key, argument="predicted_key", name="adata")
    pairs = adata.obs[[labels_key, predicted_key]].dropna().astype(str)
    if pairs.empty:
        raise ValueError(
            f"No cell has both a label in obs[{labels_key!r}] and a prediction in obs[{predicted_key!r}]. "
            "Predict the labeled cells first, or name other columns."
        )
    truth, predicted = (pairs[key].value_counts() for key in (labels_key, predicted_key))
    by_frequency = sorted(truth.index, key=lambda name: (-truth[name], name))
    only_predicted = sorted(predicted.index.difference(truth.index), key=lambda name: (-predicted[name], name))
    table = pd.crosstab(pairs[labels_key].to_numpy(), pairs[predicted_key].to_numpy())
    return table.reindex(index=by_frequency, columns=[*by_frequency, *only_predicted], fill_value=0)
