"""Truth, prediction and confidence side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure

from transanno._constants import CONFIDENCE_SUFFIX, KEY_ADDED, LATENT_KEY
from transanno.checks._data import Message, check_obs_column
from transanno.data._colors import NO_TYPE_COLORS, complete_colors, read_colors
from transanno.pl._figure import finish, new_figure, show_literally
from transanno.pl._names import legend_below, legend_beside, make_room, spread_names

# More types are named on the cells, or numbered there and listed below if all names together are longer than so many letters.
_MAX_BESIDE, _MAX_CHARACTERS = 20, 1000
_ON_CELLS = {"legend_loc": "on data", "legend_fontsize": 8, "legend_fontweight": "normal", "legend_fontoutline": 2}
# Inches: the side of a panel, of one with names on the cells, and by how much this grows with their number.
_PANEL, _LARGE_PANEL, _PANEL_BY_TYPES, _COLOR_BAR = 4.0, (7.0, 10.0), 0.15, 0.6
# Arguments of scanpy.pl.embedding that are set here, and those that speak of types by their names.
_OURS = (
    "adata",
    "basis",
    "color",
    "title",
    "ax",
    "ncols",
    "hspace",
    "wspace",
    "projection",
    "components",
    "dimensions",
)
_BY_NAME = {"legend_loc", "groups", "palette"}


def umap(
    adata: AnnData,
    labels_key: str | None = None,
    predicted_key: str = KEY_ADDED,
    *,
    basis: str = "X_umap",
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool | None = None,
    **kwargs: Any,
) -> Figure | list[Axes] | None:
    """Cells colored by true type, predicted type and confidence, drawn by :func:`scanpy.pl.embedding`.

    A type has the same color in all panels: that of ``uns[labels_key + "_colors"]`` or ``uns[predicted_key + "_colors"]``, else
    one that can be told from the others. Cells without a type are gray. More than 20 types are named on the cells instead of
    in a legend, or numbered there and listed below where their names are long.

    Parameters
    ----------
    adata
        Annotated cells.
    labels_key
        Column of ``obs`` with the true types. Default: no such panel.
    predicted_key
        Column of ``obs`` with the predicted types; their confidence is in ``predicted_key + "_confidence"``.
    basis
        Key of ``obsm`` with the coordinates ``(n_obs, 2)``, with or without its ``"X_"``.
    show
        Show the figure now, by ``plt.show()``. Default: a notebook shows it at the end of the cell, a script when it calls
        ``plt.show()``; nothing is shown, and the axes are returned, if ``scanpy.settings.autoshow`` is off.
    save
        File to write; the suffix is the format.
    return_fig
        Return the figure.
    **kwargs
        Arguments of :func:`scanpy.pl.embedding`, such as ``palette``, ``size``, ``frameon`` or ``legend_loc``.

    Returns
    -------
    If ``return_fig``, the figure; if ``show=False``, a list of the axes of the panels; else nothing.

    Writes
    ------
    ``uns[labels_key + "_colors"]``, ``uns[predicted_key + "_colors"]``
        Colors of the categories, where there are none that fit or a ``palette`` is given; of categorical columns, and not of a
        view.

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
    if ours := [name for name in kwargs if name in _OURS]:
        raise TypeError(
            f"{', '.join(ours)} cannot be given: the panels are those of this plot. Use scanpy.pl.embedding."
        )
    confidence_key = f"{predicted_key}{CONFIDENCE_SUFFIX}"
    if labels_key is not None:
        check_obs_column(adata, labels_key, argument="labels_key", name="adata")
    check_obs_column(adata, predicted_key, argument="predicted_key", name="adata")
    check_obs_column(adata, confidence_key, argument="predicted_key", name="adata")
    xy, basis = _coordinates(adata, basis)
    panels = {predicted_key: f"prediction ({predicted_key})"}
    if labels_key is not None:
        panels = {labels_key: f"truth ({labels_key})", **panels}
    colors = _shared_colors(adata, list(panels))
    n_types = len(colors.keys() - NO_TYPE_COLORS.keys())
    is_many = n_types > _MAX_BESIDE
    is_numbered = is_many and sum(map(len, colors)) > _MAX_CHARACTERS and kwargs.keys().isdisjoint(_BY_NAME)
    names = {name: str(number) if is_numbered else name for number, name in enumerate(colors, 1)}
    # In random order, else the last type covers the others; apart from the user's object, in which scanpy makes categories.
    order = np.random.default_rng(0).permutation(adata.n_obs)
    columns: dict[str, Any] = {key: _categorical(adata.obs[key], names) for key in panels}
    columns[confidence_key] = np.asarray(adata.obs[confidence_key], dtype=float)
    shown = AnnData(
        obs=pd.DataFrame(columns, index=np.arange(adata.n_obs).astype(str)).iloc[order],
        obsm={f"X_{basis}": xy[order]},
        uns={f"{key}_colors": list(colors.values()) for key in panels},
    )
    side = float(np.clip(_PANEL_BY_TYPES * n_types, *_LARGE_PANEL)) if is_many else _PANEL
    figure = new_figure(side * (len(panels) + 1) + _COLOR_BAR, side)
    axes = list(figure.subplots(1, len(panels) + 1))
    style = {
        "size": np.clip(120_000 / max(adata.n_obs, 1), 2, 120),
        "na_in_legend": False,  # scanpy's "NA" would be one more type
        **(_ON_CELLS if is_many else {"legend_loc": None}),
        **kwargs,
        "show": False,
    }
    for ax, (key, title) in zip(axes, panels.items(), strict=False):
        sc.pl.embedding(shown, basis, color=key, title=title, ax=ax, **style)
        show_literally([ax.title, *ax.texts, *(legend.get_texts() if (legend := ax.get_legend()) else [])])
    style = {"vmin": 0, "vmax": 1, "sort_order": False, **style}
    sc.pl.embedding(shown, basis, color=confidence_key, title="confidence", ax=axes[-1], **style)
    if "palette" in kwargs:
        colors = dict(zip(colors, shown.uns[f"{predicted_key}_colors"], strict=True))
    if is_numbered:
        legend_below(figure, colors)
    elif not is_many and "legend_loc" not in kwargs:
        legend_beside(axes[-2], colors, kwargs.get("legend_fontsize"))  # one for both panels
    make_room(figure, axes)
    for ax in axes[:-1]:
        spread_names(ax)
    _write_colors(adata, list(panels), colors, overwrite="palette" in kwargs)
    return finish(figure, axes, show=show, save=save, return_fig=return_fig)


def _coordinates(adata: AnnData, basis: str) -> tuple[np.ndarray, str]:
    """-> coordinates ``(n_obs, 2)``, and the name of the basis as scanpy knows it."""
    key = basis if basis in adata.obsm else f"X_{basis}"
    if key not in adata.obsm:
        message = (
            f"basis={basis!r} is not in adata.obsm, which holds: {', '.join(map(str, adata.obsm)) or 'nothing'}. "
            f'Compute it with sc.pp.neighbors(adata, use_rep="{LATENT_KEY}") and sc.tl.umap(adata).'
        )
        raise KeyError(Message(message))
    return np.asarray(adata.obsm[key])[:, :2], key.removeprefix("X_")


def _categorical(column: pd.Series, names: Mapping[str, str]) -> pd.Categorical[str]:
    """Column of types -> how they are called, with the names of all types as categories."""
    called = column.astype(object).map(str, na_action="ignore").map(names)
    return pd.Categorical(called, categories=list(names.values()))


def _shared_colors(adata: AnnData, keys: list[str]) -> dict[str, str]:
    """-> color of every type in these columns, in the order of the first one's categories; those of the first come first."""
    known: dict[str, str] = {}
    names: dict[str, None] = {}
    for key in keys:
        known = {name: color for name, color in read_colors(adata, key).items() if is_color_like(color)} | known
        found = pd.Categorical(adata.obs[key].dropna()).remove_unused_categories().categories
        names |= dict.fromkeys(found.astype(str))
    return complete_colors(names, known)


def _write_colors(adata: AnnData, keys: list[str], colors: dict[str, str], *, overwrite: bool) -> None:
    for key in keys:
        column = adata.obs[key]
        is_new = overwrite or not read_colors(adata, key)
        if is_new and isinstance(column.dtype, pd.CategoricalDtype) and not adata.is_view:
            names = column.cat.categories.astype(str)
            known = complete_colors(names, colors)
            adata.uns[f"{key}_colors"] = [known[name] for name in names]
