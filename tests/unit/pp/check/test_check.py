from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import pp
from transanno.pp import CheckReport


def log_normalize(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def severities(report: CheckReport) -> dict[str, str]:
    return {finding.name: finding.severity for finding in report.findings}


class TestReport:
    def test_good_data_have_nothing_to_say(self, query, reference):
        report = pp.check(query, reference, labels_key="cell_type", batch_key="batch")
        assert set(severities(report).values()) == {"ok"}
        assert report.severity == "ok"
        assert report.is_usable
        assert (report.n_obs, report.n_vars, report.n_shared_genes, report.n_reference_genes) == (61, 53, 53, 53)
        assert report.scale == "raw counts"
        assert report.adata is None
        assert report.fixes == ()

    def test_the_users_objects_are_left_alone(self, query, reference, snapshot, changed):
        query = log_normalize(query)
        query.var["symbol"], query.var_names = list(query.var_names), [f"g{i}" for i in range(53)]
        before, before_reference = snapshot(query), snapshot(reference)
        pp.check(query, reference, labels_key="cell_type", batch_key="batch", fix=True)
        assert changed(before, query) == set()
        assert changed(before_reference, reference) == set()

    def test_what_is_no_data_is_refused(self, query, make_mdata):
        with pytest.raises(TypeError, match=r'mdata\["rna"\]'):
            pp.check(make_mdata())
        with pytest.raises(TypeError, match="reference_or_model is a list"):
            pp.check(query, [1])
        with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
            pp.check(query, query, labels_key="celltype")
        with pytest.raises(KeyError, match="layer='c'"):
            pp.check(query, layer="c")
        with pytest.raises(ValueError, match="0 cells"):
            pp.check(query[:0].copy())


class TestScale:
    @pytest.mark.parametrize("container", [sp.csr_matrix, sp.csc_matrix, np.asarray])
    def test_a_fixed_copy_holds_the_counts(self, container, query):
        """Complaints 11, 16, 24, 44, 48."""
        logged = log_normalize(query)
        logged.X = container(logged.X.toarray())
        report = pp.check(logged, fix=True)
        assert report.restored
        assert report["scale"].severity == "note"
        np.testing.assert_array_equal(report.adata.X.toarray(), query.X.toarray())
        assert "log1p" not in report.adata.uns
        assert "restored" in report.fixes[0]
        pd.testing.assert_frame_equal(report.adata.obs, query.obs)

    def test_a_layer_is_fixed_in_its_place(self, query):
        query.layers["mine"] = log_normalize(query).X
        report = pp.check(query, layer="mine", fix=True)
        np.testing.assert_array_equal(report.adata.layers["mine"].toarray(), query.X.toarray())

    def test_raw_is_fixed_with_its_genes(self, query):
        full = log_normalize(query)
        scaled = full[:, :11].copy()
        scaled.raw = full
        scaled.X = scaled.X.toarray() - 1.0
        scaled.obsm["X_pca"] = np.ones((61, 3))
        fixed = pp.check(scaled, fix=True).adata
        np.testing.assert_array_equal(fixed.X.toarray(), query.X.toarray())
        assert list(fixed.var_names) == list(query.var_names)
        assert list(fixed.obsm) == ["X_pca"]

    def test_the_cells_that_are_wrong_are_named(self, query):
        """Complaint 11: which cells fail, and what to do."""
        query.X = query.X.toarray()
        query.X[[3, 17], 5] = np.nan
        report = pp.check(query)
        assert report["scale"].severity == "error"
        assert "2 NaN or infinite value(s) in 2 of 61 cells, first in row(s) 3, 17" in report["scale"].found
        assert not report.is_usable
        assert report.cells.empty

    def test_fractional_counts_are_accepted_with_a_warning(self, query):
        """Complaint 17."""
        query.X.data[::5] -= 0.3
        assert pp.check(query)["scale"].severity == "warning"
        assert "fractional counts" in pp.check(query)["scale"].found

    @pytest.mark.parametrize("format", ["csr", "csc", "dense"])
    def test_backed_files_are_read_in_pieces(self, format, query, tmp_path):
        """Complaint 12: the whole matrix, also where it is on disk."""
        expected = pp.check(query).cells
        query.X = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda x: x.toarray()}[format](query.X)
        for name, adata in {"counts": query, "log": log_normalize(query)}.items():
            adata.write_h5ad(tmp_path / f"{name}.h5ad")
            backed = ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
            report = pp.check(backed, fix=True)
            pd.testing.assert_frame_equal(report.cells, expected)
            np.testing.assert_array_equal(sp.csr_matrix(report.adata.X).toarray(), sp.csr_matrix(query.X).toarray())
            backed.file.close()


class TestGenes:
    def test_proteins_are_told_and_dropped(self, query, reference):
        """Complaint 14."""
        proteins = ad.AnnData(np.full((61, 2), 900.0, dtype="float32"), obs=query.obs[[]])
        proteins.var_names = ["ADT_CD3", "ADT_CD19"]
        both = ad.concat([query, proteins], axis=1, merge="first")
        report = pp.check(both, reference, fix=True)
        assert "2 features are antibodies" in report["other features"].found
        assert list(report.adata.var_names) == list(query.var_names)
        np.testing.assert_array_equal(report.cells["total"], np.asarray(query.X.sum(axis=1)).ravel())

    def test_a_mapping_renames_genes(self, query, reference):
        """Complaint 20: with a table of orthologs, which is not ours to ship."""
        query.var_names = [f"mouse{i}" for i in range(53)]
        assert pp.check(query, reference)["gene overlap"].severity == "error"
        table = pd.DataFrame({"mouse": query.var_names, "human": reference.var_names})[:47]
        report = pp.check(query, reference, mapping=table, fix=True)
        assert report.n_shared_genes == 47
        assert list(report.adata.var_names[:47]) == list(reference.var_names[:47])
        assert "47 of 53 genes were renamed" in report.fixes[0]

    @pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
    def test_one_name_for_all_genes(self, query):
        query.var_names = ["same"] * 53
        report = pp.check(query, fix=True)
        assert "1 names occur more than once" in report["duplicated genes"].found
        assert report.adata.shape == query.shape

    def test_missing_and_repeated_genes_are_named(self, query, reference):
        """Complaints 19, 23."""
        query = query[:, :30].copy()
        query.var_names = [query.var_names[1], *query.var_names[1:]]
        report = pp.check(query, reference)
        assert report["duplicated genes"].severity == "warning"
        assert "GENE01" in report["duplicated genes"].found
        assert "Only 29 of the 53 genes the reference knows" in report["gene overlap"].found

    def test_another_species_is_told(self, query, reference):
        """Complaint 18: the same upper-case names, but a mouse's."""
        query.var_names = [*query.var_names[:45], *(f"GM{i}" for i in range(1000, 1008))]
        reference.var_names = [*reference.var_names[:45], *(f"LINC0{i}" for i in range(1000, 1008))]
        report = pp.check(query, reference)
        assert report.species == "mouse"
        assert "look like mouse" in report["gene naming"].found
        assert "of the reference like human" in report["gene naming"].found
