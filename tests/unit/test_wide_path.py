"""The wide path: which cells it learns from, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from transanno import _log_normalize, _wide_path
from transanno._constants import WIDE_SUM
from transanno._wide_path import choose_cells


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def cells_of_types(rng: np.random.Generator, n_per_type: list[int]) -> tuple[sp.csr_matrix, np.ndarray]:
    """Counts in which gene g stands for type g, and two genes for none -> counts, codes."""
    codes = np.repeat(np.arange(len(n_per_type)), n_per_type)
    rates = np.full((len(codes), len(n_per_type) + 2), 5.0)
    rates[np.arange(len(codes)), codes] = 40.0
    return sp.csr_matrix(rng.poisson(rates).astype(np.float32)), codes


def fit_wide_path(counts: sp.csr_matrix, codes: np.ndarray, n_labels: int, is_other=None):
    is_other = np.zeros(counts.shape[1], dtype=bool) if is_other is None else is_other
    return _wide_path.fit_wide_path(counts, codes, is_other, n_labels)


def log_normalize(counts: sp.csr_matrix, is_other: np.ndarray | None = None) -> sp.csr_matrix:
    return _log_normalize.log_normalize(counts, is_other, target_sum=WIDE_SUM)


class TestFit:
    @pytest.mark.parametrize("n_types", [2, 3, 5])
    def test_finds_the_gene_of_every_type(self, rng, n_types):
        weight, intercept = fit_wide_path(*cells_of_types(rng, [30] * n_types), n_types)
        assert weight.shape == (n_types, n_types + 2)
        assert intercept.shape == (n_types,)
        assert (weight.argmax(axis=1) == np.arange(n_types)).all()

    def test_is_logistic_regression_where_types_are_balanced(self, rng):
        counts, codes = cells_of_types(rng, [20, 20, 20])
        expression = log_normalize(counts)
        weight, intercept = fit_wide_path(counts, codes, 3)
        plain = LogisticRegression(C=1.0, max_iter=1000).fit(expression, codes)
        found = softmax(expression @ weight.T + intercept, axis=1)
        np.testing.assert_allclose(found, plain.predict_proba(expression), atol=0.01)

    def test_two_types_have_the_probabilities_of_the_binary_model(self, rng):
        counts, codes = cells_of_types(rng, [25, 25])
        expression = log_normalize(counts)
        weight, intercept = fit_wide_path(counts, codes, 2)
        plain = LogisticRegression(C=1.0, max_iter=1000).fit(expression, codes)
        found = softmax(expression @ weight.T + intercept, axis=1)
        np.testing.assert_allclose(found, plain.predict_proba(expression), atol=0.01)

    def test_a_type_with_one_cell_is_learned(self, rng):
        counts, codes = cells_of_types(rng, [200, 200, 1])
        weight, intercept = fit_wide_path(counts, codes, 3)
        new, types = cells_of_types(rng, [20, 20, 20])
        predicted = (log_normalize(new) @ weight.T + intercept).argmax(axis=1)
        assert (predicted == types)[types == 2].mean() > 0.9

    def test_a_type_without_cells_is_not_preferred(self, rng):
        counts, codes = cells_of_types(rng, [20, 20])
        weight, intercept = fit_wide_path(counts, codes * 2, 3)
        assert (weight[1] == 0).all()
        assert set((log_normalize(counts) @ weight.T + intercept).argmax(axis=1)) == {0, 2}

    def test_other_genes_count_in_the_total_and_have_no_weight(self, rng):
        counts, codes = cells_of_types(rng, [20, 20, 20])
        others = sp.csr_matrix(rng.poisson(500.0, (len(codes), 1)).astype(np.float32))
        is_other = np.array([False] * counts.shape[1] + [True])
        both = sp.hstack([counts, others], format="csr")
        weight, intercept = fit_wide_path(both, codes, 3, is_other)
        assert (weight[:, -1] == 0).all()
        expression = log_normalize(both, is_other)
        by_hand = np.log1p(counts.toarray() * 200 / both.sum(axis=1).A1[:, None])
        np.testing.assert_allclose(expression.toarray(), by_hand, rtol=1e-5)
        plain = LogisticRegression(C=1.0, max_iter=1000).fit(by_hand, codes)
        found = softmax(expression @ weight[:, :-1].T + intercept, axis=1)
        np.testing.assert_allclose(found, plain.predict_proba(by_hand), atol=0.02)

    def test_one_type_has_no_wide_path(self, rng):
        counts, codes = cells_of_types(rng, [10])
        assert fit_wide_path(counts, codes, 3) is None

    def test_empty_cells_do_no_harm(self, rng):
        counts, codes = cells_of_types(rng, [10, 10])
        counts = sp.vstack([counts, sp.csr_matrix((2, counts.shape[1]))], format="csr", dtype=np.float32)
        weight, intercept = fit_wide_path(counts, np.r_[codes, 0, 1], 2)
        assert np.isfinite(weight).all()
        assert np.isfinite(intercept).all()


class TestChooseCells:
    @given(
        sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), maximum=st.integers(6, 60), seed=st.integers(0, 9)
    )
    def test_rare_types_stay_whole_and_common_ones_share_the_room(self, sizes, maximum, seed):
        codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(-1, len(sizes) - 1), sizes))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_wide_path, "MAX_CELLS", maximum)
            chosen = choose_cells(codes, np.random.default_rng(seed))
        n_labeled = (codes >= 0).sum()
        kept, had = (np.bincount(found[found >= 0], minlength=len(sizes)) for found in (codes[chosen], codes))
        assert len(set(chosen)) == len(chosen) <= maximum
        assert (codes[chosen] >= 0).all()
        assert (kept > 0).sum() == (had > 0).sum()
        if n_labeled <= maximum:
            assert len(chosen) == n_labeled
        else:
            limit = kept.max()
            assert (kept == np.minimum(had, limit)).all()
            assert np.minimum(had, limit + 1).sum() > maximum
