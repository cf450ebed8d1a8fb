"""Values that were written with few digits, as text files and half precision keep them, and the counts within their rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Decimals and significant digits that are tried, the fewest first; float32 keeps about seven digits.
_DECIMALS, _DIGITS = (1, 2, 3, 4, 5), (3, 4, 5)
# How far from a multiple of the last digit float32 may be, in units of it, and the relative precision of float32.
_TOLERANCE, _RELATIVE = 0.02, 1.2e-7
# Fewer different values are multiples of anything.
_MIN_DIFFERENT = 30
# A unit comes from values whose count is certain at least to this, and is refined as often.
_CERTAIN, _N_REFINEMENTS = 0.35, 5
# Smallest counts of a cell that are tried, and how far beyond its rounding a value may be.
_MAX_SMALLEST, _MARGIN, _ABSOLUTE = 8, 1.1, 2e-3


@dataclass(frozen=True)
class Precision:
    """How values were rounded; None where that is not how."""

    decimals: int | None = None
    digits: int | None = None
    """significant digits"""
    is_half: bool = False
    """whether they fit into half precision"""

    def __str__(self) -> str:
        if self.decimals is not None:
            return f"{self.decimals} decimal{'s' if self.decimals > 1 else ''}"
        return "half precision" if self.digits is None else f"{self.digits} significant digits"

    def errors(self, stored: np.ndarray) -> np.ndarray:
        """-> how far each value may be from what it was before it was rounded, of the shape of ``stored``."""
        values = stored.astype(np.float64)
        errors = np.zeros(values.shape)
        if self.decimals is not None:
            errors = np.full(values.shape, 0.5 * 10.0**-self.decimals)
        if self.digits is not None:  # of values of the same size, both are the same
            errors = np.maximum(errors, 0.5 * 10.0 ** (_exponents(values) + 1 - self.digits))
        if self.is_half:
            errors = np.maximum(errors, 0.5 * np.spacing(values.astype(np.float16)).astype(np.float64))
        return errors


def precision_of(stored: np.ndarray) -> Precision | None:
    """Positive values as they are stored -> the fewest digits that hold all of them; None if they have all of theirs."""
    values = np.unique(stored.astype(np.float64))
    if values.size < _MIN_DIFFERENT:
        return None
    decimals = next((n for n in _DECIMALS if _are_whole(values * 10.0**n)), None)
    digits = next((n for n in _DIGITS if _are_whole(values * 10.0 ** (n - 1 - _exponents(values)))), None)
    is_half = bool(values[-1] < np.finfo(np.float16).max and (values.astype(np.float16) == values).all())
    return None if decimals is None and digits is None and not is_half else Precision(decimals, digits, is_half)


def _are_whole(scaled: np.ndarray) -> bool:
    tolerance = _TOLERANCE + _RELATIVE * scaled
    return bool(tolerance.max() < 0.25 and (np.abs(scaled - np.rint(scaled)) <= tolerance).all())


def _exponents(values: np.ndarray) -> np.ndarray:
    return np.floor(np.log10(np.maximum(values, 1e-30)) + 1e-9)


def restore_rounded_rows(
    values: np.ndarray, errors: np.ndarray, indptr: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positive values of rows, and how far they may be off -> counts; inexact, ambiguous, smallest count, doubt by row.

    The doubt is the logarithm of the chance that values which are no counts would have looked like them.
    """
    n_rows = len(indptr) - 1
    rows = np.flatnonzero(np.diff(indptr))
    inexact, ambiguous = np.zeros(n_rows, bool), np.zeros(n_rows, bool)
    smallest, doubt = np.zeros(n_rows), np.zeros(n_rows)
    if rows.size == 0:
        return values, inexact, ambiguous, smallest, doubt
    starts, sizes = indptr[rows], np.diff(indptr)[rows]
    least = np.minimum.reduceat(values, starts)
    counts, is_off, chance = _round(values, errors, least, starts, sizes)
    for guess in range(2, _MAX_SMALLEST + 1):
        if not is_off.any():
            break
        other, still_off, other_chance = _round(values, errors, least / guess, starts, sizes)
        is_better = is_off & ~still_off
        counts = np.where(np.repeat(is_better, sizes), other, counts)
        chance = np.where(is_better, other_chance, chance)
        is_off &= still_off
    low, high = np.minimum.reduceat(counts, starts), np.maximum.reduceat(counts, starts)
    inexact[rows], ambiguous[rows] = is_off, (low == high) & ~is_off
    smallest[rows], doubt[rows] = low, chance
    return counts, inexact, ambiguous, smallest, doubt


def _round(
    values: np.ndarray, errors: np.ndarray, unit: np.ndarray, starts: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, their errors & first guess of the unit of every row -> whole numbers, rows that are off, chance of that."""
    # All values of one count are rounded alike: only the first of equal values tells anything of the unit.
    is_first = _are_first(values, sizes)
    doubt = np.minimum.reduceat(errors, starts) / unit
    for _ in range(_N_REFINEMENTS):
        ratio, error = values / np.repeat(unit, sizes), errors / np.repeat(unit, sizes)
        is_certain = is_first & (error + ratio * np.repeat(doubt, sizes) < _CERTAIN)
        # weighted least squares of value = unit * count
        weight = np.where(is_certain, np.rint(ratio) / errors, 0.0)
        precision = np.add.reduceat(weight * weight, starts)
        found = np.add.reduceat(weight * values / errors, starts) / np.where(precision > 0, precision, 1.0)
        unit = np.where(precision > 0, found, unit)
        # two standard deviations of the unit, as a share of it
        doubt = np.where(precision > 0, 2 / np.sqrt(3 * np.maximum(precision, 1e-300)) / unit, doubt)
    ratio, error = values / np.repeat(unit, sizes), errors / np.repeat(unit, sizes)
    counts = np.maximum(np.rint(ratio), 1.0)
    tolerance = _ABSOLUTE + _MARGIN * error + 1.5 * ratio * np.repeat(doubt, sizes)
    is_off = np.logical_or.reduceat(np.abs(ratio - counts) > tolerance, starts)
    chance = np.add.reduceat(np.where(is_first, np.log(np.minimum(2 * tolerance, 1.0)), 0.0), starts)
    return counts, is_off, chance


def _are_first(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """-> which values are the first of their kind in their row."""
    rows = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((values, rows))
    is_new = np.ones(len(values), dtype=bool)
    is_new[1:] = (np.diff(rows[order]) != 0) | (np.diff(values[order]) != 0)
    is_first = np.empty_like(is_new)
    is_first[order] = is_new
    return is_first
