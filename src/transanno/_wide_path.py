"""The wide path of the cell-type head: logistic regression, fitted by a convex solver."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from transanno._constants import WIDE_SUM
from transanno._log_normalize import log_normalize

DEEP_SHARE, WIDE_SHARE = 0.35, 1.05
"""Weights of the two paths in the logits, the same for all data (docs/decisions/0008, 0011)."""

# Labeled cells that take part; of more, every type keeps as many as there is room for.
MAX_CELLS = 20_000
_MAX_ITERATIONS, _TOLERANCE = 200, 1e-3


def fit_wide_path(
    counts: sp.csr_matrix, codes: np.ndarray, is_other: np.ndarray, n_labels: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Counts ``(n_obs, n_vars)``, label codes ``(n_obs,)`` -> weight ``(n_labels, n_vars)``, intercept ``(n_labels,)``.

    The weights are for log1p of counts per 200. Columns where ``is_other (n_vars,)`` is True are part of a cell's total and
    get no weight of their own. Every type has the same total weight: one with few cells would otherwise never be
    predicted. None if there are fewer than two types.
    """
    types, positions, n_per_type = np.unique(codes, return_inverse=True, return_counts=True)
    if len(types) < 2:
        return None
    regression = LogisticRegression(C=1.0, max_iter=_MAX_ITERATIONS, tol=_TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close enough
        weights = len(codes) / (len(types) * n_per_type[positions])
        regression.fit(log_normalize(counts, is_other, target_sum=WIDE_SUM), codes, sample_weight=weights)
    weight, intercept = regression.coef_, regression.intercept_
    if len(types) == 2:  # scikit-learn gives one row, the log-odds of the second
        weight, intercept = np.concatenate([-weight, weight]) / 2, np.concatenate([-intercept, intercept]) / 2
    full_weight, full_intercept = np.zeros((n_labels, counts.shape[1])), np.full(n_labels, intercept.min())
    full_weight[np.ix_(types, ~is_other)], full_intercept[types] = weight, intercept
    return full_weight, full_intercept


def choose_cells(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Label codes ``(n_obs,)``, -1 for unlabeled cells -> positions of the labeled cells to learn from, sorted."""
    labeled = np.flatnonzero(codes >= 0)
    if len(labeled) <= MAX_CELLS:
        return labeled
    types, n_per_type = np.unique(codes[labeled], return_counts=True)
    # The largest limit under which the types together stay below the maximum.
    limits = np.sort(n_per_type)
    room = MAX_CELLS - np.concatenate([[0], limits.cumsum()[:-1]])
    limit = int((room // np.arange(len(types), 0, -1)).max())
    chosen = [rng.permutation(labeled[codes[labeled] == code])[:limit] for code in types]
    return np.sort(np.concatenate(chosen))
