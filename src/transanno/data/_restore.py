"""From normalized or logged values back to the counts they were made of.

Scaling a cell to a total multiplies its counts by one number, and a logarithm can be undone. What is left of a cell are
multiples of one unit, the value of a gene with a single count, which is nearly always the smallest value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from transanno.data._counts import CELLS_PER_BLOCK, Counts
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


class NoCounts(ValueError):
    """A place turned out not to hold the counts that are wanted, such as values that are no multiples of one unit."""


@dataclass(frozen=True, eq=False)
class RestoredCounts:
    """Counts that normalized or logged values were made of, restored as they are read.

    Raises :class:`NoCounts` when that turns out to be impossible, at the latest when all cells have been read.
    """

    values: Counts
    """none of them negative"""
    bases: tuple[float, ...]
    """of the logarithms that were taken, the last first"""
    totals: np.ndarray | None
    """``(n_obs,)`` numbers of counts of the cells, if they are known"""
    is_inexact: np.ndarray
    """``(n_obs,)`` bool, of the cells read so far those whose values are no multiples of one unit: their counts are rounded"""
    is_ambiguous: np.ndarray
    """``(n_obs,)`` bool, of the cells read so far those whose values are all the same and whose total is unknown: taken as
    single counts"""
    precision: Precision | None = None
    """how the values were rounded, if they were"""

    @classmethod
    def of(
        cls,
        values: Counts,
        bases: tuple[float, ...] = (),
        totals: np.ndarray | None = None,
        precision: Precision | None = None,
    ) -> RestoredCounts:
        """-> counts of which none was read so far."""
        is_inexact, is_ambiguous = np.zeros((2, values.shape[0]), dtype=bool)
        return cls(values, bases, totals, is_inexact, is_ambiguous, precision)

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_obs, n_vars)``"""
        return self.values.shape

    def rows(self, positions: np.ndarray) -> sp.csr_matrix:
        """Positions of cells, in any order -> ``(n_cells, n_vars)``."""
        return self._restore(self.values.rows(positions), positions)

    def blocks(self, n_rows: int = CELLS_PER_BLOCK) -> Iterator[sp.csr_matrix]:
        """All cells in their order, at most so many at a time."""
        start = 0
        for block in self.values.blocks(n_rows):
            yield self._restore(block, np.arange(start, start + block.shape[0]))
            start += block.shape[0]

    @property
    def is_on_disk(self) -> bool:
        """Whether rows are read from a file, or computed, whenever they are asked for."""
        return self.values.is_on_disk

    def _restore(self, block: sp.csr_matrix, positions: np.ndarray) -> sp.csr_matrix:
        if not np.isfinite(block.data).all() or (block.data < 0).any():
            raise NoCounts
        values = undo_logs(block.data, self.bases)
        if values is None:
            raise NoCounts
        errors = None if self.precision is None else rounding_errors(block.data, self.bases, self.precision)
        if errors is None:
            totals = None if self.totals is None else self.totals[positions]
            counts, is_inexact, is_ambiguous, _ = restore_rows(values, block.indptr, totals)
        else:
            counts, is_inexact, is_ambiguous, *_ = restore_rounded_rows(values, errors, block.indptr)
        self.is_inexact[positions], self.is_ambiguous[positions] = is_inexact, is_ambiguous
        if np.count_nonzero(self.is_inexact) > (1 - MIN_EXACT) * self.shape[0]:
            raise NoCounts
        return sp.csr_matrix((counts.astype(np.float32), block.indices, block.indptr), shape=block.shape, copy=False)


@dataclass(frozen=True, eq=False)
class WithoutLogs:
    """Values before the logarithms were taken, which are used as they are where no counts follow from them."""

    values: Counts
    bases: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_obs, n_vars)``"""
        return self.values.shape

    def rows(self, positions: np.ndarray) -> sp.csr_matrix:
        """Positions of cells, in any order -> ``(n_cells, n_vars)``."""
        return self._undo(self.values.rows(positions))

    def blocks(self, n_rows: int = CELLS_PER_BLOCK) -> Iterator[sp.csr_matrix]:
        """All cells in their order, at most so many at a time."""
        for block in self.values.blocks(n_rows):
            yield self._undo(block)

    @property
    def is_on_disk(self) -> bool:
        """Whether rows are read from a file, or computed, whenever they are asked for."""
        return self.values.is_on_disk

    def _undo(self, block: sp.csr_matrix) -> sp.csr_matrix:
        values = undo_logs(block.data, self.bases)
        if values is None or not np.isfinite(values).all() or (values < 0).any():
            raise NoCounts
        return sp.csr_matrix((values.astype(np.float32), block.indices, block.indptr), shape=block.shape)


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
