"""Truth, prediction and confidence side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from transanno._constants import CONFIDENCE_SUFFIX, KEY_ADDED, LATENT_KEY
from transanno.checks._data import Message, check_obs_column
from transanno.pl._figure import new_figure, save_figure, show_literally

_PANEL = 4.0  # inches
# More types are listed below the panels instead of between them.
_MAX_BESIDE = 20
_MISSING_COLOR = "#d9d9d9"


def umap(
    adata: AnnData,
    labels_key: str | None = None,
    predicted_key: str = KEY_ADDED,
    *,
    basis: str = "X_umap",
    save: str | Path | None = None,
) -> Figure:
    """Cells colored by true type, predicted type and confidence.

    Parameters
    ----------
    adata
        Annotated cells.
    labels_key
        Column of ``obs`` with the true types. Default: no such panel.
    predicted_key
        Column of ``obs`` with the predicted types; their confidence is in ``predicted_key + "_confidence"``.
    basis
        Key of ``obsm`` with the coordinates ``(n_obs, 2)``.
    save
        File to write; the suffix is the format.

    Returns
    -------
    Figure with two or three panels. A type has the same color in all of them.

    Raises
    ------
    KeyError
        If a column or the coordinates do not exist.

    Examples
    --------
    >>> import scanpy as sc
    >>> sc.pp.neighbors(query, use_rep="X_transanno")
    >>> sc.tl.umap(query)
    >>> transanno.pl.umap(query, "cell_type", save="umap.png")
    """
    confidence_key = f"{predicted_key}{CONFIDENCE_SUFFIX}"
    if labels_key is not None:
        check_obs_column(adata, labels_key, argument="labels_key", name="adata")
    check_obs_column(adata, predicted_key, argument="predicted_key", name="adata")
    check_obs_column(adata, confidence_key, argument="predicted_key", name="adata")
    if basis not in adata.obsm:
        message = (
            f"basis={basis!r} is not in adata.obsm, which holds: {', '.join(map(str, adata.obsm)) or 'nothing'}. "
            f'Compute it with sc.pp.neighbors(adata, use_rep="{LATENT_KEY}") and sc.tl.umap(adata).'
        )
        raise KeyError(Message(message))
    # In random order, else the last type covers the others.
    order = np.random.default_rng(0).permutation(adata.n_obs)
    xy = np.asarray(adata.obsm[basis])[order, :2]
    panels = [(labels_key, f"truth ({labels_key})")] if labels_key is not None else []
    panels.append((predicted_key, f"prediction ({predicted_key})"))
    columns = [adata.obs[key].iloc[order] for key, _ in panels]
    colors = color_map(pd.concat([column.astype(object) for column in columns]))

    label_width = 0.5 + 0.085 * max(map(len, colors), default=0)
    width, height = (len(panels) + 1) * _PANEL + 0.8, _PANEL + 0.5
    if len(colors) <= _MAX_BESIDE:
        width += label_width
    else:
        n_legend_columns = max(1, int(width / label_width))
        height += 0.2 * -(-len(colors) // n_legend_columns)
    figure = new_figure(width, height)
    axes = figure.subplots(1, len(panels) + 1)
    size = np.clip(30_000 / max(adata.n_obs, 1), 0.5, 30)
    style = {"s": size, "linewidths": 0, "rasterized": True}
    for ax, column, (_, title) in zip(axes, columns, panels, strict=False):
        shown = [_MISSING_COLOR if pd.isna(name) else colors[str(name)] for name in column]
        ax.scatter(*xy.T, c=shown, **style)
        _frame(ax, title, basis)
    if len(colors) <= _MAX_BESIDE:
        _legend(axes[len(panels) - 1], colors, loc="center left", bbox_to_anchor=(1.02, 0.5))
    else:
        _legend(figure, colors, loc="outside lower center", ncols=n_legend_columns)
    points = axes[-1].scatter(*xy.T, c=adata.obs[confidence_key].iloc[order], cmap="viridis", vmin=0, vmax=1, **style)
    _frame(axes[-1], "confidence", basis)
    bar = figure.colorbar(points, ax=axes[-1], shrink=0.7, label="probability of the predicted type")
    bar.outline.set_visible(False)
    if save is not None:
        save_figure(figure, save)
    return figure


def color_map(names: pd.Series) -> dict[str, str]:
    """Types -> color of each, in alphabetical order."""
    types = sorted(names.dropna().astype(str).unique())
    if len(types) <= 20:
        n_colors = 10 if len(types) <= 10 else 20
        palette = [to_hex(color) for color in colormaps[f"tab{n_colors}"](range(n_colors))]
    else:
        from scanpy.plotting.palettes import default_102  # slow to import

        palette = default_102
    return {name: palette[i % len(palette)] for i, name in enumerate(types)}


def _frame(ax: Axes, title: str, basis: str) -> None:
    name = basis.removeprefix("X_").upper()
    ax.set(title=title, xlabel=f"{name} 1", ylabel=f"{name} 2", xticks=[], yticks=[])
    ax.set_box_aspect(1)
    ax.spines[["top", "right"]].set_visible(False)
    show_literally([ax.title])


def _legend(parent: Axes | Figure, colors: dict[str, str], **placement: Any) -> None:
    handles = [Line2D([], [], marker="o", linestyle="", markersize=7, color=color) for color in colors.values()]
    legend = parent.legend(
        handles, list(colors), frameon=False, fontsize=9, handletextpad=0.2, borderaxespad=0, **placement
    )
    show_literally(legend.get_texts())
