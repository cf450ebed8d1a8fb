from __future__ import annotations

import pickle
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from transanno.checks._data import (
    check_layer,
    check_not_empty,
    check_obs_column,
    check_unique_genes,
)
from transanno.data._check_counts import check_counts

N_OBS, N_VARS = 23, 13


def as_np_matrix(x) -> np.matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy: the matrix class is no longer recommended
        return np.matrix(x)


CONTAINERS = [
    pytest.param(np.asarray, id="array"),
    pytest.param(np.asfortranarray, id="fortran"),
    pytest.param(as_np_matrix, id="matrix"),
    *(
        pytest.param(getattr(sp, f"{kind}_{suffix}"), id=f"{kind}_{suffix}")
        for kind in ("csr", "csc", "coo", "lil")
        for suffix in ("matrix", "array")
    ),
]
SPARSE_DTYPES = ["bool", "uint8", "int32", "int64", "float32", "float64"]


@pytest.fixture
def counts() -> np.ndarray:
    """Counts with a different total in every cell."""
    rng = np.random.default_rng(3)
    depth = rng.uniform(0.5, 8, size=(N_OBS, 1))
    x = rng.poisson(depth * rng.uniform(0.1, 4, size=N_VARS)).astype(np.float64)
    x[0, 0] = 61
    return x


def normalized(counts: np.ndarray, target: float = 1e4) -> np.ndarray:
    return counts / counts.sum(axis=1, keepdims=True) * target


class TestCounts:
    @pytest.mark.parametrize("container", CONTAINERS)
    @pytest.mark.parametrize("dtype", SPARSE_DTYPES)
    def test_whole_numbers_pass(self, counts, container, dtype):
        check_counts(container(counts.astype(dtype)), name="X")

    def test_half_precision_counts_pass(self, counts):
        check_counts(counts.astype(np.float16), name="X")

    def test_binary_counts_pass(self, counts):
        check_counts((counts > 0).astype(np.float32), name="X")

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_rounding_errors_pass(self, counts, dtype):
        check_counts((counts + np.where(counts > 0, -3e-5, 0)).astype(dtype), name="X")

    def test_matrix_is_not_modified(self, counts):
        matrix = sp.csr_matrix(counts)
        matrix.indices[: matrix.indptr[1]] = matrix.indices[: matrix.indptr[1]][::-1].copy()  # unsorted
        before = (matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy())
        check_counts(matrix, name="X")
        for old, new in zip(before, (matrix.data, matrix.indices, matrix.indptr), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_one_bad_value_in_the_last_block_is_found(self, counts, monkeypatch):
        monkeypatch.setattr("transanno.checks._data._VALUES_PER_BLOCK", 17)
        counts[-1, -1] = -2
        for matrix in (counts, sp.csr_matrix(counts), sp.csc_matrix(counts)):
            with pytest.raises(ValueError, match="1 of .* are negative, all of them whole numbers, the smallest -2;"):
                check_counts(matrix, name="X")

    @pytest.mark.parametrize("container", CONTAINERS)
    @pytest.mark.parametrize("block", [1, 2**22])
    def test_not_finite_values_name_their_cells(self, counts, container, block, monkeypatch):
        monkeypatch.setattr("transanno.checks._data._VALUES_PER_BLOCK", block)
        counts[3, 5] = np.nan
        counts[3, 7] = np.inf
        counts[11, 2] = -np.inf
        message = r"lay holds 3 NaN or infinite value\(s\) in 2 of 23 cells, first in row\(s\) 3, 11\."
        with pytest.raises(ValueError, match=message):
            check_counts(container(counts), name="lay")

    def test_only_nan_is_reported_as_nan(self):
        with pytest.raises(ValueError, match=r"in 7 of 7 cells, first in row\(s\) 0, 1, 2, 3, 4 and 2 more"):
            check_counts(np.full((7, 3), np.nan, dtype=np.float16), name="X")

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_scaled_values_are_refused(self, counts, container):
        scaled = (counts - counts.mean(axis=0)) / counts.std(axis=0)
        with pytest.raises(ValueError, match=rf"^X looks scaled.*minimum found {scaled.min():.4g}.*layer=.counts"):
            check_counts(container(scaled), name="X")

    def test_negative_integers_are_refused(self, counts):
        with pytest.raises(ValueError, match="minimum found -61"):
            check_counts(-counts.astype(np.int32), name="X")

    @pytest.mark.parametrize("container", CONTAINERS)
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_log_normalized_values_are_refused(self, counts, container, dtype):
        logged = np.log1p(normalized(counts)).astype(dtype)
        with pytest.raises(ValueError, match=r"X looks log1p-normalized.*100\.0%.*adata\.raw"):
            check_counts(container(logged), name="X")

    def test_half_precision_log_normalized_values_are_refused(self, counts):
        with pytest.raises(ValueError, match="log1p-normalized"):
            check_counts(np.log1p(normalized(counts)).astype(np.float16), name="X")

    def test_message_gives_share_and_example_of_fractions(self):
        x = np.array([[0, 1.5, 2.25], [0.75, 0, 3], [4, 0, 0]])
        with pytest.raises(ValueError, match=r"3 of 5 non-zero values \(60\.0%\) are not whole.*for example 1\.5,"):
            check_counts(x, name="X")

    @pytest.mark.parametrize("container", CONTAINERS)
    @pytest.mark.parametrize("target", [1.0, 1e4, 1e6])
    def test_normalized_values_are_refused(self, counts, container, target):
        counts[4] = 0  # an empty cell stays empty
        with np.errstate(invalid="ignore"):
            x = np.nan_to_num(normalized(counts, target))
        with pytest.raises(ValueError, match=f"looks normalized to {target:.7g} counts per cell, not logged"):
            check_counts(container(x), name="X")

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_ambient_corrected_counts_are_accepted_with_a_warning(self, counts, container):
        with pytest.warns(UserWarning, match="X holds fractional counts.*for example") as caught:
            check_counts(container(counts * 0.93), name="X")
        assert caught[0].filename == __file__

    def test_expected_counts_with_small_maximum_are_not_called_logged(self, counts):
        small = np.minimum(counts, 9)
        small[2, 3] = 4.41
        with pytest.warns(UserWarning, match=r"1 of \d+ non-zero values"):
            check_counts(small, name="X")

    def test_total_of_a_single_cell_is_no_evidence_of_normalization(self, counts):
        with pytest.warns(UserWarning, match="fractional counts"):
            check_counts(counts[:1] * 0.93, name="X")

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_all_zero_is_refused(self, container):
        with pytest.raises(ValueError, match="All 5 x 3 values of X are zero"):
            check_counts(container(np.zeros((5, 3), dtype=np.float32)), name="X")

    def test_stored_zeros_are_zero(self):
        matrix = sp.csr_matrix(np.ones((5, 3)))
        matrix.data[:] = 0
        with pytest.raises(ValueError, match="are zero"):
            check_counts(matrix, name="X")

    @pytest.mark.parametrize(
        ("matrix", "found"),
        [
            (pd.DataFrame({"a": [1]}), "DataFrame"),
            (None, "NoneType"),
            (np.array([["1"]]), "dtype <U1"),
            (np.array([[1]], dtype=object), "dtype object"),
            (np.array([[1j]]), "dtype complex"),
        ],
    )
    def test_other_types_are_named(self, matrix, found):
        with pytest.raises(TypeError, match=f"X .*{found}.*Convert it"):
            check_counts(matrix, name="X")


class TestAnnData:
    @pytest.fixture
    def adata(self, counts) -> ad.AnnData:
        obs = pd.DataFrame(
            {"cell_type": ["T"] * N_OBS, "donor": ["d1"] * N_OBS}, index=[f"cell{i}" for i in range(N_OBS)]
        )
        return ad.AnnData(counts, obs=obs, layers={"counts": counts})

    def test_present_keys_pass(self, adata):
        check_not_empty(adata, name="adata")
        check_obs_column(adata, "donor", argument="batch_key", name="adata")
        check_layer(adata, "counts", name="adata")
        check_layer(adata, None, name="adata")
        check_unique_genes(adata.var_names, name="adata")

    @pytest.mark.parametrize(("n_obs", "n_vars"), [(0, 3), (3, 0)])
    def test_empty_is_refused(self, adata, n_obs, n_vars):
        with pytest.raises(ValueError, match=f"query has {n_obs} cells and {n_vars} genes"):
            check_not_empty(adata[:n_obs, :n_vars], name="query")

    @pytest.mark.parametrize("key", ["celltype", "CELL_TYPE", "cell_types"])
    def test_missing_column_suggests_the_closest(self, adata, key):
        with pytest.raises(KeyError) as error:
            check_obs_column(adata, key, argument="labels_key", name="query")
        assert str(error.value) == (
            f"labels_key='{key}' is not a column of query.obs. Did you mean 'cell_type'? "
            "Columns available: 'cell_type', 'donor'."
        )

    def test_key_errors_are_plain_and_survive_pickling(self, adata):
        with pytest.raises(KeyError) as error:
            check_obs_column(adata, "zzz", argument="labels_key", name="query")
        assert type(error.value) is KeyError
        assert "Did you mean" not in str(error.value)
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)

    def test_long_lists_are_cut(self, counts):
        adata = ad.AnnData(counts, obs={f"column{i}": np.zeros(N_OBS) for i in range(17)})
        with pytest.raises(KeyError, match="'column9' and 7 more.$"):
            check_obs_column(adata, "zzz", argument="labels_key", name="query")

    def test_no_columns_at_all(self, counts):
        with pytest.raises(KeyError, match="Columns available: none.$"):
            check_obs_column(ad.AnnData(counts), "zzz", argument="labels_key", name="query")

    def test_missing_layer_lists_layers_without_x(self, adata):
        with pytest.raises(KeyError) as error:
            check_layer(adata, "count", name="query")
        assert str(error.value) == (
            "layer='count' is not a layer of query. Did you mean 'counts'? Layers available: 'counts'. "
            "Leave layer out where X holds the counts."
        )

    def test_missing_layer_without_any(self, adata):
        del adata.layers["counts"]
        with pytest.raises(KeyError, match="Layers available: none. Leave layer out"):
            check_layer(adata, "None", name="query")


class TestUniqueGenes:
    def test_repeated_names_are_counted_and_shown(self):
        names = [f"g{i}" for i in range(7)]
        with pytest.raises(ValueError, match="ref has 7 gene name.*: 'g0', 'g1', 'g2', 'g3', 'g4' and 2 more"):
            check_unique_genes(names * 3, name="ref")

    def test_cure_is_named(self):
        with pytest.raises(ValueError, match=r"1 gene name.*'CD4'\..*var_names_make_unique"):
            check_unique_genes(pd.Index(["CD4", "CD8A", "CD4"]), name="ref")
