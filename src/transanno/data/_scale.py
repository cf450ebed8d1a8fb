"""On which scale values are: counts, normalized, logged once or twice, or scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sp

from transanno.checks._data import (
    LOG_MAXIMUM,
    MOSTLY_FRACTIONAL,
    ROUNDING_TOLERANCE,
    ValueStats,
    common_total,
    is_few,
    value_stats,
)
from transanno.data._precision import Precision, precision_of, restore_rounded_rows
from transanno.data._restore import MIN_EXACT, readable, restore_rows, rounding_errors, row_chunks, undo_logs

# Cells that detection looks at; spread over the data, since parts may differ.
_N_SAMPLED = 256
_BASES = (math.e, 2.0, 10.0)
_MANY = 0.05
# Mean over cells of the logarithm of the chance that what is no count would look like one, from which on it is believed.
_DOUBT = -12.0
# A unit of fewer last decimals says nothing.
_COARSE = 10


@dataclass(frozen=True)
class Scale:
    """What the values of a matrix are."""

    kind: str
    """``"counts"``, ``"fractional counts"``, ``"normalized"``, ``"log1p"``, ``"double log1p"``, ``"scaled"``, ``"mixed"``,
    ``"negative counts"``, ``"not finite"``, ``"empty"`` or ``"unknown"``"""
    bases: tuple[float, ...] = ()
    """bases of the logarithms that were taken, the last first"""
    target_sum: float | None = None
    """total that all cells share without the logarithm, if they do"""
    is_restorable: bool = False
    """whether the sampled cells are whole multiples of a unit, and therefore of known counts"""
    precision: Precision | None = None
    """how the values were rounded, where counts only follow from them within that rounding"""
    stats: ValueStats = ValueStats()
    """what the values of the sampled cells are like"""

    def __str__(self) -> str:
        total = f"{self.target_sum:,.7g} counts per cell" if self.target_sum is not None else "counts scaled per cell"
        names = {math.e: "natural", 2.0: "base 2", 10.0: "base 10"}
        logs = ", then ".join(names.get(base, f"base {base:g}") for base in reversed(self.bases))
        text = {
            "counts": "raw counts",
            "fractional counts": "fractional counts, as of RSEM or ambient correction",
            "normalized": f"normalized to {total}, not logged"
            if self.target_sum
            else "counts scaled per cell, not logged",
            "log1p": f"log1p ({logs}) of {total}" if self.bases else "log1p of normalized counts",
            "double log1p": f"log1p taken twice ({logs}) of {total}",
            "scaled": "scaled: negative values",
            "negative counts": "counts, but some are negative",
            "mixed": "counts in some cells, fractions in others",
            "not finite": "NaN or infinite values",
            "empty": "zeros only",
            "unknown": "neither counts nor a known normalization",
        }[self.kind]
        return text if self.precision is None else f"{text}, stored with {self.precision}"


def detect_scale(matrix: Any, *, log_base: float | None = None) -> Scale:
    """Dense or sparse, in memory or on disk ``(n_obs, n_vars)`` -> scale, by a sample of the cells.

    ``log_base`` is one more base to try, such as the one that scanpy writes to ``uns["log1p"]["base"]``.
    """
    if matrix.dtype.kind in "bu":
        return Scale("counts")
    sample = sampled_rows(matrix)
    values = sample.data
    if values.size == 0:
        return Scale("empty")
    if not np.isfinite(values).all():
        return Scale("not finite")
    return replace(_scale_of(sample, log_base), stats=value_stats(values))


def _scale_of(sample: sp.csr_matrix, log_base: float | None) -> Scale:
    """Some cells with finite values, none of them zero -> scale."""
    values = sample.data.astype(np.float64)
    is_fractional = np.abs(values - np.rint(values)) > ROUNDING_TOLERANCE
    is_negative = values < -ROUNDING_TOLERANCE
    if is_negative.any():
        is_fault = is_few(int(np.count_nonzero(is_negative)), values.size) and not is_fractional[is_negative].any()
        return Scale("negative counts" if is_fault and is_fractional.mean() < MOSTLY_FRACTIONAL else "scaled")
    if not is_fractional.any():
        return Scale("counts")
    share, is_split = (
        is_fractional.mean(),
        _is_split(_sums_by_row(is_fractional, sample.indptr), np.diff(sample.indptr)),
    )
    if share < MOSTLY_FRACTIONAL and not is_split:
        # Before any unit is looked for: halves, as of reads that fit two genes, are multiples of a half.
        return Scale("fractional counts")
    precision = precision_of(sample.data[sample.data > 0])
    sample = sp.csr_matrix((np.maximum(values, 0.0), sample.indices, sample.indptr), shape=sample.shape)
    sample.eliminate_zeros()
    restored = _restorable_scale(sample, log_base, precision)
    if restored is None and not is_split:
        restored = _rounded_scale(sample, log_base, precision)
    if restored is not None:
        return restored
    if is_split:
        return Scale("mixed")
    return _scale_by_total(sample, log_base) or (Scale("log1p") if values.max() < LOG_MAXIMUM else Scale("unknown"))


def sampled_rows(matrix: Any, n: int = _N_SAMPLED) -> sp.csr_matrix:
    """-> at most ``n`` rows, spread evenly, as CSR without stored zeros; columns instead for a CSC file."""
    matrix = readable(matrix)
    if getattr(matrix, "format", None) == "csc" and not sp.issparse(matrix):
        matrix = matrix[:, :n]  # whole columns are what can be read of it in reasonable time
    elif matrix.shape[0] > n:
        matrix = matrix[np.unique(np.linspace(0, matrix.shape[0] - 1, n).astype(int))]
    return sp.vstack([chunk for _, chunk in row_chunks(matrix)], format="csr")


def _candidates(log_base: float | None) -> list[tuple[float, ...]]:
    """Bases of the logarithms that may have been taken, the likely first."""
    bases = [*_BASES, *([log_base] if log_base and log_base > 1 and log_base not in _BASES else [])]
    return [(), *((base,) for base in bases), *product(_BASES[:2], repeat=2)]


def _restorable_scale(sample: sp.csr_matrix, log_base: float | None, precision: Precision | None) -> Scale | None:
    """The transformation after whose inverse all cells are multiples of a unit, with the smallest of these."""
    best: tuple[float, Scale] | None = None
    n_cells = np.count_nonzero(np.diff(sample.indptr))
    for bases in _candidates(log_base):
        values = undo_logs(sample.data, bases)
        if values is None:
            continue
        counts, is_inexact, _, smallest = restore_rows(values, sample.indptr)
        if not bases and precision is not None and precision.decimals is not None:
            unit = values / np.maximum(counts, 1) * 10.0**precision.decimals
            if (unit < _COARSE).all() and np.allclose(unit, np.rint(unit), rtol=1e-5, atol=0):
                continue  # multiples of the last decimal, which everything is that was rounded to it
        if np.count_nonzero(is_inexact) > (1 - MIN_EXACT) * n_cells:
            continue
        effort = float(smallest[smallest > 0].mean())
        if best is None or effort < best[0]:
            kind = ("normalized", "log1p", "double log1p")[len(bases)]
            best = effort, Scale(kind, bases, _total(sample, values), is_restorable=True)
    return None if best is None else best[1]


def _rounded_scale(sample: sp.csr_matrix, log_base: float | None, precision: Precision | None) -> Scale | None:
    """The same for values of few digits, of which counts only follow within what was rounded off."""
    if precision is None:
        return None
    best: tuple[float, Scale] | None = None
    n_cells = np.count_nonzero(np.diff(sample.indptr))
    for bases in _candidates(log_base):
        values, errors = undo_logs(sample.data, bases), rounding_errors(sample.data, bases, precision)
        if values is None or errors is None:
            continue
        _, is_inexact, _, _, doubt = restore_rounded_rows(values, errors, sample.indptr)
        mean_doubt = float(doubt.sum()) / n_cells
        if np.count_nonzero(is_inexact) > (1 - MIN_EXACT) * n_cells or mean_doubt > _DOUBT:
            continue
        if best is None or mean_doubt < best[0]:
            kind = ("normalized", "log1p", "double log1p")[len(bases)]
            total = _total(sample, values)
            best = mean_doubt, Scale(kind, bases, total, is_restorable=True, precision=precision)
    return None if best is None else best[1]


def _scale_by_total(sample: sp.csr_matrix, log_base: float | None) -> Scale | None:
    """The transformation after whose inverse all cells have one total, although their values are no counts."""
    for bases in _candidates(log_base):
        values = undo_logs(sample.data, bases)
        if values is None:
            continue
        total = _total(sample, values)
        if total is not None:
            return Scale(("normalized", "log1p", "double log1p")[len(bases)], bases, total)
    return None


def _total(sample: sp.csr_matrix, values: np.ndarray) -> float | None:
    return common_total(sp.csr_matrix((values, sample.indices, sample.indptr), shape=sample.shape))


def _is_split(n_fractional: np.ndarray, n_values: np.ndarray) -> bool:
    """Whether many cells hold whole numbers only, and many hardly any."""
    n_cells = np.count_nonzero(n_values)
    is_whole, is_broken = (n_fractional == 0) & (n_values > 0), n_fractional > 0.9 * n_values
    if np.count_nonzero(is_whole | is_broken) <= (1 - _MANY) * n_cells:
        return False
    return bool(min(np.count_nonzero(is_whole), np.count_nonzero(is_broken)) > _MANY * n_cells)


def _sums_by_row(values: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    return np.diff(np.concatenate([[0], np.cumsum(values)])[indptr])
