"""Highly variable genes from sums over blocks are those of scanpy."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import tl
from transanno.data import _counts, _select_genes

N_OBS, N_VARS = 211, 307


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    mean = rng.gamma(0.4, 2.0, size=N_VARS) * np.where(rng.random((4, N_VARS)) < 0.15, 5.0, 1.0)
    depth = rng.uniform(0.5, 2.0, size=(N_OBS, 1))
    counts = rng.poisson(mean[rng.integers(0, 4, N_OBS)] * depth).astype(np.float32)
    counts[:, 5] = 0.0
    obs = pd.DataFrame({"batch": np.array(["b", "a", "c"])[rng.integers(0, 3, N_OBS)]})
    obs.index = obs.index.astype(str)
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_VARS)]))


def by_scanpy(adata: ad.AnnData, n_top_genes: int, batch_key: str | None) -> list[str]:
    normalized = adata[:, np.asarray(adata.X.sum(axis=0)).ravel() > 0].copy()
    sc.pp.normalize_total(normalized, target_sum=1e4)
    sc.pp.log1p(normalized)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")
        sc.pp.highly_variable_genes(normalized, n_top_genes=n_top_genes, batch_key=batch_key)
    return normalized.var_names[normalized.var["highly_variable"]].tolist()


@pytest.mark.parametrize("n_top_genes", [1, 23, 101, 250])
@pytest.mark.parametrize("batch_key", [None, "batch"])
@pytest.mark.parametrize("n_rows", [7, 4096])
def test_genes_are_those_of_scanpy(adata, n_top_genes, batch_key, n_rows, monkeypatch):
    monkeypatch.setattr(_counts.MatrixCounts.blocks, "__defaults__", (n_rows,))
    found = tl.select_genes(adata, n_top_genes=n_top_genes, batch_key=batch_key)
    assert found.tolist() == by_scanpy(adata, n_top_genes, batch_key)


@pytest.mark.parametrize("container", [np.asarray, sp.csc_matrix, sp.csr_array])
def test_container_does_not_matter(adata, container):
    expected = tl.select_genes(adata, n_top_genes=31)
    other = ad.AnnData(container(adata.X.toarray()), var=adata.var)
    assert tl.select_genes(other, n_top_genes=31).equals(expected)


def test_all_expressed_genes_if_there_are_no_more(adata):
    is_expressed = adata.X.toarray().any(axis=0)
    assert not is_expressed[5]
    assert tl.select_genes(adata, n_top_genes=N_VARS).tolist() == adata.var_names[is_expressed].tolist()


def test_batches_of_a_few_cells_do_not_vote(adata):
    adata.obs["batch"] = ["small"] * 3 + ["large"] * (N_OBS - 3)
    expected = tl.select_genes(adata, n_top_genes=31)
    assert tl.select_genes(adata, n_top_genes=31, batch_key="batch").equals(expected)


def test_identical_cells_are_refused(adata):
    same = ad.AnnData(sp.csr_matrix(np.tile(adata.X[0].toarray() + 1, (17, 1))), var=adata.var)
    with pytest.raises(ValueError, match="No gene varies among the 17 cells"):
        tl.select_genes(same, n_top_genes=11)


def test_cells_are_normalized_over_allowed_genes_only(adata):
    is_allowed = np.arange(N_VARS) % 3 > 0
    sums = _select_genes.sum_genes([adata.X], np.zeros(N_OBS, int), is_allowed)
    np.testing.assert_allclose(sums.normalized[0, is_allowed].sum(), 1e4 * N_OBS, rtol=1e-5)
    assert not sums.normalized[0, ~is_allowed].any()
    np.testing.assert_array_equal(sums.counts[0], np.asarray(adata.X.sum(axis=0)).ravel())


def test_data_without_values_are_a_clear_error():
    with pytest.raises(ValueError, match="X is None. Put raw counts there"):
        tl.select_genes(ad.AnnData(obs=pd.DataFrame(index=["cell"]), var=pd.DataFrame(index=["gene"])))
