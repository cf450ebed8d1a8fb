from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from transanno.nn import (
    bin_expression,
    normalize_counts,
    rescale_expression,
    sample_expressed_mask,
    sample_gene_mask,
    sparse_rows,
    sum_over_genes,
    thin_counts,
)

CPU = torch.device("cpu")


def make_counts(n_obs: int = 17, n_vars: int = 11) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.poisson(3.0, size=(n_obs, n_vars)) * rng.integers(0, 9, (n_obs, n_vars))).float()


class TestThinCounts:
    def test_fraction_of_one_returns_the_same_object(self):
        counts = make_counts()
        assert thin_counts(counts, min_fraction=1.0) is counts

    def test_never_more_than_the_input_and_zeros_stay(self):
        counts = make_counts()
        before = counts.clone()
        thinned = thin_counts(counts, min_fraction=0.3)
        assert torch.equal(counts, before)
        assert ((thinned >= 0) & (thinned <= counts)).all()
        assert (thinned[counts == 0] == 0).all()
        assert torch.equal(thinned, thinned.round())
        assert (thinned < counts).any()

    def test_mean_and_variance_are_those_of_binomial_thinning(self):
        n_obs, molecules, low = 20_011, 20, 0.4
        thinned = thin_counts(torch.full((n_obs, 1), float(molecules)), min_fraction=low)[:, 0].double()
        p_mean, p_var = (1 + low) / 2, (1 - low) ** 2 / 12
        variance = molecules * (p_mean - p_var - p_mean**2) + molecules**2 * p_var  # total variance
        assert abs(thinned.mean().item() - molecules * p_mean) < 5 * math.sqrt(variance / n_obs)
        assert thinned.var().item() == pytest.approx(variance, rel=0.05)

    def test_one_fraction_per_cell(self):
        share = thin_counts(torch.full((53, 31), 1e5), min_fraction=0.2) / 1e5
        per_cell = share.mean(dim=1)
        assert share.std(dim=1).max() < 0.003  # sqrt(0.25 / 1e5) = 0.0016
        assert per_cell.min() > 0.19
        assert per_cell.max() <= 1.0
        assert per_cell.std() == pytest.approx(0.8 / math.sqrt(12), rel=0.2)

    def test_fractional_counts_are_rounded_to_molecules(self):
        thinned = thin_counts(torch.tensor([[0.4, 0.6, 2.4, 1000.4]]), min_fraction=1 - 1e-7)
        assert torch.equal(thinned, torch.tensor([[0.0, 1.0, 2.0, 1000.0]]))


class TestSampleGeneMask:
    def test_rates(self):
        mask = sample_gene_mask(1009, 503, max_fraction=0.4, device=CPU)
        assert mask.dtype == torch.bool
        assert mask.shape == (1009, 503)
        rate = mask.double().mean(dim=1)
        assert rate.mean().item() == pytest.approx(0.2, abs=5 * 0.4 / math.sqrt(12 * 1009))
        # Uniform, not one rate for all: a tenth of the cells hides below a tenth of the maximum, and so on.
        quantiles = torch.quantile(rate, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        np.testing.assert_allclose(quantiles, [0.04, 0.2, 0.36], atol=0.03)
        assert rate.max() < 0.4 + 5 * math.sqrt(0.24 / 503)

    def test_genes_are_hidden_alike_and_per_cell(self):
        mask = sample_gene_mask(1009, 23, max_fraction=0.8, device=CPU)
        np.testing.assert_allclose(mask.double().mean(dim=0), 0.4, atol=0.08)
        assert len(torch.unique(mask, dim=0)) > 500

    def test_zero_hides_nothing(self):
        assert not sample_gene_mask(7, 5, max_fraction=0.0, device=CPU).any()


class TestNormalizeCounts:
    @pytest.mark.parametrize("n_rows", [1, 17], ids=["one mask", "mask per cell"])
    def test_equals_numpy(self, n_rows):
        counts = make_counts()
        is_masked = torch.rand(n_rows, 11) < 0.3
        expected = np.zeros((17, 11))
        for i in range(17):
            visible = np.where(is_masked[i if n_rows > 1 else 0].numpy(), 0, counts[i].numpy().astype(float))
            if visible.sum() > 0:
                expected[i] = np.log(1 + 1e4 * visible / visible.sum())
        np.testing.assert_allclose(normalize_counts(counts, is_masked), expected, rtol=1e-5)

    def test_masked_counts_do_not_influence_the_others(self):
        counts, is_masked = make_counts(), torch.rand(17, 11) < 0.3
        garbage = torch.where(is_masked, torch.full_like(counts, 1e6), counts)
        result = normalize_counts(garbage, is_masked)
        assert torch.equal(result, normalize_counts(counts, is_masked))
        assert (result[is_masked] == 0).all()

    def test_cells_without_visible_counts_are_zero(self):
        counts = make_counts(3)
        counts[0] = 0
        is_masked = torch.zeros(3, 11, dtype=torch.bool)
        is_masked[2] = True
        result = normalize_counts(counts, is_masked)
        assert (result[[0, 2]] == 0).all()
        assert result[1].exp().sub(1).sum().item() == pytest.approx(1e4, rel=1e-5)


class TestRescaleExpression:
    def test_is_the_expression_of_another_total(self):
        counts = make_counts()
        no_gene = torch.zeros(1, counts.shape[1], dtype=torch.bool)
        found = rescale_expression(normalize_counts(counts, no_gene), 200.0)
        expected = np.log1p(counts.numpy() * 200.0 / counts.numpy().sum(axis=1, keepdims=True))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)

    def test_sparse_equals_dense(self):
        expression = make_counts().log1p()
        stored = sp.csr_matrix(expression.numpy())
        parts = map(torch.from_numpy, (stored.indptr, stored.indices, stored.data))
        sparse = rescale_expression(sparse_rows(*parts, n_vars=stored.shape[1]), 7.0)
        assert sparse.layout == torch.sparse_csr
        torch.testing.assert_close(sparse.to_dense(), rescale_expression(expression, 7.0))


class TestBinExpression:
    def test_values_by_hand(self):
        # counts per 10,000, total 10,000: log2(1 + c) floored, at most 5
        counts = torch.tensor([[0.0, 0.5, 1.0, 2.0, 3.0, 6.0, 7.0, 14.0, 15.0, 30.0, 31.0, 62.0, 63.0, 9999.0]])
        expected = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
        bins = bin_expression(counts, torch.tensor([[1e4]]))
        assert bins.dtype == torch.int64
        assert bins.tolist() == [expected]

    def test_bins_are_relative_to_the_total_of_the_cell(self):
        counts = torch.tensor([[3.0, 1.0], [3.0, 1.0]])
        assert bin_expression(counts, torch.tensor([[1e4], [2e4]])).tolist() == [[2, 1], [1, 0]]

    def test_number_of_bins_and_empty_cells(self):
        counts = torch.tensor([[0.0, 0.0], [9.0, 1.0]])
        assert bin_expression(counts, counts.sum(1, keepdim=True), n_bins=3).tolist() == [[0, 0], [2, 2]]


class TestSampleExpressedMask:
    def test_only_expressed_genes_at_the_given_rates(self):
        counts = torch.poisson(torch.full((509, 211), 0.7))
        is_target, is_hidden = sample_expressed_mask(counts, fraction=0.15, replace_probability=0.9)
        assert is_target.dtype == is_hidden.dtype == torch.bool
        assert not is_target[counts == 0].any()
        assert not (is_hidden & ~is_target).any()
        n_expressed, n_targets = int((counts > 0).sum()), int(is_target.sum())
        assert abs(n_targets / n_expressed - 0.15) < 5 * (0.15 * 0.85 / n_expressed) ** 0.5
        assert abs(is_hidden.sum() / n_targets - 0.9) < 5 * (0.9 * 0.1 / n_targets) ** 0.5

    @pytest.mark.parametrize(("probability", "n_hidden"), [(0.0, 0), (1.0, 1)])
    def test_none_or_all_of_the_targets_are_hidden(self, probability, n_hidden):
        is_target, is_hidden = sample_expressed_mask(make_counts(), fraction=0.5, replace_probability=probability)
        assert is_target.any()
        assert torch.equal(is_hidden, is_target & bool(n_hidden))

    def test_every_cell_and_gene_is_drawn_on_its_own(self):
        is_target, _ = sample_expressed_mask(torch.ones(401, 307), fraction=0.5, replace_probability=1.0)
        for axis in (0, 1):
            assert abs(is_target.double().mean(dim=axis) - 0.5).max() < 5 * (0.25 / 307) ** 0.5
        assert len(torch.unique(is_target, dim=0)) == 401


class TestSparse:
    @pytest.fixture
    def counts(self) -> torch.Tensor:
        counts = torch.randint(0, 9, (13, 7)).float() * (torch.rand(13, 7) < 0.3)
        counts[4] = 0.0
        return counts

    @pytest.mark.parametrize("n_masked", [0, 2])
    def test_normalization_equals_that_of_dense_counts(self, n_masked, counts):
        is_masked = (torch.arange(7) < n_masked)[None, :]
        found = normalize_counts(as_sparse(counts), is_masked)
        assert found.layout == torch.sparse_csr
        torch.testing.assert_close(found.to_dense(), normalize_counts(counts, is_masked))

    def test_sums_equal_the_product(self, counts):
        table = torch.randn(7, 5)
        torch.testing.assert_close(sum_over_genes(as_sparse(counts), table), counts @ table)
        assert torch.equal(sum_over_genes(counts, table), counts @ table)

    def test_no_warning_of_beta_status(self, counts, recwarn):
        as_sparse(counts)
        assert not recwarn.list


def as_sparse(counts: torch.Tensor) -> torch.Tensor:
    csr = sp.csr_matrix(counts.numpy())
    return sparse_rows(*map(torch.from_numpy, (csr.indptr, csr.indices, csr.data)), n_vars=counts.shape[1])
