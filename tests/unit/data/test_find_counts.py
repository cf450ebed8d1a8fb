from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from transanno.data._counts import in_memory
from transanno.data._find_counts import CountsSource, count_sources, known_totals, read_counts
from transanno.data._restore import NoCounts

N_OBS, N_VARS = 43, 31


@pytest.fixture
def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(0.7, 3.0, size=N_VARS), size=(N_OBS, N_VARS)).astype(np.float32)


def scaled_to(counts: np.ndarray, target: float) -> np.ndarray:
    return counts / counts.sum(axis=1, keepdims=True) * np.float32(target)


def first_source(adata: ad.AnnData) -> CountsSource:
    return next(count_sources(adata, layer=None, name="adata"))


@pytest.fixture
def logged(counts) -> ad.AnnData:
    names = [f"G{i}" for i in range(N_VARS)]
    return ad.AnnData(np.log1p(scaled_to(counts, 1e4)), var=pd.DataFrame(index=names))


def test_counts_are_left_alone(counts):
    adata = ad.AnnData(counts)
    source = first_source(adata)
    assert source.counts.matrix is adata.X
    assert source.note is None


def test_a_layer_of_counts_comes_before_restoring(logged, counts):
    logged.layers["counts"] = counts
    source = first_source(logged)
    assert (source.counts.matrix is logged.layers["counts"], source.restored) == (True, None)
    assert 'layers["counts"]' in source.note


def test_raw_counts_come_before_restoring(logged, counts):
    """Complaint 13: the real cause is named, and ``raw`` used where it helps."""
    logged.raw = ad.AnnData(counts, var=logged.var)
    logged = logged[:, :11].copy()
    source = first_source(logged)
    np.testing.assert_array_equal(source.counts.matrix, counts)
    assert "adata.raw are used, with its 31 genes" in source.note


def test_raw_is_restored_where_x_is_scaled(logged, counts):
    logged.raw = logged
    logged = logged[:, :11].copy()
    logged.X = (logged.X - logged.X.mean(axis=0)) / (logged.X.std(axis=0) + 1)
    source = first_source(logged)
    np.testing.assert_array_equal(in_memory(source.counts).matrix.toarray(), counts)
    assert "scaled: negative values" in source.note
    assert "restored from adata.raw, which is log1p (natural) of 10,000 counts" in source.note


def test_of_a_named_layer_only_that_layer_is_used(logged, counts):
    logged.layers["mine"], logged.layers["counts"] = np.full(logged.shape, -1.5), counts
    (source,) = count_sources(logged, layer="mine", name="adata")
    assert source.counts.matrix is logged.layers["mine"]
    assert source.note is None


def test_the_next_place_is_looked_at_where_one_turns_out_to_hold_no_counts(logged, counts):
    logged.raw = logged
    read = []

    def refuse_the_first(source: CountsSource) -> CountsSource:
        read.append(source)
        if len(read) == 1:
            raise NoCounts
        return source

    found = read_counts(logged, refuse_the_first, layer=None, name="adata")
    np.testing.assert_array_equal(in_memory(found.counts).matrix.toarray(), counts)
    assert "adata.raw" in found.note
    assert "adata.raw" not in read[0].note


def test_counts_and_logarithms_together_are_refused(logged, counts):
    logged.X[:20] = counts[:20]
    source = first_source(logged)
    with pytest.raises(ValueError, match="whole numbers in some cells and fractions in others"):
        source.judge()


def test_totals_are_read_if_they_are_whole():
    assert known_totals(pd.DataFrame({"n_counts": [3.0, 5.0]})).tolist() == [3, 5]
    assert known_totals(pd.DataFrame({"total_counts": [3.5, 5.0]})) is None
    assert known_totals(pd.DataFrame({"n_counts": [np.nan, 5.0], "nUMI": [1, 2]})).tolist() == [1, 2]
    assert known_totals(pd.DataFrame({"n_counts": ["a", "b"]})) is None
