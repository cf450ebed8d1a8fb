from __future__ import annotations

import math

import numpy as np
import pytest

from transanno.data._counts import MatrixCounts, in_memory
from transanno.data._restore import NoCounts, RestoredCounts

N_OBS, N_VARS = 43, 31


@pytest.fixture
def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(0.7, 3.0, size=N_VARS), size=(N_OBS, N_VARS)).astype(np.float32)


def scaled_to(counts: np.ndarray, target: float) -> np.ndarray:
    return counts / counts.sum(axis=1, keepdims=True) * np.float32(target)


def restore(values, bases: tuple[float, ...] = (), totals: np.ndarray | None = None):
    """-> counts, read as a whole, and the flags of the cells; None where they cannot be restored."""
    restored = RestoredCounts.of(MatrixCounts(values), bases, totals)
    try:
        return in_memory(restored).matrix, restored
    except NoCounts:
        return None


def test_a_selection_of_genes_is_restored(counts):
    """Complaint 16: normalized over all genes, then only some kept."""
    values = np.log1p(scaled_to(counts, 1e4))[:, ::2]
    expected = counts[:, ::2]
    is_told = (expected == 1).any(axis=1)
    found = restore(values, (math.e,))[0].toarray()
    np.testing.assert_array_equal(found[is_told], expected[is_told])


def test_cells_of_one_value_are_counted_as_ambiguous(counts):
    counts[0], counts[0, :5] = 0, 3
    found, restored = restore(np.log1p(scaled_to(counts, 1e4)), (math.e,))
    assert restored.is_ambiguous.nonzero()[0].tolist() == [0]
    assert found.toarray()[0].max() == 1
    totals = counts.sum(axis=1)
    found, restored = restore(np.log1p(scaled_to(counts, 1e4)), (math.e,), totals)
    assert not restored.is_ambiguous.any()
    np.testing.assert_array_equal(found.toarray(), counts)


def test_totals_of_other_genes_are_not_used(counts):
    totals = counts.sum(axis=1) * 2 + 1
    found, _ = restore(np.log1p(scaled_to(counts, 1e4)), (math.e,), totals)
    np.testing.assert_array_equal(found.toarray(), counts)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_values_that_cannot_be_counts_are_refused(bad, counts):
    values = scaled_to(counts, 1e4)
    values[40, 3] = bad
    assert restore(values) is None


def test_few_odd_cells_are_rounded_and_told(counts):
    counts = np.tile(counts, (5, 1))
    values = scaled_to(counts, 1e4)
    values[7] *= np.random.default_rng(0).uniform(0.5, 2, N_VARS)
    found, restored = restore(values)
    assert restored.is_inexact.nonzero()[0].tolist() == [7]
    others = np.arange(len(counts)) != 7
    np.testing.assert_array_equal(found.toarray()[others], counts[others])


def test_some_cells_are_restored_by_themselves(counts):
    restored = RestoredCounts.of(MatrixCounts(np.log1p(scaled_to(counts, 1e4))), (math.e,))
    some = np.array([40, 3, 17])
    np.testing.assert_array_equal(restored.rows(some).toarray(), counts[some])
