from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from transanno.nn import (
    bin_expression,
    distance_from,
    normalize_counts,
    perturb_genes,
    sample_expressed_mask,
    sample_gene_mask,
    sample_panel,
    sparse_rows,
    sum_over_cells,
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

    def test_one_depth_of_all_cells_and_one_of_each(self):
        """Share of the molecules that are left: product of U(low, 1) for all and U(0.6, 1.4) for each, at most 1."""
        low, shares, depths = 0.2, [], []
        for _ in range(200):
            share = thin_counts(torch.full((61, 7), 1e5), min_fraction=low) / 1e5
            assert share.std(dim=1).max() < 0.006  # sqrt(0.25 / 1e5) = 0.0016
            shares.append(share.mean(dim=1))
            depths.append(shares[-1].median().item())  # nearly that of all, unless most are at the bound
        per_cell = torch.stack(shares).double().numpy()
        assert per_cell.min() >= 0.6 * low - 0.006
        assert per_cell.max() <= 1.0
        assert (per_cell == 1.0).any()
        # Where no cell is at the bound, the shares of cells are uniform around that of all.
        free = per_cell[np.array(depths) < 0.6]
        assert len(free) > 50
        spread = free / free.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(np.quantile(spread, [0.02, 0.5, 0.98]), [0.616, 1.0, 1.384], atol=0.05)
        np.testing.assert_allclose(np.quantile(depths, [0.05, 0.5, 0.95]), [0.24, 0.6, 0.96], atol=0.08)

    def test_mean_and_variance_are_those_of_binomial_thinning(self, monkeypatch):
        """Of cells that all keep the same share."""
        monkeypatch.setattr("transanno.nn._expression._DEPTHS_OF_CELLS", (0.5, 0.5))
        n_obs, molecules = 20_011, 20
        thinned = thin_counts(torch.full((n_obs, 1), float(molecules)), min_fraction=1 - 1e-7)[:, 0].double()
        assert abs(thinned.mean().item() - molecules / 2) < 5 * math.sqrt(molecules / 4 / n_obs)
        assert thinned.var().item() == pytest.approx(molecules / 4, rel=0.05)

    def test_no_cell_loses_nearly_all(self):
        shares = [thin_counts(torch.full((61, 1), 1e5), min_fraction=1e-3).min().item() / 1e5 for _ in range(50)]
        assert 0.046 < min(shares) < 0.054  # the least share, and the deviation of the draw

    def test_is_seeded(self):
        found = []
        for seed in (3, 3, 5):
            torch.manual_seed(seed)
            found.append(thin_counts(make_counts(), min_fraction=0.3))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])

    def test_fractional_counts_are_rounded_to_molecules(self, monkeypatch):
        monkeypatch.setattr("transanno.nn._expression._DEPTHS_OF_CELLS", (1.0, 1.0))
        thinned = thin_counts(torch.tensor([[0.4, 0.6, 2.4, 1000.4]]), min_fraction=1 - 1e-7)
        assert torch.equal(thinned, torch.tensor([[0.0, 1.0, 2.0, 1000.0]]))


class TestPerturbGenes:
    NO_OTHER = torch.zeros(11, dtype=torch.bool)

    def test_zero_returns_the_same_object(self):
        counts = make_counts()
        assert perturb_genes(counts, deviation=0.0, is_other=self.NO_OTHER) is counts

    def test_all_cells_have_the_same_factor_of_a_gene(self):
        counts = make_counts() + 1
        before = counts.clone()
        factor = perturb_genes(counts, deviation=0.7, is_other=self.NO_OTHER) / counts
        assert torch.equal(counts, before)
        torch.testing.assert_close(factor, factor[:1].expand_as(factor))
        assert (factor > 0).all()
        assert len(factor[0].unique()) == 11

    def test_zeros_stay(self):
        counts = make_counts()
        assert torch.equal(perturb_genes(counts, deviation=0.7, is_other=self.NO_OTHER) == 0, counts == 0)

    def test_column_of_other_genes_is_left_alone(self):
        counts, is_other = make_counts() + 1, torch.arange(11) == 10
        changed = perturb_genes(counts, deviation=0.7, is_other=is_other)
        assert torch.equal(changed[:, 10], counts[:, 10])
        assert not torch.isclose(changed[:, :10], counts[:, :10]).all(dim=0).any()

    def test_logarithms_of_factors_are_normal_with_a_uniform_deviation(self):
        ones, no_other = torch.ones(1, 1009), torch.zeros(1009, dtype=torch.bool)
        logs = torch.cat([perturb_genes(ones, deviation=0.7, is_other=no_other).log() for _ in range(300)])
        deviation = logs.double().std(dim=1)
        assert (logs.mean(dim=1).abs() < 5 * deviation / math.sqrt(1009)).all()
        assert deviation.max() < 0.75
        np.testing.assert_allclose(np.quantile(deviation, [0.1, 0.5, 0.9]), [0.07, 0.35, 0.63], atol=0.08)
        kurtosis = ((logs / logs.std(dim=1, keepdim=True)) ** 4).mean()
        assert kurtosis == pytest.approx(3.0, rel=0.05)

    def test_is_seeded(self):
        found = []
        for seed in (3, 3, 5):
            torch.manual_seed(seed)
            found.append(perturb_genes(make_counts(), deviation=0.7, is_other=self.NO_OTHER))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])


class TestSamplePanel:
    def test_hides_the_same_genes_in_all_cells(self):
        panel = sample_panel(503, max_fraction=0.4, device=CPU)
        assert panel.dtype == torch.bool
        assert panel.shape == (1, 503)

    def test_half_of_the_times_nothing_and_else_a_uniform_share(self):
        shares = torch.stack([sample_panel(503, max_fraction=0.4, device=CPU).double().mean() for _ in range(2000)])
        assert (shares == 0).double().mean().item() == pytest.approx(0.5, abs=0.06)
        shares = shares[shares > 0]
        np.testing.assert_allclose(np.quantile(shares, [0.1, 0.5, 0.9]), [0.04, 0.2, 0.36], atol=0.03)
        assert shares.max() < 0.4 + 5 * math.sqrt(0.24 / 503)

    def test_genes_are_hidden_alike(self):
        panels = torch.cat([sample_panel(23, max_fraction=0.8, device=CPU) for _ in range(2000)])
        np.testing.assert_allclose(panels.double().mean(dim=0), 0.2, atol=0.05)
        assert len(torch.unique(panels, dim=0)) > 500

    def test_zero_hides_nothing(self):
        assert not any(sample_panel(11, max_fraction=0.0, device=CPU).any() for _ in range(31))


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

    @pytest.mark.parametrize("n_rows", [1, 13], ids=["one center", "center per cell"])
    def test_distances_equal_numpy(self, n_rows, counts):
        center = 5 * torch.rand(n_rows, 7)
        expected = np.linalg.norm((counts - center).double().numpy(), axis=1)
        np.testing.assert_allclose(distance_from(counts, center), expected, rtol=1e-5)
        if n_rows == 1:
            np.testing.assert_allclose(distance_from(as_sparse(counts), center), expected, rtol=1e-5)

    def test_distance_is_never_zero(self, counts):
        center = counts[:1].clone()
        for found in (distance_from(counts[:1], center), distance_from(as_sparse(counts[:1]), center)):
            assert 0 < found.item() <= 2e-3

    def test_sums_over_cells(self, counts):
        torch.testing.assert_close(sum_over_cells(as_sparse(counts)), counts.sum(dim=0))
        assert torch.equal(sum_over_cells(counts), counts.sum(dim=0))
        nothing = sum_over_cells(as_sparse(torch.zeros(3, 7)))
        assert torch.equal(nothing, torch.zeros(7))

    def test_no_warning_of_beta_status(self, counts, recwarn):
        as_sparse(counts)
        assert not recwarn.list


def as_sparse(counts: torch.Tensor) -> torch.Tensor:
    csr = sp.csr_matrix(counts.numpy())
    return sparse_rows(*map(torch.from_numpy, (csr.indptr, csr.indices, csr.data)), n_vars=counts.shape[1])
