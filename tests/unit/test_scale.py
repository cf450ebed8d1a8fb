from __future__ import annotations

import math

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from transanno.data._find_counts import find_counts, judge_source, known_totals
from transanno.data._restore import restore_counts, row_chunks, undo_logs
from transanno.data._scale import detect_scale, sampled_rows

N_OBS, N_VARS = 43, 31


@pytest.fixture
def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(0.7, 3.0, size=N_VARS), size=(N_OBS, N_VARS)).astype(np.float32)


def scaled_to(counts: np.ndarray, target: float) -> np.ndarray:
    return counts / counts.sum(axis=1, keepdims=True) * np.float32(target)


def log2p1(x: np.ndarray) -> np.ndarray:
    return (np.log1p(x) / np.log(2)).astype(np.float32)


KINDS = [
    pytest.param(lambda x: x, "counts", "raw counts", id="counts"),
    pytest.param(lambda x: x.astype("int64"), "counts", "raw counts", id="int64"),
    pytest.param(lambda x: x > 0, "counts", "raw counts", id="bool"),
    pytest.param(lambda x: np.where(x > 5, x - 0.25, x), "fractional counts", "fractional counts", id="fractional"),
    pytest.param(lambda x: scaled_to(x, 1e4), "normalized", "normalized to 10,000 counts per cell", id="CP10k"),
    pytest.param(lambda x: scaled_to(x, 700), "normalized", "normalized to 700 counts per cell", id="CP700"),
    pytest.param(lambda x: np.log1p(scaled_to(x, 1e4)), "log1p", "log1p (natural) of 10,000 counts", id="log1p"),
    pytest.param(lambda x: log2p1(scaled_to(x, 1e6)), "log1p", "log1p (base 2) of 1,000,000 counts", id="log2 CPM"),
    pytest.param(lambda x: np.log1p(x), "log1p", "log1p (natural) of counts scaled per cell", id="log1p of counts"),
    pytest.param(
        lambda x: np.log1p(np.log1p(scaled_to(x, 1e4))), "double log1p", "log1p taken twice (natural, then", id="twice"
    ),
    pytest.param(lambda x: (x - x.mean(0)) / (x.std(0) + 1), "scaled", "negative values", id="scaled"),
    pytest.param(lambda x: x * 0, "empty", "zeros only", id="zeros"),
    pytest.param(lambda x: np.where(x == 2, np.nan, x), "not finite", "NaN or infinite", id="NaN"),
    pytest.param(lambda x: np.where(x == 2, np.inf, x), "not finite", "NaN or infinite", id="inf"),
    pytest.param(
        lambda x: np.r_[x[:20], np.log1p(scaled_to(x[20:], 1e4))], "mixed", "counts in some cells", id="mixed"
    ),
]


class TestDetect:
    @pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
    @pytest.mark.parametrize(("change", "kind", "text"), KINDS)
    def test_every_scale_is_told(self, change, kind, text, container, counts):
        """Complaints 15, 16, 17, 44, 48."""
        scale = detect_scale(container(change(counts)))
        assert scale.kind == kind
        assert text in str(scale)

    def test_values_far_beyond_logarithms_do_not_overflow(self, counts):
        """Complaint 12: expm1 of a large count is infinite; here a warning would be an error."""
        counts[:, 0] = 3.7e6
        assert detect_scale(counts).kind == "counts"
        noise = np.random.default_rng(0).uniform(0.5, 2, counts.shape)
        assert detect_scale(counts * noise).kind == "unknown"
        assert undo_logs(counts.ravel(), (math.e,)) is None
        assert undo_logs(np.full(3, 30.0), (math.e, math.e)) is None

    def test_logged_values_that_are_no_counts_keep_their_target(self, counts):
        values = np.log1p(scaled_to(counts / np.random.default_rng(1).uniform(0.3, 3, N_VARS), 1e4))
        scale = detect_scale(values)
        assert (scale.kind, scale.is_restorable) == ("log1p", False)
        assert scale.target_sum == pytest.approx(1e4, rel=1e-3)

    def test_a_noted_base_is_tried(self, counts):
        values = np.log1p(scaled_to(counts, 1e4)) / np.float32(np.log(3))
        assert not detect_scale(values).is_restorable
        assert detect_scale(values, log_base=3.0).is_restorable

    @pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix])
    def test_only_a_sample_is_looked_at(self, container):
        """Cheap enough for every prediction: 256 cells, from the first to the last."""
        matrix = container(np.repeat(np.arange(1.0, 1001.0)[:, None], 3, axis=1))
        sample = sampled_rows(matrix).toarray()
        assert len(sample) == 256
        assert sample[[0, -1], 0].tolist() == [1, 1000]

    def test_half_precision_is_read(self, counts):
        assert detect_scale(counts.astype("float16")).kind == "counts"
        assert detect_scale(np.log1p(scaled_to(counts, 1e4)).astype("float16")).kind == "log1p"

    def test_a_single_cell_is_enough(self, counts):
        assert detect_scale(np.log1p(scaled_to(counts[:1], 1e4))).is_restorable

    def test_cells_without_counts_do_not_matter(self, counts):
        counts[::2] = 0
        totals = counts.sum(axis=1, keepdims=True).clip(1)
        scale = detect_scale(np.log1p(counts / totals * 1e4))
        assert scale.is_restorable
        assert scale.target_sum == pytest.approx(1e4, rel=1e-3)


class TestRestore:
    def test_a_selection_of_genes_is_restored(self, counts):
        """Complaint 16: normalized over all genes, then only some kept."""
        values = np.log1p(scaled_to(counts, 1e4))[:, ::2]
        expected = counts[:, ::2]
        is_told = (expected == 1).any(axis=1)
        found = restore_counts(values, (math.e,)).counts.toarray()
        np.testing.assert_array_equal(found[is_told], expected[is_told])

    def test_cells_of_one_value_are_counted_as_ambiguous(self, counts):
        counts[0], counts[0, :5] = 0, 3
        restored = restore_counts(np.log1p(scaled_to(counts, 1e4)), (math.e,))
        assert restored.is_ambiguous.nonzero()[0].tolist() == [0]
        assert restored.counts.toarray()[0].max() == 1
        totals = counts.sum(axis=1)
        restored = restore_counts(np.log1p(scaled_to(counts, 1e4)), (math.e,), totals=totals)
        assert not restored.is_ambiguous.any()
        np.testing.assert_array_equal(restored.counts.toarray(), counts)

    def test_totals_of_other_genes_are_not_used(self, counts):
        totals = counts.sum(axis=1) * 2 + 1
        found = restore_counts(np.log1p(scaled_to(counts, 1e4)), (math.e,), totals=totals)
        np.testing.assert_array_equal(found.counts.toarray(), counts)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
    def test_values_that_cannot_be_counts_are_refused(self, bad, counts):
        values = scaled_to(counts, 1e4)
        values[40, 3] = bad
        assert restore_counts(values) is None

    def test_few_odd_cells_are_rounded_and_told(self, counts):
        counts = np.tile(counts, (5, 1))
        values = scaled_to(counts, 1e4)
        values[7] *= np.random.default_rng(0).uniform(0.5, 2, N_VARS)
        restored = restore_counts(values)
        assert restored.is_inexact.nonzero()[0].tolist() == [7]
        others = np.arange(len(counts)) != 7
        np.testing.assert_array_equal(restored.counts.toarray()[others], counts[others])

    def test_chunks_hold_all_rows_without_zeros(self, counts):
        matrix = sp.csr_matrix(counts)
        matrix.data[::3] = 0
        chunks = list(row_chunks(matrix, size=7))
        assert [start for start, _ in chunks] == list(range(0, N_OBS, 7))
        assert all((chunk.data != 0).all() for _, chunk in chunks)
        np.testing.assert_array_equal(sp.vstack([chunk for _, chunk in chunks]).toarray(), matrix.toarray())


class TestFindCounts:
    @pytest.fixture
    def logged(self, counts) -> ad.AnnData:
        names = [f"G{i}" for i in range(N_VARS)]
        return ad.AnnData(np.log1p(scaled_to(counts, 1e4)), var=pd.DataFrame(index=names))

    def test_counts_are_left_alone(self, counts):
        adata = ad.AnnData(counts)
        source = find_counts(adata, layer=None, name="adata")
        assert source.adata is adata
        assert source.note is None

    def test_a_layer_of_counts_comes_before_restoring(self, logged, counts):
        logged.layers["counts"] = counts
        source = find_counts(logged, layer=None, name="adata")
        assert (source.layer, source.restored) == ("counts", None)
        assert 'layers["counts"]' in source.note

    def test_raw_counts_come_before_restoring(self, logged, counts):
        """Complaint 13: the real cause is named, and ``raw`` used where it helps."""
        logged.raw = ad.AnnData(counts, var=logged.var)
        logged = logged[:, :11].copy()
        source = find_counts(logged, layer=None, name="adata")
        np.testing.assert_array_equal(source.matrix, counts)
        assert "adata.raw are used, with its 31 genes" in source.note

    def test_raw_is_restored_where_x_is_scaled(self, logged, counts):
        logged.raw = logged
        logged = logged[:, :11].copy()
        logged.X = (logged.X - logged.X.mean(axis=0)) / (logged.X.std(axis=0) + 1)
        source = find_counts(logged, layer=None, name="adata")
        np.testing.assert_array_equal(source.matrix.toarray(), counts)
        assert "scaled: negative values" in source.note
        assert "restored from adata.raw, which is log1p (natural) of 10,000 counts" in source.note

    def test_of_a_named_layer_only_that_layer_is_used(self, logged, counts):
        logged.layers["mine"], logged.layers["counts"] = np.full(logged.shape, -1.5), counts
        source = find_counts(logged, layer="mine", name="adata")
        assert (source.adata, source.layer, source.note) == (logged, "mine", None)

    def test_counts_and_logarithms_together_are_refused(self, logged, counts):
        logged.X[:20] = counts[:20]
        source = find_counts(logged, layer=None, name="adata")
        with pytest.raises(ValueError, match="whole numbers in some cells and fractions in others"):
            judge_source(source, logged, None, name="adata")

    def test_totals_are_read_if_they_are_whole(self):
        assert known_totals(pd.DataFrame({"n_counts": [3.0, 5.0]})).tolist() == [3, 5]
        assert known_totals(pd.DataFrame({"total_counts": [3.5, 5.0]})) is None
        assert known_totals(pd.DataFrame({"n_counts": [np.nan, 5.0], "nUMI": [1, 2]})).tolist() == [1, 2]
        assert known_totals(pd.DataFrame({"n_counts": ["a", "b"]})) is None
