from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc

from transanno.data._demo import LABELS_KEY, load_demo


@pytest.fixture(scope="module")
def demo():
    return load_demo()


def test_counts_are_those_that_the_logged_values_were_made_of() -> None:
    source = sc.datasets.pbmc68k_reduced()
    both = sc.concat(load_demo())[source.obs_names]
    totals = source.obs["n_counts"].to_numpy()[:, None]
    counts = both.X.toarray()
    assert (counts.sum(axis=1) <= totals.ravel()).all()
    # Stored with three decimals, and not one more than one of them off.
    logged = np.log1p(counts / totals * 1e4)
    np.testing.assert_allclose(logged, source.raw.X.toarray(), atol=1.1e-3)


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
