from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno.data._demo import LABELS_KEY, load_demo, restore_counts


@pytest.fixture(scope="module")
def demo():
    return load_demo()


def test_counts_are_restored_from_logged_ones() -> None:
    counts = sp.random(31, 17, density=0.4, random_state=0, format="csr")
    counts.data = np.ceil(counts.data * 200)
    totals = np.asarray(counts.sum(axis=1)).ravel() + 500  # of genes that are not in the selection
    adata = sc.AnnData(counts.multiply(1e4 / totals[:, None]).tocsr())
    sc.pp.log1p(adata)
    adata.X.data = adata.X.data.round(3)
    restored = restore_counts(adata.X, totals)
    assert restored.dtype == np.float32
    np.testing.assert_array_equal(restored.toarray(), counts.toarray())


def test_totals_of_other_cells_are_refused() -> None:
    source = sc.datasets.pbmc68k_reduced()
    totals = source.obs["n_counts"].to_numpy()
    with pytest.raises(ValueError, match="not whole numbers"):
        restore_counts(source.raw.X, totals[::-1])


def test_totals_below_the_sum_of_counts_are_refused() -> None:
    logged = sp.csr_matrix(np.log1p(np.full((2, 3), 1e4 / 2)))
    with pytest.raises(ValueError, match="2 cells sum to more than their total"):
        restore_counts(logged, np.array([2, 2]))


def test_the_halves_are_counts_of_the_same_genes_and_different_cells(demo) -> None:
    reference, query = demo
    assert reference.n_obs + query.n_obs == 700
    assert query.n_obs == 234
    assert reference.var_names.equals(query.var_names)
    assert reference.obs_names.intersection(query.obs_names).empty
    for adata in demo:
        values = adata.X.toarray()
        assert (values == np.rint(values)).all()
        assert values.min() == 0
        assert values.sum(axis=1).min() >= 300


def test_a_third_of_every_type_is_query(demo) -> None:
    reference, query = demo
    n_query = query.obs[LABELS_KEY].value_counts()
    n_all = n_query + reference.obs[LABELS_KEY].value_counts()
    assert len(n_all) == 10
    assert ((n_query - n_all / 3).abs() < 1).all()


def test_the_split_is_always_the_same(demo) -> None:
    _, again = load_demo()
    assert again.obs_names.equals(demo[1].obs_names)
