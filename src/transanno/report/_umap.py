"""Where cells are in a picture of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData

from transanno._constants import LATENT_KEY
from transanno.data._positions import evenly_spread

# More take long and show no more. And as few as neighbors can be computed for.
_MAX_CELLS, _MIN_CELLS = 20_000, 10
_BASIS = "X_umap"


@dataclass(frozen=True, eq=False)
class Placed:
    """Cells in two dimensions."""

    positions: np.ndarray
    """``(n_cells,)`` of the cells that are shown"""
    xy: np.ndarray
    """``(n_cells, 2)``"""
    about: str
    """how these were found"""


def place(adata: Any, states_of: Callable[[np.ndarray], np.ndarray] | None = None) -> Placed | str:
    """Annotated cells -> where they are, or why that is not known; nothing is written.

    ``states_of`` gives states of the cells at some positions, where ``obsm`` has none.
    """
    positions = evenly_spread(adata.n_obs, _MAX_CELLS)
    some = (
        ""
        if len(positions) == adata.n_obs
        else f" {len(positions):,} of the {adata.n_obs:,} cells are shown, evenly spread."
    )
    if _BASIS in adata.obsm:
        xy = np.asarray(adata.obsm[_BASIS], dtype=float)[positions, :2]
        if xy.shape[1] == 2 and np.isfinite(xy).all():
            return Placed(positions, xy, f"Coordinates are those of obsm[{_BASIS!r}].{some}")
    if adata.n_obs < _MIN_CELLS:
        return f"No UMAP was drawn: the query has {adata.n_obs} cells, and at least {_MIN_CELLS} are needed."
    if LATENT_KEY in adata.obsm:
        states = np.asarray(adata.obsm[LATENT_KEY])[positions]
    elif states_of is not None:
        states = states_of(positions)
    else:
        return f"No UMAP was drawn: obsm has neither {_BASIS!r} nor {LATENT_KEY!r}, and no model was given that could compute it."
    return Placed(positions, _umap(states), f"Computed from the cell states of the model.{some}")


def _umap(states: np.ndarray) -> np.ndarray:
    """Cell states ``(n_cells, n_latent)`` -> UMAP ``(n_cells, 2)``."""
    # Apart from the user's object, which may have neighbors of its own.
    shown = AnnData(obsm={"states": states})
    sc.pp.neighbors(shown, n_neighbors=min(15, shown.n_obs // 2), use_rep="states", random_state=0)
    sc.tl.umap(shown, random_state=0)
    return shown.obsm[_BASIS]
