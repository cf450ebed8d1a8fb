"""The experts that do not learn by gradient descent: which cells they learn from, and what they learn."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from transanno.data._log_normalize import log_normalize
from transanno.nn import CellTypeHead, Context, EncoderOutput, Shares
from transanno.predictions import _regression
from transanno.training import _experts
from transanno.training._experts import Experts, choose_cells


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def exact(monkeypatch) -> None:
    """Convex solvers that run to the end."""
    monkeypatch.setattr(_experts, "_MAX_ITERATIONS", 5000)
    monkeypatch.setattr(_regression, "_TOLERANCE", 1e-9)


def cells_of_types(rng: np.random.Generator, n_per_type: list[int]) -> tuple[sp.csr_matrix, np.ndarray]:
    """Counts in which gene g stands for type g, and two genes for none -> counts, codes."""
    codes = np.repeat(np.arange(len(n_per_type)), n_per_type)
    rates = np.full((len(codes), len(n_per_type) + 2), 5.0)
    rates[np.arange(len(codes)), codes] = 40.0
    return sp.csr_matrix(rng.poisson(rates).astype(np.float32)), codes


def fit_experts(counts: sp.csr_matrix, codes: np.ndarray, n_labels: int, is_other=None) -> Experts | None:
    is_other = np.zeros(counts.shape[1], dtype=bool) if is_other is None else is_other
    return _experts.fit_experts(counts, codes, is_other, n_labels)


def mean_of_regressions(expression: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Probabilities of the product of three regressions of scikit-learn, at the expression that they were fitted to."""
    logits = 0.0
    for share, strength, weights in ((0.5, 1.0, None), (0.25, 0.1, "balanced"), (0.25, 10.0, "balanced")):
        plain = LogisticRegression(C=strength, class_weight=weights, max_iter=5000, tol=1e-9).fit(expression, codes)
        logits = logits + share * plain.predict_log_proba(expression)
    return softmax(logits, axis=1)


@pytest.mark.usefixtures("exact")
class TestRegressions:
    @pytest.mark.parametrize("n_per_type", [[20, 20, 20], [31, 7, 13, 3], [25, 25], [37, 5]], ids=str)
    def test_are_those_of_scikit_learn(self, n_per_type, rng):
        counts, codes = cells_of_types(rng, n_per_type)
        expression = log_normalize(counts).toarray()
        experts = fit_experts(counts, codes, len(n_per_type))
        found = softmax(expression @ experts.weight.T + experts.intercept, axis=1)
        np.testing.assert_allclose(found, mean_of_regressions(expression, codes), atol=1e-4)

    @pytest.mark.parametrize("n_types", [2, 3, 5])
    def test_find_the_gene_of_every_type(self, rng, n_types):
        experts = fit_experts(*cells_of_types(rng, [30] * n_types), n_types)
        assert experts.weight.shape == experts.directions.shape == (n_types, n_types + 2)
        assert experts.intercept.shape == (n_types,)
        assert (experts.weight.argmax(axis=1) == np.arange(n_types)).all()
        assert (experts.directions.argmax(axis=1) == np.arange(n_types)).all()

    def test_a_type_with_one_cell_is_learned(self, rng):
        experts = fit_experts(*cells_of_types(rng, [200, 200, 1]), 3)
        new, types = cells_of_types(rng, [200, 200, 200])
        predicted = (log_normalize(new) @ experts.weight.T + experts.intercept).argmax(axis=1)
        assert (predicted == types)[types == 2].mean() > 0.9

    def test_a_type_without_cells_is_not_preferred(self, rng):
        counts, codes = cells_of_types(rng, [20, 20])
        experts = fit_experts(counts, codes * 2, 3)
        assert (experts.weight[1] == 0).all()
        assert experts.intercept[1] == experts.intercept.min()
        assert set((log_normalize(counts) @ experts.weight.T + experts.intercept).argmax(axis=1)) == {0, 2}

    def test_other_genes_count_in_the_total_and_have_no_weight(self, rng):
        counts, codes = cells_of_types(rng, [20, 20, 20])
        others = sp.csr_matrix(rng.poisson(500.0, (len(codes), 1)).astype(np.float32))
        is_other = np.array([False] * counts.shape[1] + [True])
        both = sp.hstack([counts, others], format="csr")
        experts = fit_experts(both, codes, 3, is_other)
        assert (experts.weight[:, -1] == 0).all()
        assert (experts.directions[:, -1] == 0).all()
        by_hand = np.log1p(counts.toarray() * 1e4 / both.sum(axis=1).A1[:, None])
        found = softmax(by_hand @ experts.weight[:, :-1].T + experts.intercept, axis=1)
        np.testing.assert_allclose(found, mean_of_regressions(by_hand, codes), atol=1e-4)

    def test_empty_cells_do_no_harm(self, rng):
        counts, codes = cells_of_types(rng, [10, 10])
        counts = sp.vstack([counts, sp.csr_matrix((2, counts.shape[1]))], format="csr", dtype=np.float32)
        experts = fit_experts(counts, np.r_[codes, 0, 1], 2)
        assert all(np.isfinite(each).all() for each in experts)


class TestDirections:
    def test_are_means_of_types_minus_the_mean_of_these(self, rng):
        """Not minus the mean of the cells: common types would lie in the middle."""
        counts, codes = cells_of_types(rng, [31, 7, 13])
        expression = log_normalize(counts).toarray()
        means = np.stack([expression[codes == code].mean(axis=0) for code in range(3)])
        found = fit_experts(counts, codes, 3).directions
        np.testing.assert_allclose(found, means - means.mean(axis=0), atol=1e-4)

    def test_a_type_without_cells_has_none(self, rng):
        counts, codes = cells_of_types(rng, [20, 20])
        found = fit_experts(counts, codes * 2, 4).directions
        assert (found[[1, 3]] == 0).all()
        assert (found[[0, 2]] != 0).all()


def test_one_type_has_no_experts(rng):
    counts, codes = cells_of_types(rng, [10])
    assert fit_experts(counts, codes, 3) is None


@pytest.mark.parametrize("counts_of", [sp.csr_matrix, sp.csc_matrix], ids=["CSR", "CSC"])
def test_counts_stay_as_they_are(counts_of, rng):
    counts, codes = cells_of_types(rng, [10, 10])
    counts = counts_of(counts)
    before = counts.copy()
    fit_experts(counts, codes, 2)
    assert (counts != before).nnz == 0


def test_head_predicts_with_them_what_they_say(rng):
    """From counts to logits: regression and cosine of a query that has a mean of its own."""
    counts, codes = cells_of_types(rng, [31, 7, 13])
    expression = log_normalize(counts).toarray().astype(np.float64)
    experts = fit_experts(counts, codes, 3)
    mean, center = expression.mean(axis=0), expression[::3].mean(axis=0)
    head = CellTypeHead(n_vars=5, n_tokens=2, n_hidden=3, n_latent=4, n_labels=3, dropout_rate=0.0).double().eval()
    shares = Shares(deep=0.0, linear=0.3, cosine=0.7)
    head.set_experts(*map(torch.from_numpy, experts), torch.from_numpy(mean), shares)
    nothing = EncoderOutput(torch.zeros(51, 2, 3).double(), torch.zeros(51, 4).double())
    is_masked, known = torch.zeros(1, 5, dtype=torch.bool), Context(*map(torch.from_numpy, (center[None], mean[None])))
    found = head(nothing, torch.from_numpy(expression), is_masked, known).detach()
    cells = (expression - center) / np.linalg.norm(expression - center, axis=1, keepdims=True)
    types = experts.directions / np.linalg.norm(experts.directions, axis=1, keepdims=True)
    expected = 0.3 * (expression @ experts.weight.T + experts.intercept) + 0.7 * 20 * cells @ types.T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


class TestChooseCells:
    @given(
        sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), maximum=st.integers(6, 60), seed=st.integers(0, 9)
    )
    def test_rare_types_stay_whole_and_common_ones_share_the_room(self, sizes, maximum, seed):
        codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(-1, len(sizes) - 1), sizes))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_experts, "MAX_CELLS", maximum)
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
