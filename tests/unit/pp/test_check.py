from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import pp
from transanno.pp import CheckReport, Finding
from transanno.pp._check._overlap import coverage, deciding_by_mean, what_is_known


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

    def test_printing_shows_an_aligned_table(self, query, reference):
        text = str(pp.check(log_normalize(query)[:, :9].copy(), reference, labels_key="cell_type"))
        lines = text.splitlines()
        assert lines[0] == "61 cells x 9 features: not usable as they are (1 error)"
        assert max(map(len, lines)) <= 110
        column = next(line.index("note") for line in lines if line.startswith("scale"))
        starts = [line for line in lines[2:] if line.startswith(("scale", "gene", "empty", "outliers"))]
        assert len(starts) == 6
        assert {line[column:].split()[0] for line in starts} == {"ok", "note", "warning", "error"}
        assert "lacks " in text

    def test_findings_are_found_by_name(self, query):
        report = pp.check(query)
        assert isinstance(report["scale"], Finding)
        with pytest.raises(KeyError, match="'scales'; there are 'scale'"):
            report["scales"]
        assert list(report.to_frame().columns) == ["check", "severity", "found", "what to do"]
        assert len(report.to_frame()) == len(report.findings)

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


class TestCoverage:
    def test_deciding_genes_are_those_of_largest_difference(self):
        counts = sp.csr_matrix(np.array([[8, 1, 1, 0], [8, 1, 1, 0], [1, 8, 1, 0], [1, 1, 1, 7.0]]))
        found = deciding_by_mean(
            counts, np.array([0, 0, 1, -1]), np.array(["a", "b"], dtype=object), pd.Index(list("wxyz"))
        )
        assert found == {"a": ["w"], "b": ["x"]}

    def test_of_every_class_the_measured_share_is_told(self, query, reference):
        known = what_is_known(reference, layer=None, labels_key="cell_type").deciding
        assert set(known) == {"B cell", "NK cell", "T cell"}
        query = query[:, ~query.var_names.isin(known["B cell"])].copy()
        report = pp.check(query, reference, labels_key="cell_type")
        table = report.class_coverage
        assert table.loc["B cell", "n_measured"] == 0
        assert table.loc["B cell", "missing"].split(", ") == known["B cell"]
        assert "B cell (0%)" in report["gene overlap by type"].found
        assert (table["n_genes"] == 5).all()

    def test_a_type_without_deciding_genes_has_no_share(self):
        assert np.isnan(coverage({"a": []}, set()).loc["a", "share"])

    def test_a_model_tells_with_and_without_its_data(self, model, saved_reference, query, reference):
        by_data = pp.check(query, reference, labels_key="cell_type").class_coverage
        pd.testing.assert_frame_equal(pp.check(query, model).class_coverage, by_data)
        from_data = what_is_known(model, layer=None, labels_key=None).deciding
        from_weights = what_is_known(saved_reference, layer=None, labels_key=None).deciding
        assert set(from_weights) == set(from_data)
        # five of 53 genes: by chance half a gene would agree
        agree = [len(set(from_data[name]) & set(from_weights[name])) for name in from_data]
        assert np.mean(agree) > 2

    def test_a_pretrained_model_knows_genes_only(self, pretrained, query):
        report = pp.check(query, pretrained)
        assert report.n_shared_genes == 53
        assert report.class_coverage is None


class TestCells:
    def test_empty_cells_and_outliers_are_flagged(self, make_adata):
        adata = make_adata(211)
        x = adata.X.toarray()
        x[[5, 7]] = 0
        x[9], x[9, 0] = 0, 4
        x[11] = 50 * x[11] + 300
        adata.X = sp.csr_matrix(x)
        report = pp.check(adata)
        assert np.flatnonzero(report.cells["is_empty"]).tolist() == [5, 7]
        assert np.flatnonzero(report.cells["is_near_empty"]).tolist() == [9]
        assert "2 cells without any count, 1 with counts in fewer than" in report["empty cells"].found
        assert report.cells.index.equals(adata.obs_names)

    def test_doublets_of_many_cells_stand_out(self):
        rng = np.random.default_rng(0)
        x = rng.poisson(0.3, size=(301, 503))
        x[13] = rng.poisson(30, size=503)
        report = pp.check(ad.AnnData(x.astype("float32")))
        assert np.flatnonzero(report.cells["is_outlier"]).tolist() == [13]
        assert "5 median absolute deviations" in report["outliers"].found

    def test_cells_of_the_reference_are_found_in_the_query(self, query, reference):
        both = ad.concat([query, reference[3:10]])
        both = both[:, ::-1].copy()
        report = pp.check(both, reference)
        assert np.flatnonzero(report.cells["is_duplicate"]).tolist() == list(range(61, 68))
        assert report["duplicated cells"].severity == "warning"
        logged = log_normalize(both)
        assert np.flatnonzero(pp.check(logged, reference).cells["is_duplicate"]).tolist() == list(range(61, 68))
        assert "the reference itself" in pp.check(reference, reference)["duplicated cells"].found


class TestBatches:
    def test_missing_batches_are_a_batch(self, query):
        """Complaint 40."""
        query.obs["batch"] = query.obs["batch"].where(np.arange(61) > 4)
        finding = pp.check(query, batch_key="batch")["batches"]
        assert finding.severity == "note"
        assert "3 batches" in finding.found
        assert "5 cells have none" in finding.found

    @pytest.mark.parametrize(
        ("values", "severity", "text"),
        [
            pytest.param(lambda n: np.zeros(n), "note", "nothing to correct for", id="one"),
            pytest.param(lambda n: np.arange(n), "warning", "every cell has a batch of its own", id="one per cell"),
            pytest.param(lambda n: np.arange(n) > 0, "note", "1 batches of a single cell", id="singleton"),
            pytest.param(lambda n: np.arange(n) % 2 * 1.0, "ok", "2 batches of 30 to 31 cells", id="numbers"),
        ],
    )
    def test_columns_of_no_use_are_told(self, values, severity, text, query):
        query.obs["run"] = values(61)
        finding = pp.check(query, batch_key="run")["batches"]
        assert (finding.severity, text in finding.found) == (severity, True)

    def test_batches_that_coincide_with_types_are_told(self, query):
        query.obs["run"] = query.obs["cell_type"].map({"B cell": "x", "NK cell": "y", "T cell": "y"})
        finding = pp.check(query, batch_key="run", labels_key="cell_type")["batches"]
        assert "every type occurs in a single batch" in finding.found

    def test_a_missing_column_is_told(self, query):
        assert "no column 'donor'" in pp.check(query, batch_key="donor")["batches"].found
