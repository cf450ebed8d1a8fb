"""Probabilities of a query's cells, refined by what the query as a whole looks like. No labels are used.

The structure of a query owes nothing to the reference, and its own cells differ by no platform. Twice it is asked
(docs/decisions/0012). First, a cell's probabilities are averaged with those of its nearest neighbors. That favors common types,
and would erase a type with fewer cells than a neighborhood or two; cells called such a type therefore keep their own. Then
a regression learns the calls of the surer cells of every type from the query's own principal components, all types alike, and what it
says of every cell is averaged with what was known.
"""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from transanno.predictions._neighbors import N_NEIGHBORS, Surroundings, neighbor_average
from transanno.predictions._regression import fit_regression

_MAX_ITERATIONS = 300
_NEIGHBOR_WEIGHT = 0.5
# Cells called a type of fewer cells are left alone: two neighborhoods full.
_MIN_CELLS_OF_TYPE = 2 * N_NEIGHBORS
# Share of a type's cells that are learned from, the surest, and how many at most.
_SURE, _MAX_LEARNED = 0.8, 1000
# Least log-probability that the regression may give: it knows only the types that were called.
_LOWEST = -12.0


def refine_probabilities(probabilities: np.ndarray, surroundings: Surroundings | None) -> np.ndarray:
    """Probabilities ``(n_obs, n_labels)`` of cells that have these surroundings -> refined probabilities, rows sum to 1."""
    if surroundings is None:
        return probabilities
    return learn_from_query(average_neighbors(probabilities, surroundings.neighbors), surroundings.components)


def average_neighbors(probabilities: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Probabilities ``(n_obs, n_labels)``, neighbors ``(n_obs, n_neighbors)`` -> half those of a cell's neighbors."""
    averaged = neighbor_average(probabilities, neighbors)
    refined = (1.0 - _NEIGHBOR_WEIGHT) * probabilities + _NEIGHBOR_WEIGHT * averaged
    called = probabilities.argmax(axis=1)
    is_rare = np.bincount(called, minlength=probabilities.shape[1]) < _MIN_CELLS_OF_TYPE
    return np.where(is_rare[called][:, None], probabilities, refined)


def learn_from_query(probabilities: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Probabilities ``(n_obs, n_labels)``, components ``(n_obs, n_components)`` -> the same, averaged with what the query teaches."""
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
