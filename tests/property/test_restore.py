"""Counts come back from normalized and logged values exactly, wherever the values can tell."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transanno.data._counts import MatrixCounts, in_memory
from transanno.data._restore import NoCounts, RestoredCounts
from transanno.data._scale import detect_scale

NATURAL, BINARY = math.e, 2.0
LOGS = [(), (NATURAL,), (BINARY,), (10.0,), (NATURAL, NATURAL), (BINARY, BINARY), (NATURAL, BINARY), (BINARY, NATURAL)]


def normalize(counts: np.ndarray, target: float, bases: tuple[float, ...]) -> sp.csr_matrix:
    """In float32 at every step, as scanpy does; ``bases`` are the last first."""
    values = counts.astype(np.float32)
    values = values / (values.sum(axis=1, keepdims=True) / np.float32(target)).clip(np.float32(1e-30))
    for base in reversed(bases):
        values = np.log1p(values)
        if base != NATURAL:
            values = values / np.float32(np.log(base))
    return sp.csr_matrix(values.astype(np.float32))


def restore(values, bases: tuple[float, ...] = (), totals: np.ndarray | None = None):
    """-> counts, read as a whole, and the flags of the cells; None where they cannot be restored."""
    restored = RestoredCounts.of(MatrixCounts(values), bases, totals)
    try:
        return in_memory(restored).matrix, restored
    except NoCounts:
        return None


class Case(NamedTuple):
    counts: np.ndarray
    target: float
    bases: tuple[float, ...]


@st.composite
def cases(draw, *, smallest: int = 1) -> Case:
    """Cells of 7 to 23 genes; each has a gene with the smallest count, and one with a count more than that."""
    seed, n_vars = draw(st.integers(0, 10**6)), draw(st.integers(7, 23))
    rng = np.random.default_rng(seed)
    largest = draw(st.sampled_from([3, 40, 700, 9000]))
    counts = np.exp(rng.uniform(0, np.log(largest), size=(13, n_vars))).astype(int) + smallest - 1
    counts[rng.random(counts.shape) < draw(st.floats(0, 0.7))] = 0
    rows = np.arange(13)
    columns = rng.permuted(np.tile(np.arange(n_vars), (13, 1)), axis=1)
    counts[rows, columns[:, 0]], counts[rows, columns[:, 1]] = smallest, smallest + 1
    target = draw(st.sampled_from([1.0, 100.0, 1e4, 1e6]) | st.floats(0.5, 2e6))
    return Case(counts, target, draw(st.sampled_from(LOGS)))


# Two logarithms to base 2 of a large total: float32 keeps the 8416 to 5.4e-6 of its value.
LARGE = [
    [42, 6, 2, 523, 1, 1, 8416],
    [30, 2, 734, 1243, 45, 4510, 1],
    [10, 2, 92, 2096, 977, 1, 93],
    [69, 11, 479, 43, 2, 1, 1],
    [2, 2, 2, 19, 1, 2398, 1],
    [23, 5, 1, 4622, 527, 32, 2],
    [9, 2, 1, 33, 737, 5, 2009],
]


@settings(max_examples=150, deadline=None)
@given(cases())
@example(Case(np.array(LARGE), 866656.5, (2.0, 2.0)))
def test_counts_are_restored_bit_by_bit(case):
    """Complaints 11, 15, 16, 24, 44, 48: any target, any base, logged once or twice."""
    values = normalize(*case)
    counts, restored = restore(values, case.bases)
    assert counts.dtype == np.float32
    np.testing.assert_array_equal(counts.toarray(), case.counts)
    assert not restored.is_inexact.any()


@settings(max_examples=60, deadline=None)
@given(cases(smallest=2) | cases(smallest=5) | cases(smallest=23))
def test_cells_without_a_single_count_are_restored(case):
    np.testing.assert_array_equal(restore(normalize(*case), case.bases)[0].toarray(), case.counts)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_transformation_is_found_by_itself(case):
    values = normalize(*case)
    scale = detect_scale(values)
    if scale.kind == "counts":  # a target of one total per cell that happens to be theirs
        np.testing.assert_array_equal(values.toarray(), np.rint(values.toarray()))
        return
    assert scale.is_restorable
    np.testing.assert_array_equal(restore(values, scale.bases)[0].toarray(), case.counts)


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(2, 9))
def test_the_total_tells_what_the_values_cannot(case, factor):
    """Without a single count, and all counts multiples of a number: only the total of a cell says of which."""
    counts = case.counts.copy()
    counts[:3] *= factor
    values = normalize(counts, *case[1:])
    totals = counts.sum(axis=1).astype(float)
    np.testing.assert_array_equal(restore(values, case.bases)[0].toarray(), case.counts)
    np.testing.assert_array_equal(restore(values, case.bases, totals)[0].toarray(), counts)


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 10**6))
def test_what_is_no_multiple_of_a_unit_is_refused(case, seed):
    lengths = np.random.default_rng(seed).uniform(0.3, 3.0, size=case.counts.shape[1])
    counts = np.where(case.counts == 0, 0, case.counts) / lengths
    counts[:, :6] += np.sqrt(2) * np.arange(1, 7)
    values = normalize(counts, *case[1:])
    assert restore(values, case.bases) is None
    assert not detect_scale(values).is_restorable
