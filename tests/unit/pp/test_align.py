from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from transanno import pp
from transanno.data._counts import MatrixCounts

N_OBS, N_VARS = 17, 31
GENES = [f"g{i}" for i in range(N_VARS)]
# Reversed, without three of the data's genes, with four others in between.
VOCABULARY = [*GENES[:7:-1], "new1", "new2", *GENES[3:8], "new3", "new4"]

CONTAINERS = [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array]


def make_values(dtype: str = "float64", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.poisson(0.6, size=(N_OBS, N_VARS)) * rng.integers(1, 60, size=(N_OBS, N_VARS))
    return (values * (0.37 if dtype.startswith("float") else 1)).astype(dtype)


def make_adata(container=sp.csr_matrix, dtype: str = "float64") -> ad.AnnData:
    rng = np.random.default_rng(1)
    adata = ad.AnnData(
        container(make_values(dtype)),
        obs=pd.DataFrame({"batch": pd.Categorical(["a", "b"] * 8 + ["a"])}, index=[f"cell{i}" for i in range(N_OBS)]),
        var=pd.DataFrame(
            {
                "highly_variable": rng.random(N_VARS) > 0.5,
                "n_cells": rng.integers(1, 9, N_VARS),
                "symbol": [f"symbol {gene}" for gene in GENES],
                "chromosome": pd.Categorical(rng.choice(["chr1", "chr2"], N_VARS)),
            },
            index=pd.Index(GENES, name="gene"),
        ),
        layers={"other": container(make_values("int32", seed=3))},
        obsm={"X_pca": rng.normal(size=(N_OBS, 5))},
        uns={"colors": {"batch": ["#ff0000", "#00ff00"]}},
    )
    adata.obsp["distances"] = sp.random(N_OBS, N_OBS, 0.2, format="csr", rng=rng)
    adata.raw = ad.AnnData(sp.csr_matrix(make_values("float32")), var=pd.DataFrame(index=GENES))
    return adata


def align_slowly(values: np.ndarray) -> np.ndarray:
    columns = [values[:, GENES.index(gene)] if gene in GENES else np.zeros(N_OBS, values.dtype) for gene in VOCABULARY]
    return np.stack(columns, axis=1)


class TestMatrices:
    @pytest.mark.parametrize("container", CONTAINERS)
    @pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32", "uint16", "uint8", "bool"])
    def test_values_and_dtype_are_kept(self, container, dtype, monkeypatch):
        monkeypatch.setattr(MatrixCounts.blocks, "__defaults__", (7,))  # several blocks
        aligned = pp.align_genes(make_adata(container, dtype), VOCABULARY)
        for found, values in ((aligned.X, make_values(dtype)), (aligned.layers["other"], make_values("int32", 3))):
            assert found.dtype == values.dtype
            assert found.format == ("csc" if container in (sp.csc_matrix, sp.csc_array) else "csr")
            np.testing.assert_array_equal(found.toarray(), align_slowly(values))
            assert found.has_canonical_format

    def test_half_precision_becomes_single(self):
        aligned = pp.align_genes(make_adata(np.asarray, "float16"), VOCABULARY)
        assert aligned.X.dtype == np.float32
        np.testing.assert_array_equal(aligned.X.toarray(), align_slowly(make_values("float16")))

    def test_nothing_is_stored_for_missing_genes(self):
        aligned = pp.align_genes(make_adata(), VOCABULARY)
        assert aligned.X.nnz == np.count_nonzero(align_slowly(make_values()))

    def test_no_sparse_matrix_becomes_dense(self, monkeypatch):
        adatas = [make_adata(kind) for kind in CONTAINERS[2:]]

        def refuse(*args, **kwargs):
            raise AssertionError("made dense")

        for kind in CONTAINERS[2:]:
            monkeypatch.setattr(kind, "toarray", refuse)
            monkeypatch.setattr(kind, "todense", refuse)
        for adata in adatas:
            assert pp.align_genes(adata, VOCABULARY).n_vars == len(VOCABULARY)

    def test_unsorted_and_repeated_entries(self):
        rng = np.random.default_rng(7)
        indices = rng.integers(0, N_VARS, size=N_OBS * 50)
        data = rng.integers(1, 5, size=N_OBS * 50)
        matrix = sp.csr_matrix((data, indices, np.arange(N_OBS + 1) * 50), shape=(N_OBS, N_VARS))
        adata = ad.AnnData(matrix.copy(), var=pd.DataFrame(index=GENES))
        np.testing.assert_array_equal(pp.align_genes(adata, VOCABULARY).X.toarray(), align_slowly(matrix.toarray()))
        assert adata.X.nnz == N_OBS * 50

    def test_nan_is_kept(self):
        values = make_values()
        values[2, 9] = np.nan
        adata = ad.AnnData(sp.csc_matrix(values), var=pd.DataFrame(index=GENES))
        np.testing.assert_array_equal(pp.align_genes(adata, VOCABULARY).X.toarray(), align_slowly(values))

    def test_objects_are_refused(self):
        adata = make_adata()
        adata.layers["objects"] = make_values().astype(object)
        with pytest.raises(TypeError, match="holds object values"):
            pp.align_genes(adata, VOCABULARY)

    def test_no_x(self):
        adata = ad.AnnData(var=pd.DataFrame(index=GENES), layers={"counts": sp.csr_matrix(make_values())})
        aligned = pp.align_genes(adata, VOCABULARY)
        assert aligned.X is None
        np.testing.assert_array_equal(aligned.layers["counts"].toarray(), align_slowly(make_values()))


class TestRest:
    def test_everything_about_cells_is_kept(self):
        adata = make_adata()
        aligned = pp.align_genes(adata, VOCABULARY)
        pd.testing.assert_frame_equal(aligned.obs, adata.obs)
        np.testing.assert_array_equal(aligned.obsm["X_pca"], adata.obsm["X_pca"])
        assert (aligned.obsp["distances"] != adata.obsp["distances"]).nnz == 0
        assert aligned.uns["colors"] == adata.uns["colors"]
        assert list(aligned.raw.var_names) == GENES
        assert (aligned.raw.X != adata.raw.X).nnz == 0

    def test_input_is_not_changed_nor_shared(self, snapshot, changed):
        adata = make_adata()
        before = snapshot(adata)
        aligned = pp.align_genes(adata, VOCABULARY)
        assert changed(before, adata) == set()
        aligned.uns["colors"]["batch"][0] = "black"
        aligned.obsm["X_pca"][:] = 0
        aligned.raw.X.data[:] = 0
        aligned.X.data[:] = 0
        aligned.obs["batch"] = "c"
        assert changed(before, adata) == set()

    def test_what_is_recorded(self):
        aligned = pp.align_genes(make_adata(), VOCABULARY)
        assert list(aligned.var_names) == VOCABULARY
        assert aligned.var_names.name == "gene"
        assert list(aligned.var_names[aligned.var["is_missing"]]) == ["new1", "new2", "new3", "new4"]
        assert aligned.uns["transanno_align"] == {"n_vocabulary": 32, "n_missing": 4, "n_dropped": 3}

    def test_columns_of_var(self):
        adata = make_adata()
        aligned = pp.align_genes(adata, VOCABULARY)
        known = aligned.var_names[~aligned.var["is_missing"]]
        for key in adata.var:
            assert (aligned.var.loc[known, key] == adata.var.loc[known, key]).all()
        assert aligned.var["highly_variable"].dtype == bool
        assert not aligned.var.loc["new1", "highly_variable"]
        assert aligned.var.loc["new1", ["n_cells", "symbol", "chromosome"]].isna().all()

    def test_can_be_written(self, tmp_path):
        aligned = pp.align_genes(make_adata(), VOCABULARY)
        aligned.write_h5ad(tmp_path / "aligned.h5ad")
        found = ad.read_h5ad(tmp_path / "aligned.h5ad")
        assert found.var["is_missing"].dtype == bool
        assert found.uns["transanno_align"]["n_missing"] == 4
        assert (found.X != aligned.X).nnz == 0

    def test_missing_genes_stay_missing(self):
        aligned = pp.align_genes(make_adata(), VOCABULARY)
        again = pp.align_genes(aligned, [*reversed(VOCABULARY), "new5"])
        assert set(again.var_names[again.var["is_missing"]]) == {f"new{i}" for i in range(1, 6)}

    def test_view(self):
        view = make_adata()[3:11, 3:30]
        aligned = pp.align_genes(view, GENES[28:4:-1])
        assert view.is_view
        np.testing.assert_array_equal(aligned.X.toarray(), make_values()[3:11, 28:4:-1])
        assert list(aligned.obs_names) == list(view.obs_names)


class TestRefused:
    def test_too_few_genes(self):
        with pytest.raises(ValueError, match="Only 2 of the 41 genes"):
            pp.align_genes(make_adata(), [*GENES[:2], *(f"other{i}" for i in range(39))])

    def test_below_80_percent_warns(self):
        with pytest.warns(UserWarning, match="Only 31 of the 44 genes"):
            pp.align_genes(make_adata(), [*GENES, *(f"other{i}" for i in range(13))])

    def test_repeated_gene(self):
        adata = make_adata()
        adata.var_names = ["g1", *GENES[1:]]
        with pytest.raises(ValueError, match="adata has 1 gene name.*more than once: 'g1'"):
            pp.align_genes(adata, VOCABULARY[::-1] + ["g1"])
        assert pp.align_genes(adata, VOCABULARY).n_vars == 32  # g1 is not in it

    def test_backed(self, tmp_path):
        make_adata().write_h5ad(tmp_path / "data.h5ad")
        backed = ad.read_h5ad(tmp_path / "data.h5ad", backed="r")
        with pytest.raises(ValueError, match=r"backed by a file.*adata.to_memory\(\)"):
            pp.align_genes(backed, VOCABULARY)
        backed.file.close()

    def test_mudata(self, make_mdata):
        with pytest.raises(TypeError, match=r"adata is a MuData.*mdata\[\"rna\"\]"):
            pp.align_genes(make_mdata(), VOCABULARY)

    @pytest.mark.parametrize("column", [["yes"] * N_VARS, [0.0] * N_VARS, [True] * 30 + [None]])
    def test_column_of_another_meaning(self, column):
        adata = make_adata()
        adata.var["is_missing"] = column
        with pytest.raises(TypeError, match='var\\["is_missing"\\] has dtype'):
            pp.align_genes(adata, VOCABULARY)
