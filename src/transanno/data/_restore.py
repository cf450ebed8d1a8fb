"""From normalized or logged values back to the counts they were made of.

Scaling a cell to a total multiplies its counts by one number, and a logarithm can be undone. What is left of a cell are
multiples of one unit, the value of a gene with a single count, which is nearly always the smallest value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from transanno.data._precision import Precision, restore_rounded_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

# Above this exponent no logarithm of a count was taken; exp of it is far from an overflow.
_MAX_EXPONENT = 40.0
# float32 keeps a doubly logged count to about 6e-6 of its value; fractions are further from a whole number.
_ABSOLUTE, _RELATIVE, _LOOSEST = 1e-3, 1e-5, 0.25
# A unit is first taken from the smallest values, where rounding is safe, and then refined by larger ones.
_REFINEMENTS = (1e2, 1e4, np.inf)
# Smallest counts of a cell that are tried, and the range of counts in which fractions of 1/64 can be told apart.
_MAX_SMALLEST, _SEARCHED = 64, 1e3
_N_SEARCHED = 64
# Share of the cells that have to be whole multiples of their unit.
MIN_EXACT = 0.99

_CELLS_PER_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class RestoredCounts:
    """Counts that normalized or logged values were made of, and how sure they are."""

    counts: sp.csr_matrix
    """``(n_obs, n_vars)``, float32 whole numbers"""
    is_inexact: np.ndarray
    """``(n_obs,)`` bool, cells whose values are no multiples of one unit: their counts are rounded"""
    is_ambiguous: np.ndarray
    """``(n_obs,)`` bool, cells whose values are all the same and whose total is unknown: taken as single counts"""


def undo_logs(values: np.ndarray, bases: tuple[float, ...]) -> np.ndarray | None:
    """Values -> float64 before log(1 + x) was taken to each of ``bases``, the last first; None where that cannot be."""
    values = values.astype(np.float64)
    for base in bases:
        values *= np.log(base)
        if values.size and values.max() > _MAX_EXPONENT:
            return None
        np.expm1(values, out=values)
    return values


def rounding_errors(stored: np.ndarray, bases: tuple[float, ...], precision: Precision) -> np.ndarray | None:
    """-> how far values without their logarithms may be off, because they were rounded when they were stored."""
    low, high = undo_logs(stored, bases), undo_logs(stored + precision.errors(stored), bases)
    return None if low is None or high is None else high - low


def restore_counts(
    matrix: Any,
    bases: tuple[float, ...] = (),
    *,
    totals: np.ndarray | None = None,
    precision: Precision | None = None,
) -> RestoredCounts | None:
    """Values ``(n_obs, n_vars)``, none of them negative -> counts, or None if they are not multiples of a unit.

    ``bases`` are those of the logarithms that were taken, the last first, and ``totals`` ``(n_obs,)`` the numbers of counts
    of the cells if they are known. ``precision`` is how the values were rounded, if they were. A chunk is held as float64 at a time; ``matrix`` may be on disk.
    """
    n_obs = matrix.shape[0]
    parts, inexact, ambiguous = [], np.zeros(n_obs, dtype=bool), np.zeros(n_obs, dtype=bool)
    for start, chunk in row_chunks(matrix):
        stop = start + chunk.shape[0]
        if not np.isfinite(chunk.data).all() or (chunk.data < 0).any():
            return None
        values = undo_logs(chunk.data, bases)
        if values is None:
            return None
        chunk_totals = None if totals is None else totals[start:stop]
        errors = None if precision is None else rounding_errors(chunk.data, bases, precision)
        if errors is None:
            counts, inexact[start:stop], ambiguous[start:stop], _ = restore_rows(values, chunk.indptr, chunk_totals)
        else:
            rounded = restore_rounded_rows(values, errors, chunk.indptr)
            counts, inexact[start:stop], ambiguous[start:stop] = rounded[:3]
        if np.count_nonzero(inexact) > (1 - MIN_EXACT) * n_obs:
            return None
        parts.append(
            sp.csr_matrix((counts.astype(np.float32), chunk.indices, chunk.indptr), shape=chunk.shape, copy=False)
        )
    return RestoredCounts(sp.vstack(parts, format="csr"), inexact, ambiguous)


def without_logs(matrix: Any, bases: tuple[float, ...]) -> sp.csr_matrix | None:
    """Values ``(n_obs, n_vars)`` -> the same before the logarithms were taken, float32; None where none can have been."""
    parts = []
    for _, chunk in row_chunks(matrix):
        values = undo_logs(chunk.data, bases)
        if values is None or not np.isfinite(values).all() or (values < 0).any():
            return None
        parts.append(sp.csr_matrix((values.astype(np.float32), chunk.indices, chunk.indptr), shape=chunk.shape))
    return sp.vstack(parts, format="csr")


def restore_rows(
    values: np.ndarray, indptr: np.ndarray, totals: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positive values of rows that ``indptr`` bounds -> counts of them; inexact, ambiguous, smallest count by row."""
    n_rows = len(indptr) - 1
    rows = np.flatnonzero(np.diff(indptr))
    inexact, ambiguous, smallest = np.zeros(n_rows, bool), np.zeros(n_rows, bool), np.zeros(n_rows)
    if rows.size == 0:
        return values, inexact, ambiguous, smallest
    starts, sizes = indptr[rows], np.diff(indptr)[rows]
    least = np.minimum.reduceat(values, starts)
    counts, is_off = _round(values, least, starts, sizes)
    if is_off.any():
        guesses = least.copy()
        for row in np.flatnonzero(is_off):
            guesses[row] /= _smallest_count(values[starts[row] : starts[row] + sizes[row]])
        counts, is_off = _round(values, guesses, starts, sizes)
    is_single = np.maximum.reduceat(counts, starts) == np.minimum.reduceat(counts, starts)
    if totals is not None:
        counts, is_off, is_known = _use_totals(values, counts, is_off, totals[rows], starts, sizes)
        is_single &= ~is_known
    inexact[rows], ambiguous[rows] = is_off, is_single & ~is_off
    smallest[rows] = np.minimum.reduceat(counts, starts)
    return counts, inexact, ambiguous, smallest


def readable(matrix: Any) -> Any:
    """The matrix, or if it is one that scipy can hold but neither copy nor slice, float16, the same as float32."""
    if sp.issparse(matrix) and matrix.dtype == np.float16:
        return type(matrix)((matrix.data.astype(np.float32), matrix.indices, matrix.indptr), matrix.shape)
    return matrix


def row_chunks(matrix: Any, size: int = _CELLS_PER_CHUNK) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Dense or sparse, in memory or on disk -> first row and CSR without stored zeros, a few thousand cells at a time."""
    if getattr(matrix, "format", None) == "csc" and not sp.issparse(matrix):
        matrix = matrix.to_memory()  # the rows of a CSC file lie all over it
    matrix = readable(matrix)
    if sp.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    for start in range(0, matrix.shape[0], size):
        chunk = matrix[start : start + size]
        if chunk.dtype == np.float16:
            chunk = np.asarray(chunk).astype(np.float32)  # which sparse matrices cannot hold
        if not chunk.dtype.isnative:  # of a file from another kind of machine
            chunk = chunk.astype(chunk.dtype.newbyteorder("="))
        chunk = sp.csr_matrix(chunk if sp.issparse(chunk) else np.asarray(chunk), copy=True)
        chunk.sum_duplicates()
        chunk.eliminate_zeros()
        yield start, chunk


def _round(
    values: np.ndarray, unit: np.ndarray, starts: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values & first guess of the unit of every row -> whole numbers, and the rows where these are far off."""
    ratio = values / np.repeat(unit, sizes)
    largest = np.maximum.reduceat(ratio, starts)
    is_large = largest > _REFINEMENTS[0]
    if is_large.any():  # where the error of the unit, times the count, could matter
        is_in = np.repeat(is_large, sizes)
        ratio[is_in] = _refine(values[is_in], unit[is_large], sizes[is_large], float(largest.max()))
    counts = np.rint(ratio)
    is_off = np.abs(ratio - counts) > np.minimum(_ABSOLUTE + _RELATIVE * ratio, _LOOSEST)
    is_off |= counts < 1
    return counts, np.logical_or.reduceat(is_off, starts)


def _refine(values: np.ndarray, unit: np.ndarray, sizes: np.ndarray, largest: float) -> np.ndarray:
    """Values & units of rows -> values in refined units, by larger and larger counts."""
    starts = np.cumsum(sizes) - sizes
    ratio = values / np.repeat(unit, sizes)
    for limit in _REFINEMENTS:
        weight = np.where(ratio <= limit, np.rint(ratio), 0.0)
        # least squares of value = unit * count
        refined = np.add.reduceat(values * weight, starts) / np.add.reduceat(weight * weight, starts)
        ratio = values / np.repeat(refined, sizes)
        if limit > largest:
            break
    return ratio


def _smallest_count(values: np.ndarray) -> int:
    """Values of a cell without a single count -> its smallest count, at which all are whole; 1 if there is none."""
    ratio: np.ndarray = np.unique(values)[:_N_SEARCHED] / float(values.min())
    for smallest in range(2, _MAX_SMALLEST + 1):
        scaled = ratio[ratio * smallest <= _SEARCHED] * smallest
        if len(scaled) > 1 and (np.abs(scaled - np.rint(scaled)) <= _ABSOLUTE + 2 * _RELATIVE * scaled).all():
            return smallest
    return 1


def _use_totals(
    values: np.ndarray,
    counts: np.ndarray,
    is_off: np.ndarray,
    totals: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts that are a fraction of the known total, or no whole numbers -> counts by the total; rows still off, known.

    A total speaks of these genes only if it is that of most cells; else it was taken over more genes.
    """
    found = np.add.reduceat(counts, starts)
    is_same = ~is_off & (found == totals)
    is_known = is_same.copy()
    n_told = int(np.count_nonzero(~is_off))  # without totals; where none could be, totals are all there is
    if n_told and np.count_nonzero(is_same) < 0.5 * n_told:
        return counts, is_off, np.zeros_like(is_known)
    if (~is_same & (totals > 0)).any():
        unit = np.add.reduceat(values, starts) / np.where(totals > 0, totals, 1.0)
        by_total, total_off = _round(values, unit, starts, sizes)
        total_off |= np.add.reduceat(by_total, starts) != totals
        use = ~is_same & (totals > 0) & ~total_off
        counts = np.where(np.repeat(use, sizes), by_total, counts)
        is_off, is_known = is_off & ~use, is_known | use
    return counts, is_off, is_known
