"""The regression that experts and refinement are built on."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from transanno.predictions._regression import fit_regression


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [71, 23, 7])
    return rng.normal(size=(101, 5)) + codes[:, None], codes


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_balanced_gives_every_type_the_same_weight(cells, strength):
    values, codes = cells
    found = fit_regression(values, codes, balanced=True, max_iterations=5000, strength=strength)
    weights = len(codes) / (3 * np.bincount(codes)[codes])
    expected = LogisticRegression(C=strength, max_iter=5000, tol=1e-3).fit(values, codes, sample_weight=weights)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-6)
    plain = fit_regression(values, codes, balanced=False, max_iterations=5000, strength=strength)
    assert not np.allclose(found.coef_, plain.coef_, atol=0.01)


def test_stopping_early_is_no_warning(cells):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_regression(*cells, balanced=True, max_iterations=1)
    assert (found.n_iter_ == 1).all()
