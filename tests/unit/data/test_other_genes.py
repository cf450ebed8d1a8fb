"""The count of genes outside the vocabulary, in queries that measured other genes."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from transanno.data._align_counts import AlignedCounts
from transanno.data._counts import MatrixCounts, in_memory
from transanno.data._match_genes import match_genes
from transanno.data._other_genes import OtherGenes

GENES = pd.Index([f"gene{i}" for i in range(9)])
VOCABULARY = GENES[[7, 2, 4]]


def make_adata(n_obs: int = 11, seed: int = 0, kind=sp.csr_matrix) -> ad.AnnData:
    counts = np.random.default_rng(seed).poisson(3.0, (n_obs, len(GENES))).astype(np.float32)
    return ad.AnnData(kind(counts), var=pd.DataFrame(index=GENES))


def shares_of(adata: ad.AnnData) -> dict[str, float]:
    totals = np.asarray(adata.X.sum(axis=0), dtype=np.float64).ravel()
    return dict(zip(adata.var_names, totals / totals.sum(), strict=True))


def others_of(adata: ad.AnnData, *, shares=None, is_missing=None) -> np.ndarray:
    is_missing = np.zeros(adata.n_vars, dtype=bool) if is_missing is None else is_missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of genes that are missing on purpose
        match = match_genes(adata.var_names, VOCABULARY, is_missing=is_missing, min_shared=1)
    others = OtherGenes.of(adata.var_names, is_missing, VOCABULARY, shares)
    aligned = in_memory(AlignedCounts(MatrixCounts(adata.X), match, others)).matrix
    assert aligned.shape == (adata.n_obs, 4)
    return aligned[:, -1].toarray().ravel()


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray], ids=["CSR", "CSC", "dense"])
def test_same_genes_give_the_same_count(kind):
    adata = make_adata(kind=kind)
    expected = make_adata()[:, ~GENES.isin(VOCABULARY)].X.sum(axis=1).A1
    shares = shares_of(make_adata())
    np.testing.assert_array_equal(others_of(adata, shares=shares), expected)
    np.testing.assert_array_equal(others_of(adata[:, GENES[::-1]], shares=shares), expected)


def test_genes_that_the_reference_lacks_do_not_count():
    adata = make_adata()
    shares = shares_of(adata[:, GENES[:8]])
    expected = adata[:, GENES[[0, 1, 3, 5, 6]]].X.sum(axis=1).A1
    np.testing.assert_array_equal(others_of(adata, shares=shares), expected)


def test_without_shares_all_genes_count():
    adata = make_adata()
    np.testing.assert_array_equal(others_of(adata), adata[:, ~GENES.isin(VOCABULARY)].X.sum(axis=1).A1)


@given(keep=st.lists(st.booleans(), min_size=9, max_size=9), seed=st.integers(0, 5))
def test_a_part_of_the_genes_stands_for_all(keep, seed):
    keep = np.array(keep)
    keep[2] = True  # a gene of the vocabulary
    query, shares = make_adata(seed=seed), dict(zip(GENES, np.full(9, 1 / 9), strict=True))
    found = others_of(query[:, keep].copy(), shares=shares)
    inside = query[:, keep & GENES.isin(VOCABULARY)].X.sum(axis=1).A1
    total = query[:, keep].X.sum(axis=1).A1 / keep.mean()
    np.testing.assert_allclose(found, total - inside, atol=0.51)
    assert (found >= 0).all()


def test_placeholders_are_not_measured():
    adata = make_adata()
    is_missing = GENES.isin(["gene0", "gene1"])
    adata.X = adata.X.multiply(~is_missing).tocsr()
    shares = dict(zip(GENES, np.full(9, 1 / 9), strict=True))
    expected = others_of(adata[:, ~is_missing].copy(), shares=shares)
    np.testing.assert_array_equal(others_of(adata, shares=shares, is_missing=is_missing), expected)
