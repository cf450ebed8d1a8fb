from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import pp, tl

N_OBS, N_VARS = 97, 53


@pytest.fixture
def adata(reference) -> ad.AnnData:
    """97 cells × 53 genes: five cells with fewer than 9 genes, four genes in fewer than 3 cells."""
    counts = reference.X.toarray()
    counts[:5, 8:] = 0
    counts[:, -4:] = 0
    counts[11, -4:] = counts[12, -3:] = 2
    reference.X = sp.csr_matrix(counts)
    return reference


def run(adata, **kwargs) -> ad.AnnData:
    return pp.preprocess(adata, **{"min_genes": 9, "n_top_genes": 23, "batch_key": "batch"} | kwargs)


class TestSteps:
    def test_equals_scanpy_by_hand(self, adata):
        processed = run(adata)
        sc.pp.filter_cells(adata, min_genes=9)
        sc.pp.filter_genes(adata, min_cells=3)
        counts = adata.X.copy()
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(adata, n_top_genes=23, batch_key="batch")
        chosen = adata.var["highly_variable"].to_numpy()
        assert list(processed.var_names) == list(adata.var_names[chosen])
        assert list(processed.obs_names) == list(adata.obs_names)
        np.testing.assert_allclose(processed.X.toarray(), adata.X[:, chosen].toarray(), rtol=1e-6)
        np.testing.assert_array_equal(processed.layers["counts"].toarray(), counts[:, chosen].toarray())
        assert processed.var["highly_variable"].all()

    def test_values_by_hand(self):
        # 4 cells × 4 genes; the third gene is in one cell only, the fourth cell has one gene.
        counts = np.array([[3, 1, 0, 6], [0, 2, 0, 8], [5, 0, 7, 5], [0, 0, 0, 9]])
        adata = ad.AnnData(counts, var=pd.DataFrame(index=list("abcd")))
        processed = pp.preprocess(adata, min_genes=2, min_cells=2)
        assert list(processed.var_names) == ["a", "b", "d"]
        expected = np.log1p(np.array([[3000, 1000, 6000], [0, 2000, 8000], [5000, 0, 5000]]))
        np.testing.assert_allclose(processed.X, expected, rtol=1e-6)
        np.testing.assert_array_equal(processed.layers["counts"], counts[:3][:, [0, 1, 3]])
        assert processed.layers["counts"].dtype == counts.dtype
        assert list(processed.obs["n_genes"]) == [3, 2, 3]

    def test_report(self, adata, caplog):
        with caplog.at_level(logging.INFO, logger="transanno.pp"):
            processed = run(adata)
        assert processed.uns["transanno_preprocess"] == {
            "cells": {"before": 97, "too_few_genes": 5, "after": 92},
            "genes": {"before": 53, "too_few_cells": 4, "not_highly_variable": 26, "after": 23},
            "arguments": {"min_genes": 9, "target_sum": 1e4, "min_cells": 3, "n_top_genes": 23, "batch_key": "batch"},
        }
        assert "97 before, 5 too few genes, 92 after" in caplog.text
        assert "53 before, 4 too few cells, 26 not highly variable, 23 after" in caplog.text

    def test_default_number_of_genes(self, adata):
        processed = run(adata, n_top_genes=None, batch_key=None)
        assert processed.n_vars == 49
        assert processed.uns["transanno_preprocess"]["arguments"]["n_top_genes"] == 2000

    @pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
    @pytest.mark.parametrize("dtype", ["float32", "int64", "uint16"])
    def test_every_container_gives_the_same(self, container, dtype, adata):
        expected = run(adata)
        adata.X = container(adata.X.toarray().astype(dtype))
        found = run(adata)
        counts, x = found.layers["counts"], found.X
        assert counts.dtype == dtype
        assert x.dtype == np.float32
        dense = (lambda m: m.toarray()) if sp.issparse(x) else np.asarray
        np.testing.assert_array_equal(dense(counts), expected.layers["counts"].toarray())
        np.testing.assert_allclose(dense(x), expected.X.toarray(), rtol=1e-6)

    def test_counts_in_a_layer(self, adata):
        expected = run(adata)
        adata.layers["raw_counts"] = adata.X.copy()
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        found = run(adata, layer="raw_counts")  # and without scanpy's warning of a second logarithm
        np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
        assert (found.layers["counts"] != found.layers["raw_counts"]).nnz == 0

    def test_input_is_not_changed(self, adata, snapshot, changed):
        adata.raw = adata.copy()
        adata.obsm["X_other"] = np.arange(2.0 * N_OBS).reshape(N_OBS, 2)
        before = snapshot(adata)
        processed = run(adata)
        assert changed(before, adata) == set()
        processed.layers["counts"].data[:] = 0
        assert changed(before, adata) == set()
        assert processed.raw.shape == (92, 53)
        np.testing.assert_array_equal(processed.obsm["X_other"], adata.obsm["X_other"][5:])
        assert list(processed.obs["cell_type"]) == list(adata.obs["cell_type"][5:])

    def test_view(self, adata):
        view = adata[20:90]
        processed = run(view)
        assert view.is_view
        assert processed.n_obs == 70

    def test_result_can_be_written(self, adata, tmp_path):
        run(adata).write_h5ad(tmp_path / "a.h5ad")
        found = ad.read_h5ad(tmp_path / "a.h5ad").uns["transanno_preprocess"]
        assert found["cells"]["too_few_genes"] == 5
        assert found["arguments"]["batch_key"] == "batch"


class TestVocabulary:
    def test_genes_are_those_of_the_vocabulary(self, adata):
        vocabulary = [*adata.var_names[::-1][:40], "NEW1", "NEW2"]
        processed = run(adata, vocabulary=vocabulary, n_top_genes=None)
        assert list(processed.var_names) == vocabulary
        assert list(processed.var_names[processed.var["is_missing"]]) == ["NEW1", "NEW2"]
        assert "highly_variable" not in processed.var
        assert processed.uns["transanno_preprocess"]["genes"] == {
            "before": 53,
            "not_in_vocabulary": 13,
            "missing": 2,
            "after": 42,
        }

    def test_rare_genes_are_measured(self, adata):
        """A gene in one cell is kept, and the total is that of all genes."""
        processed = run(adata, vocabulary=list(adata.var_names[20:]), n_top_genes=None)
        assert not processed.var["is_missing"].any()
        kept = adata[processed.obs_names].X.toarray()
        expected = np.log1p(1e4 * kept / kept.sum(axis=1, keepdims=True))[:, 20:]
        np.testing.assert_allclose(processed.X.toarray(), expected, rtol=1e-5)
        np.testing.assert_array_equal(processed.layers["counts"].toarray(), kept[:, 20:])


class TestRefused:
    def test_values_that_are_no_counts(self, adata):
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        with pytest.raises(ValueError, match="adata.X looks log1p-normalized"):
            run(adata)

    def test_default_threshold_on_a_panel(self, adata):
        with pytest.raises(ValueError, match=r"No cell has counts in 200 genes; the most that one has are \d+, of 53"):
            pp.preprocess(adata)

    def test_no_gene_left(self, adata):
        with pytest.raises(ValueError, match="No gene has counts in 1000 of the 92 cells"):
            run(adata, min_cells=1000)

    def test_many_cells_removed(self, adata):
        median = int(np.median(adata.X.getnnz(axis=1)))
        with pytest.warns(UserWarning, match=f"of 97 cells have counts in fewer than {median + 1} genes"):
            run(adata, min_genes=median + 1)

    def test_both_choices_of_genes(self, adata):
        with pytest.raises(ValueError, match="n_top_genes=23 and vocabulary both"):
            run(adata, vocabulary=adata.var_names)

    def test_missing_keys(self, adata):
        with pytest.raises(KeyError, match="layer='counts' is not a layer of adata"):
            run(adata, layer="counts")
        with pytest.raises(KeyError, match="batch_key='bach' is not a column.*Did you mean 'batch'"):
            run(adata, batch_key="bach")

    def test_no_x(self, adata):
        empty = ad.AnnData(obs=adata.obs, var=adata.var)
        with pytest.raises(ValueError, match="adata has no X"):
            run(empty)


def test_chosen_genes_are_those_of_select_genes(adata):
    processed = run(adata, min_genes=0, min_cells=0)
    assert list(processed.var_names) == list(tl.select_genes(adata, n_top_genes=23, batch_key="batch"))
