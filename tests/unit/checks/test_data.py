from __future__ import annotations

import pickle

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from transanno.checks._data import (
    check_layer,
    check_not_empty,
    check_obs_column,
    check_unique_genes,
)

N_OBS, N_VARS = 23, 13


@pytest.fixture
def counts() -> np.ndarray:
    """Counts with a different total in every cell."""
    rng = np.random.default_rng(3)
    depth = rng.uniform(0.5, 8, size=(N_OBS, 1))
    x = rng.poisson(depth * rng.uniform(0.1, 4, size=N_VARS)).astype(np.float64)
    x[0, 0] = 61
    return x


@pytest.fixture
def adata(counts) -> ad.AnnData:
    obs = pd.DataFrame({"cell_type": ["T"] * N_OBS, "donor": ["d1"] * N_OBS}, index=[f"cell{i}" for i in range(N_OBS)])
    return ad.AnnData(counts, obs=obs, layers={"counts": counts})


def test_present_keys_pass(adata):
    check_not_empty(adata, name="adata")
    check_obs_column(adata, "donor", argument="batch_key", name="adata")
    check_layer(adata, "counts", name="adata")
    check_layer(adata, None, name="adata")
    check_unique_genes(adata.var_names, name="adata")


@pytest.mark.parametrize(("n_obs", "n_vars"), [(0, 3), (3, 0)])
def test_empty_is_refused(adata, n_obs, n_vars):
    with pytest.raises(ValueError, match=f"query has {n_obs} cells and {n_vars} genes"):
        check_not_empty(adata[:n_obs, :n_vars], name="query")


@pytest.mark.parametrize("key", ["celltype", "CELL_TYPE", "cell_types"])
def test_missing_column_suggests_the_closest(adata, key):
    with pytest.raises(KeyError) as error:
        check_obs_column(adata, key, argument="labels_key", name="query")
    assert str(error.value) == (
        f"labels_key='{key}' is not a column of query.obs. Did you mean 'cell_type'? "
        "Columns available: 'cell_type', 'donor'."
    )


def test_key_errors_are_plain_and_survive_pickling(adata):
    with pytest.raises(KeyError) as error:
        check_obs_column(adata, "zzz", argument="labels_key", name="query")
    assert type(error.value) is KeyError
    assert "Did you mean" not in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_long_lists_are_cut(counts):
    adata = ad.AnnData(counts, obs={f"column{i}": np.zeros(N_OBS) for i in range(17)})
    with pytest.raises(KeyError, match="'column9' and 7 more.$"):
        check_obs_column(adata, "zzz", argument="labels_key", name="query")


def test_no_columns_at_all(counts):
    with pytest.raises(KeyError, match="Columns available: none.$"):
        check_obs_column(ad.AnnData(counts), "zzz", argument="labels_key", name="query")


def test_missing_layer_lists_layers_without_x(adata):
    with pytest.raises(KeyError) as error:
        check_layer(adata, "count", name="query")
    assert str(error.value) == (
        "layer='count' is not a layer of query. Did you mean 'counts'? Layers available: 'counts'. "
        "Leave layer out where X holds the counts."
    )


def test_missing_layer_without_any(adata):
    del adata.layers["counts"]
    with pytest.raises(KeyError, match="Layers available: none. Leave layer out where X holds the counts.$"):
        check_layer(adata, "None", name="query")


def test_repeated_names_are_counted_and_shown():
    names = [f"g{i}" for i in range(7)]
    with pytest.raises(ValueError, match="ref has 7 gene name.*: 'g0', 'g1', 'g2', 'g3', 'g4' and 2 more"):
        check_unique_genes(names * 3, name="ref")


def test_cure_is_named():
    with pytest.raises(ValueError, match=r"1 gene name.*'CD4'\..*var_names_make_unique"):
        check_unique_genes(pd.Index(["CD4", "CD8A", "CD4"]), name="ref")
