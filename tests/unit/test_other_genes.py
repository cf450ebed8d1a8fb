"""The count of genes outside the vocabulary: in a reference, and in queries that measured other genes."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from transanno._constants import OTHER_GENES
from transanno.data._match_genes import align_counts, match_genes
from transanno.data._other_genes import count_other_genes, gene_shares, with_other_genes

GENES = pd.Index([f"gene{i}" for i in range(9)])
VOCABULARY = GENES[[7, 2, 4]]


def make_adata(n_obs: int = 11, seed: int = 0, kind=sp.csr_matrix) -> ad.AnnData:
    counts = np.random.default_rng(seed).poisson(3.0, (n_obs, len(GENES))).astype(np.float32)
    return ad.AnnData(kind(counts), var=pd.DataFrame(index=GENES))


def others_of(adata: ad.AnnData, *, shares=None, is_missing=None) -> np.ndarray:
    is_missing = np.zeros(adata.n_vars, dtype=bool) if is_missing is None else is_missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of genes that are missing on purpose
        match = match_genes(adata.var_names, VOCABULARY, is_missing=is_missing, min_shared=1)
    counts = align_counts(adata, match)
    return count_other_genes(adata, adata.var_names, is_missing, counts, VOCABULARY, shares, layer=None)


class TestReference:
    def test_last_column_holds_all_other_counts(self):
        adata = make_adata()
        found = with_other_genes(adata, VOCABULARY)
        assert found.var_names.tolist() == [*VOCABULARY, OTHER_GENES]
        assert (found[:, VOCABULARY].X != adata[:, VOCABULARY].X).nnz == 0
        np.testing.assert_array_equal(found.X.sum(axis=1), adata.X.sum(axis=1))

    def test_shares_are_those_of_all_counts(self):
        adata = make_adata()
        shares = gene_shares(adata.X, adata.var_names)
        assert list(shares) == GENES.tolist()
        np.testing.assert_allclose(list(shares.values()), np.asarray(adata.X.sum(axis=0)).ravel() / adata.X.sum())


class TestQuery:
    @pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray], ids=["CSR", "CSC", "dense"])
    def test_same_genes_give_the_same_count(self, kind):
        adata = make_adata(kind=kind)
        expected = with_other_genes(make_adata(), VOCABULARY).X[:, -1].toarray().ravel()
        shares = gene_shares(make_adata().X, GENES)
        np.testing.assert_array_equal(others_of(adata, shares=shares), expected)
        np.testing.assert_array_equal(others_of(adata[:, GENES[::-1]], shares=shares), expected)

    def test_genes_that_the_reference_lacks_do_not_count(self):
        adata = make_adata()
        shares = gene_shares(adata[:, GENES[:8]].X, GENES[:8])
        expected = adata[:, GENES[[0, 1, 3, 5, 6]]].X.sum(axis=1).A1
        np.testing.assert_array_equal(others_of(adata, shares=shares), expected)

    def test_without_shares_all_genes_count(self):
        adata = make_adata()
        np.testing.assert_array_equal(others_of(adata), adata[:, ~GENES.isin(VOCABULARY)].X.sum(axis=1).A1)

    @given(keep=st.lists(st.booleans(), min_size=9, max_size=9), seed=st.integers(0, 5))
    def test_a_part_of_the_genes_stands_for_all(self, keep, seed):
        keep = np.array(keep)
        keep[2] = True  # a gene of the vocabulary
        query, shares = make_adata(seed=seed), dict(zip(GENES, np.full(9, 1 / 9), strict=True))
        found = others_of(query[:, keep].copy(), shares=shares)
        inside = query[:, keep & GENES.isin(VOCABULARY)].X.sum(axis=1).A1
        total = query[:, keep].X.sum(axis=1).A1 / keep.mean()
        np.testing.assert_allclose(found, total - inside, atol=0.51)
        assert (found >= 0).all()

    def test_placeholders_are_not_measured(self):
        adata = make_adata()
        is_missing = GENES.isin(["gene0", "gene1"])
        adata.X = adata.X.multiply(~is_missing).tocsr()
        shares = dict(zip(GENES, np.full(9, 1 / 9), strict=True))
        expected = others_of(adata[:, ~is_missing].copy(), shares=shares)
        np.testing.assert_array_equal(others_of(adata, shares=shares, is_missing=is_missing), expected)
