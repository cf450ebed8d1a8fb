"""Probabilities of a query's cells, refined by what the query as a whole looks like. No labels are used.

A cell resembles its neighbors *in the query*, whose structure owes nothing to the reference: its probabilities are averaged
once with those of its nearest neighbors (docs/decisions/0003). That favors common types, and would erase a type with
fewer cells than a neighborhood or two; cells called such a type therefore keep their own probabilities.
"""

from __future__ import annotations

import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from transanno._log_normalize import log_normalize

_N_COMPONENTS = 30
_N_NEIGHBORS = 15
_NEIGHBOR_WEIGHT = 0.5
# Cells called a type of fewer cells are left alone: two neighborhoods full.
_MIN_CELLS_OF_TYPE = 2 * _N_NEIGHBORS
# Fewer cells have no neighborhood to speak of.
_MIN_CELLS = 50
# Exact neighbors up to here; an approximate search beyond.
_MAX_EXACT = 50_000


def refine_probabilities(
    probabilities: np.ndarray, counts: sp.csr_matrix, is_other: np.ndarray | None = None
) -> np.ndarray:
    """Probabilities ``(n_obs, n_labels)``, counts ``(n_obs, n_vars)`` -> refined probabilities, rows sum to 1.

    Columns where ``is_other (n_vars,)`` is True are part of a cell's total and nothing else.
    """
    if len(probabilities) < _MIN_CELLS or counts.shape[1] < 2:  # one gene has no principal components
        return probabilities
    averaged = neighbor_average(probabilities, nearest_neighbors(counts, is_other))
    refined = (1.0 - _NEIGHBOR_WEIGHT) * probabilities + _NEIGHBOR_WEIGHT * averaged
    called = probabilities.argmax(axis=1)
    is_rare = np.bincount(called, minlength=probabilities.shape[1]) < _MIN_CELLS_OF_TYPE
    return np.where(is_rare[called][:, None], probabilities, refined)


def nearest_neighbors(counts: sp.csr_matrix, is_other: np.ndarray | None = None) -> np.ndarray:
    """counts ``(n_obs, n_vars)`` -> positions of every cell's neighbors ``(n_obs, n_neighbors)``, itself left out."""
    adata = AnnData(log_normalize(counts, is_other))
    n_neighbors = min(_N_NEIGHBORS, adata.n_obs - 1)
    if (adata.X.max(axis=0) != adata.X.min(axis=0)).nnz == 0:  # identical cells have no principal components
        return (np.arange(adata.n_obs)[:, None] + np.arange(1, n_neighbors + 1)) % adata.n_obs
    if adata.n_vars == 1:  # one gene is its own principal component, which scikit-learn refuses to find
        representation = adata.X.toarray()
    else:
        n_components = max(1, min(_N_COMPONENTS, *(size - 1 for size in adata.shape)))
        sc.pp.pca(adata, n_comps=n_components, random_state=0)
        representation = adata.obsm["X_pca"]
    if len(representation) <= _MAX_EXACT:
        search = NearestNeighbors(n_neighbors=n_neighbors).fit(representation)
        return search.kneighbors(return_distance=False)
    from pynndescent import NNDescent  # comes with scanpy; slow to import

    neighbors, _ = NNDescent(representation, n_neighbors=n_neighbors + 1, random_state=0).neighbor_graph
    return neighbors[:, 1:]


def neighbor_average(probabilities: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Probabilities ``(n_obs, n_labels)``, neighbors ``(n_obs, k)`` -> mean over the neighbors."""
    n_obs, k = neighbors.shape
    rows = np.repeat(np.arange(n_obs), k)
    weights = sp.csr_matrix((np.full(n_obs * k, 1.0 / k), (rows, neighbors.ravel())), shape=(n_obs, n_obs))
    return weights @ probabilities
