"""The logistic regression of scikit-learn that others are built on."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

_TOLERANCE = 1e-3


def fit_regression(
    values: np.ndarray, codes: np.ndarray, *, balanced: bool, max_iterations: int, strength: float = 1.0
) -> LogisticRegression:
    """Values ``(n_obs, n_features)``, codes of types ``(n_obs,)`` -> regression; with ``balanced`` every type weighs the same.

    ``strength`` is scikit-learn's C: the larger, the less regularized.
    """
    regression = LogisticRegression(
        C=strength, class_weight="balanced" if balanced else None, max_iter=max_iterations, tol=_TOLERANCE
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close enough
        # Who registers labels like that has been warned of them.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than", category=UserWarning)
        return regression.fit(values, codes)
