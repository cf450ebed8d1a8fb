"""How far a cell is from every type of the reference.

What the network has learned keeps what tells the known types apart, and may drop what makes a new one new; principal components
of expression keep the latter, but see subtle types poorly. A cell is scored by both: the logarithm of the product of its
squared Mahalanobis distances :cite:p:`lee2018mahalanobis` to the nearest type, in either space (docs/decisions/0009). Where cells are
seen relative to their data set, what was learned is taken from the table of gene embeddings and not from the cell states: the
composition of a data set is no novelty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from sklearn.covariance import LedoitWolf
from sklearn.metrics import euclidean_distances

_N_COMPONENTS = 30
# Cells from which the components come.
MAX_CELLS = 5_000
# More digits would only make a saved model larger.
_DECIMALS = 5


def fit_space(
    state: np.ndarray | None, expression: sp.csr_matrix, codes: np.ndarray, *, table: np.ndarray | None = None
) -> dict[str, Any] | None:
    """States, log-expression ``(n_cells, n_genes)`` and types of reference cells -> what :func:`distances` needs.

    With a ``table (n_genes, width)`` of gene embeddings, expression times the table takes the place of the states. None where
    there is nothing to measure distances by: fewer than three cells or two genes, or no variation.
    """
    if min(expression.shape) < 3 or (expression.max(axis=0) != expression.min(axis=0)).nnz < 2:
        return None
    adata = AnnData(expression)
    sc.pp.pca(adata, n_comps=min(_N_COMPONENTS, min(adata.shape) - 1), random_state=0)
    space: dict[str, Any] = {
        "mean": np.asarray(expression.mean(axis=0), dtype=np.float64).ravel().round(_DECIMALS),
        "components": adata.varm["PCs"].astype(np.float64).round(_DECIMALS),
    }
    # Around the mean cell, as a saved model holds its centers.
    axes = with_table(space, table)
    views = _views(space, state, expression @ axes - space["mean"] @ axes)
    return space | {name: _fit_types(values, codes) for name, values in views.items()}


def with_table(space: dict[str, Any], table: np.ndarray | None) -> np.ndarray:
    """Table of gene embeddings ``(n_genes, width)`` or None -> what expression is projected on ``(n_genes, n_components + width)``."""
    return space["components"] if table is None else np.hstack([space["components"], table])


def distances(
    space: dict[str, Any],
    state: np.ndarray | None,
    projected: np.ndarray,
    is_missing: np.ndarray,
    *,
    table: np.ndarray | None = None,
) -> np.ndarray:
    """States, log-expression in components ``(n_cells, n_components)`` -> scores ``(n_cells,)``, high where cells are unlike any type.

    ``projected`` is the product with :func:`with_table` of log-expression that is zero in genes where ``is_missing
    (n_genes,)`` is True; these count as average.
    """
    around_mean = projected - space["mean"][~is_missing] @ with_table(space, table)[~is_missing]
    views = _views(space, state, around_mean)
    nearest = [_distance_to_nearest(space[name], values) for name, values in views.items()]
    return np.sum([np.log(np.maximum(values, 1e-12)) for values in nearest], axis=0)


def _views(space: dict[str, Any], state: np.ndarray | None, projected: np.ndarray) -> dict[str, np.ndarray]:
    """States or None, what was projected ``(n_cells, n_components + width)`` -> the two spaces."""
    n_components = space["components"].shape[1]
    learned = projected[:, n_components:] if state is None else state
    views = {"state": learned, "expression": projected[:, :n_components]}
    return {name: values.astype(np.float64) for name, values in views.items()}


def _fit_types(values: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
    """-> centers of the types, and the inverse of the covariance that they share, shrunk."""
    types, positions = np.unique(codes, return_inverse=True)
    centers = np.stack([values[positions == i].mean(axis=0) for i in range(len(types))])
    shared = LedoitWolf(assume_centered=True).fit(values - centers[positions])
    return {"centers": centers, "precision": shared.precision_}


def _distance_to_nearest(view: dict[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance to the nearest center ``(n_cells,)``."""
    # Euclidean after a linear map: two matrix products instead of one for every type.
    root = np.linalg.cholesky(view["precision"])
    cells, centers = values @ root, view["centers"] @ root
    return euclidean_distances(cells, centers, squared=True).min(axis=1)
