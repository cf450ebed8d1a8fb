"""Probabilities of a query's cells, refined by what the query as a whole looks like. No labels are used.

The structure of a query owes nothing to the reference, and its own cells differ by no platform. Twice it is asked
(docs/decisions/0012). First, a cell's probabilities are averaged with those of its nearest neighbors. That favors common types,
and would erase a type with fewer cells than a neighborhood or two; cells called such a type therefore keep their own. Then
a regression learns the calls of the surer cells of every type from the query's own principal components, all types alike, and what it
says of every cell is averaged with what was known.
"""

from __future__ import annotations

import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from scipy.special import softmax
from sklearn.neighbors import NearestNeighbors

from transanno.data._log_normalize import log_normalize
from transanno.predictions._regression import fit_regression

_N_COMPONENTS = 50
_MAX_ITERATIONS = 300
_N_NEIGHBORS = 15
_NEIGHBOR_WEIGHT = 0.5
# Cells called a type of fewer cells are left alone: two neighborhoods full.
_MIN_CELLS_OF_TYPE = 2 * _N_NEIGHBORS
# Fewer cells have no neighborhood to speak of.
_MIN_CELLS = 50
# Exact neighbors up to here; an approximate search beyond.
_MAX_EXACT = 50_000
# Share of a type's cells that are learned from, the surest, and how many at most.
_SURE, _MAX_LEARNED = 0.8, 1000
# Least log-probability that the regression may give: it knows only the types that were called.
_LOWEST = -12.0


def refine_probabilities(
    probabilities: np.ndarray, counts: sp.csr_matrix, is_other: np.ndarray | None = None
) -> np.ndarray:
    """Probabilities ``(n_obs, n_labels)``, counts ``(n_obs, n_vars)`` -> refined probabilities, rows sum to 1.

    Columns where ``is_other (n_vars,)`` is True are part of a cell's total and nothing else.
    """
    if len(probabilities) < _MIN_CELLS or counts.shape[1] < 2:  # one gene has no principal components
        return probabilities
    components = principal_components(counts, is_other)
    return learn_from_query(average_neighbors(probabilities, components), components)


def average_neighbors(probabilities: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Probabilities ``(n_obs, n_labels)``, components ``(n_obs, n_components)`` -> half those of a cell's neighbors."""
    if len(probabilities) < _MIN_CELLS:
        return probabilities
    averaged = neighbor_average(probabilities, nearest_neighbors(components))
    refined = (1.0 - _NEIGHBOR_WEIGHT) * probabilities + _NEIGHBOR_WEIGHT * averaged
    called = probabilities.argmax(axis=1)
    is_rare = np.bincount(called, minlength=probabilities.shape[1]) < _MIN_CELLS_OF_TYPE
    return np.where(is_rare[called][:, None], probabilities, refined)


def principal_components(counts: sp.csr_matrix, is_other: np.ndarray | None = None) -> np.ndarray:
    """counts ``(n_obs, n_vars)`` -> principal components of log-expression ``(n_obs, n_components)``."""
    adata = AnnData(log_normalize(counts, is_other))
    if adata.n_vars == 1 or (adata.X.max(axis=0) != adata.X.min(axis=0)).nnz == 0:
        return adata.X[:, :1].toarray()  # one gene is its own component, and identical cells have none
    sc.pp.pca(adata, n_comps=max(1, min(_N_COMPONENTS, *(size - 1 for size in adata.shape))), random_state=0)
    return adata.obsm["X_pca"]


def nearest_neighbors(components: np.ndarray) -> np.ndarray:
    """Components ``(n_obs, n_components)`` -> positions of every cell's neighbors ``(n_obs, n_neighbors)``, itself left out."""
    n_obs = len(components)
    n_neighbors = min(_N_NEIGHBORS, n_obs - 1)
    if (components == components[0]).all():
        return (np.arange(n_obs)[:, None] + np.arange(1, n_neighbors + 1)) % n_obs
    if n_obs <= _MAX_EXACT:
        search = NearestNeighbors(n_neighbors=n_neighbors).fit(components)
        return search.kneighbors(return_distance=False)
    from pynndescent import NNDescent  # comes with scanpy; slow to import

    neighbors, _ = NNDescent(components, n_neighbors=n_neighbors + 1, random_state=0).neighbor_graph
    return neighbors[:, 1:]


def learn_from_query(probabilities: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Probabilities ``(n_obs, n_labels)``, components ``(n_obs, n_components)`` -> the same, averaged with what the query teaches."""
    if len(probabilities) < _MIN_CELLS:
        return probabilities
    sure = _surest_cells(probabilities)
    codes = probabilities.argmax(axis=1)[sure]
    types = np.unique(codes)
    scale = components[:, 0].std()
    if len(types) < 2 or scale == 0:
        return probabilities
    regression = fit_regression(components[sure] / scale, codes, balanced=True, max_iterations=_MAX_ITERATIONS)
    learned = np.full(probabilities.shape, _LOWEST)
    learned[:, types] = np.maximum(regression.predict_log_proba(components / scale), _LOWEST)
    return softmax((np.log(np.maximum(probabilities, np.finfo(float).tiny)) + learned) / 2, axis=1)


def _surest_cells(probabilities: np.ndarray) -> np.ndarray:
    """-> positions of the cells to learn from: of every type that is called, most, but not the least sure ones."""
    called, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    rng = np.random.default_rng(0)
    chosen = []
    for code in np.unique(called):
        cells = np.flatnonzero(called == code)
        surest = cells[np.argsort(-confidence[cells], kind="stable")[: int(np.ceil(_SURE * len(cells)))]]
        chosen.append(rng.permutation(surest)[:_MAX_LEARNED])
    return np.sort(np.concatenate(chosen))


def neighbor_average(probabilities: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Probabilities ``(n_obs, n_labels)``, neighbors ``(n_obs, k)`` -> mean over the neighbors."""
    n_obs, k = neighbors.shape
    rows = np.repeat(np.arange(n_obs), k)
    weights = sp.csr_matrix((np.full(n_obs * k, 1.0 / k), (rows, neighbors.ravel())), shape=(n_obs, n_obs))
    return weights @ probabilities
