"""Whether values can be raw counts: one verdict on all cells, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from transanno.checks._data import listing
from transanno.checks._warn import warn
from transanno.data._counts import Counts, MatrixCounts

# Float formats and (de)compression leave counts such as 2.9999998; real fractions are much further away.
ROUNDING_TOLERANCE = 1e-4
# log1p of counts per million reaches 13.8 and log2 of it 19.9; raw counts of a whole data set go far beyond.
LOG_MAXIMUM = 20
# Normalising or logging turns nearly every value into a fraction; expected counts (RSEM) stay mostly whole.
MOSTLY_FRACTIONAL = 0.5
# Cells count as scaled to one total when their 5th and 95th percentile differ by less than this share of the median.
EQUAL_TOTALS = 0.01

_RAW_COUNTS_CURE = (
    'Pass the raw counts instead: name the layer that holds them, for example layer="counts", '
    "or start from adata.raw.to_adata() if adata.raw holds them. transanno.pp.check(adata) says what the values are, and "
    "with fix=True restores the counts where that is possible."
)


def check_counts(matrix: Any, *, name: str) -> None:
    """Raise unless every value of a matrix ``(n_obs, n_vars)`` can be a raw count; ``name`` is what to call it.

    A TypeError if it holds no numbers; a ValueError if there are NaN, infinite or negative values, if all are zero, or if they
    look normalized or logged. Fractions that look like expected or ambient-corrected counts are accepted with a warning.
    """
    if not (isinstance(matrix, np.ndarray) or sp.issparse(matrix)):
        raise TypeError(
            f"{name} is a {type(matrix).__name__}; a numpy array or a scipy sparse matrix is needed. "
            "Convert it, or read a backed AnnData into memory with adata.to_memory()."
        )
    if matrix.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} has dtype {matrix.dtype}; real numbers (integer or float) are needed. "
            'Convert it, for example with .astype("float32").'
        )
    for _ in checked_blocks(MatrixCounts(matrix), name=name):
        pass


def checked_blocks(counts: Counts, *, name: str) -> Iterator[sp.csr_matrix]:
    """Blocks of all cells, as :func:`check_counts` judges them; the verdict comes after the last."""
    check = _Check(name, counts.shape)
    for block in counts.blocks():
        check.add(block)
        if not check.n_not_finite:  # nothing can be computed from these
            yield block
    check.conclude()


def common_total(totals: np.ndarray) -> float | None:
    """Totals of cells -> their median if (nearly) all cells that are not empty share it; one cell alone cannot tell."""
    totals = totals[totals > 0]
    if totals.size < 2:
        return None
    low, median, high = np.percentile(totals, [5, 50, 95])
    return float(median) if high - low <= EQUAL_TOTALS * median else None


class _Check:
    """What was seen of the values so far."""

    def __init__(self, name: str, shape: tuple[int, int]) -> None:
        self.name, self.shape = name, shape
        self.minimum, self.maximum, self.example = np.inf, -np.inf, np.nan
        self.n_nonzero = self.n_fractional = self.n_not_finite = self.n_rows = 0
        self.bad_rows: list[int] = []
        self.totals: list[np.ndarray] = []

    def add(self, block: sp.csr_matrix) -> None:
        """Look at the next cells."""
        values = block.data
        start, self.n_rows = self.n_rows, self.n_rows + block.shape[0]
        if values.size == 0:
            return
        if values.dtype.kind == "f" and not (is_finite := np.isfinite(values)).all():
            rows = np.repeat(np.arange(start, self.n_rows), np.diff(block.indptr))
            self.n_not_finite += int(np.count_nonzero(~is_finite))
            self.bad_rows += np.unique(rows[~is_finite]).tolist()
            return
        self.minimum, self.maximum = min(self.minimum, float(values.min())), max(self.maximum, float(values.max()))
        self.n_nonzero += values.size
        if values.dtype.kind == "f":
            is_fractional = np.abs(values - np.rint(values)) > ROUNDING_TOLERANCE
            if self.n_fractional == 0 and is_fractional.any():
                self.example = float(values[is_fractional.argmax()])
            self.n_fractional += int(np.count_nonzero(is_fractional))
            self.totals.append(np.asarray(block.sum(axis=1, dtype=np.float64)).ravel())

    def conclude(self) -> None:
        """Raise, or warn, by all that was seen."""
        if self.n_not_finite:
            raise ValueError(
                f"{self.name} holds {self.n_not_finite} NaN or infinite value(s) in {len(self.bad_rows)} of {self.shape[0]} "
                f"cells, first in row(s) {listing(self.bad_rows, 5)}. Raw counts must be finite and not negative. "
                "Remove these cells, or find out which earlier step divided by zero or overflowed and redo it."
            )
        if self.minimum < -ROUNDING_TOLERANCE:
            raise ValueError(
                f"{self.name} looks scaled (z-scored or batch-corrected): minimum found {self.minimum:.4g}, but raw counts are "
                f"never negative. {_RAW_COUNTS_CURE}"
            )
        if self.maximum <= ROUNDING_TOLERANCE:
            raise ValueError(
                f"All {self.shape[0]} x {self.shape[1]} values of {self.name} are zero; raw counts with at least some "
                f"values above zero are needed. {_RAW_COUNTS_CURE}"
            )
        if self.n_fractional:
            self._judge_fractions(self.n_fractional / self.n_nonzero)

    def _judge_fractions(self, share: float) -> None:
        """Tell normalized values (error) from expected or ambient-corrected counts (warning)."""
        found = (
            f"{self.n_fractional} of {self.n_nonzero} non-zero values ({share:.1%}) are not whole numbers, "
            f"for example {self.example:.6g}"
        )
        if share >= MOSTLY_FRACTIONAL:
            total = common_total(np.concatenate(self.totals))
            if total is not None:
                raise ValueError(
                    f"{self.name} looks normalized to {total:.7g} counts per cell, not logged: {found}, and all cells sum to "
                    f"about the same total. Raw counts are needed. {_RAW_COUNTS_CURE}"
                )
            if self.maximum < LOG_MAXIMUM:
                raise ValueError(
                    f"{self.name} looks log1p-normalized: {found}, and the maximum is only {self.maximum:.4g}. "
                    f"Raw counts are needed. {_RAW_COUNTS_CURE}"
                )
        warn(
            f"{self.name} holds fractional counts: {found}. They are accepted as expected or ambient-corrected counts "
            "(RSEM, Alevin, SoupX). If the data were normalized instead, results will be wrong. "
            f"{_RAW_COUNTS_CURE}"
        )
