from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import pp


def log_normalize(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


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
