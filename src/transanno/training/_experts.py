"""The experts of the cell-type head that do not learn by gradient descent: regressions, and mean directions of types."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS
from sklearn.linear_model import LogisticRegression

from transanno.data._counts import Counts
from transanno.data._log_normalize import log_normalize
from transanno.nn import CellTypeHead, Shares
from transanno.predictions._regression import fit_regression
from transanno.training._minibatches import first_rows, training_minibatches
from transanno.training._module import TransAnnoModule

SHARES = Shares(deep=0.6, linear=0.2, cosine=0.2)
"""How much each expert says in a prediction, the same for all data (docs/decisions/0012)."""

# Labeled cells that take part; of more, every type keeps as many as there is room for.
MAX_CELLS = 20_000
_MAX_ITERATIONS = 200


class _Regression(NamedTuple):
    share: float
    C: float
    balanced: bool


# How strongly to regularize, and whether rare types should count for more, depends on how far the query is from the
# reference, which nobody knows in advance: the mean of several is never far from the best (docs/decisions/0012).
_REGRESSIONS = (_Regression(0.5, 1.0, False), _Regression(0.25, 0.1, True), _Regression(0.25, 10.0, True))


class Experts(NamedTuple):
    """Arguments of :meth:`transanno.nn.CellTypeHead.set_experts`."""

    weight: np.ndarray
    """``(n_labels, n_vars)``"""
    intercept: np.ndarray
    """``(n_labels,)``"""
    directions: np.ndarray
    """``(n_labels, n_vars)``"""


def fit_experts(counts: sp.csr_matrix, codes: np.ndarray, is_other: np.ndarray, n_labels: int) -> Experts | None:
    """Counts ``(n_obs, n_vars)``, label codes ``(n_obs,)`` -> experts; None if there are fewer than two types.

    Columns where ``is_other (n_vars,)`` is True are part of a cell's total and get no weight of their own.
    """
    types, positions, n_per_type = np.unique(codes, return_inverse=True, return_counts=True)
    if len(types) < 2:
        return None
    # Dense: a product with a dense matrix is ten times as fast as one with a sparse one that is a fifth full.
    expression = log_normalize(counts, is_other).toarray().astype(np.float32, copy=False)
    weight, intercept = np.zeros((len(types), expression.shape[1])), np.zeros(len(types))
    for share, strength, balanced in _REGRESSIONS:
        fitted = fit_regression(
            expression, positions, balanced=balanced, max_iterations=_MAX_ITERATIONS, strength=strength
        )
        found = _weights(fitted)
        weight, intercept = weight + share * found[0], intercept + share * found[1]
    is_of_type = sp.csr_matrix((1.0 / n_per_type[positions], (positions, np.arange(len(codes)))))
    means = is_of_type @ expression
    experts = Experts(
        np.zeros((n_labels, counts.shape[1])), np.full(n_labels, intercept.min()), np.zeros((n_labels, counts.shape[1]))
    )
    genes = np.ix_(types, ~is_other)
    experts.weight[genes], experts.intercept[types], experts.directions[genes] = (
        weight,
        intercept,
        means - means.mean(0),
    )
    return experts


def _weights(regression: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """-> weight ``(n_types, n_genes)``, intercept ``(n_types,)``."""
    weight, intercept = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two types scikit-learn gives one row, the log-odds of the second
        weight, intercept = np.concatenate([-weight, weight]) / 2, np.concatenate([-intercept, intercept]) / 2
    return weight, intercept


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


def teach_experts(module: TransAnnoModule, counts: Counts | None, data_splitter: Any, is_other: np.ndarray) -> None:
    """Fit the experts of the module's head to labeled training cells, validation cells left out; a head without is left as it is.

    ``counts`` are those that the splitter's positions are of; None for a data module, whose first minibatches are taken.
    """
    head = module.classifier
    if not isinstance(head, CellTypeHead):
        return
    # Seeded by what scvi-tools seeds.
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    if counts is not None:
        data_splitter.setup("fit")
        training = np.sort(np.asarray(data_splitter.train_idx, dtype=int))
        chosen = training[choose_cells(data_splitter.codes[training], rng)]
        values, codes = counts.rows(chosen), data_splitter.codes[chosen]
    else:
        found = first_rows(
            training_minibatches(data_splitter), MAX_CELLS, REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.LABELS_KEY
        )
        codes = found[REGISTRY_KEYS.LABELS_KEY].flatten().long().cpu().numpy()
        codes = np.where(codes < module.n_classes, codes, -1)
        chosen = choose_cells(codes, rng)
        values, codes = sp.csr_matrix(found[REGISTRY_KEYS.X_KEY][chosen].cpu().numpy()), codes[chosen]
    experts = fit_experts(values, codes, is_other, module.n_classes)
    if experts is not None:
        weight, intercept, directions = (torch.from_numpy(each).float().to(module.device) for each in experts)
        head.set_experts(weight, intercept, directions, module.mean_expression, SHARES)
