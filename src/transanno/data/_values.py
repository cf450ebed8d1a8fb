"""What values are like that may be counts, in one number or two."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Float formats and (de)compression leave counts such as 2.9999998; real fractions are much further away.
ROUNDING_TOLERANCE = 1e-4
# log1p of counts per million reaches 13.8 and log2 of it 19.9; raw counts of a whole data set go far beyond.
LOG_MAXIMUM = 20
# Normalising or logging turns nearly every value into a fraction; expected counts (RSEM) stay mostly whole.
MOSTLY_FRACTIONAL = 0.5
# Cells count as scaled to one total when their 5th and 95th percentile differ by less than this share of the median.
EQUAL_TOTALS = 0.01
# Of negative counts there are few; of z-scores, most are negative.
_FEW_NEGATIVE = 0.1


@dataclass(frozen=True)
class ValueStats:
    """What the values of a matrix are like."""

    n_nonzero: int = 0
    n_fractional: int = 0
    """values that are no whole numbers"""
    example: float = math.nan
    """one of these"""
    maximum: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> ValueStats:
        """Finite values of any real type -> what they are like."""
        maximum, n_nonzero = float(values.max(initial=0.0)), int(np.count_nonzero(values))
        if values.dtype.kind != "f":
            return cls(n_nonzero, maximum=maximum)
        is_fractional = np.abs(values - np.rint(values)) > ROUNDING_TOLERANCE
        example = float(values[is_fractional.argmax()]) if is_fractional.any() else math.nan
        return cls(n_nonzero, int(np.count_nonzero(is_fractional)), example, maximum)

    def __add__(self, other: ValueStats) -> ValueStats:
        example = other.example if math.isnan(self.example) else self.example
        n_nonzero, n_fractional = self.n_nonzero + other.n_nonzero, self.n_fractional + other.n_fractional
        return ValueStats(n_nonzero, n_fractional, example, max(self.maximum, other.maximum))

    @property
    def share(self) -> float:
        """Of the values that are not zero, those that are no whole numbers."""
        return self.n_fractional / self.n_nonzero if self.n_nonzero else 0.0

    def __str__(self) -> str:
        return (
            f"{self.n_fractional} of {self.n_nonzero} non-zero values ({self.share:.1%}) are not whole numbers, "
            f"for example {self.example:.6g}"
        )


def is_few(n_negative: int, n_nonzero: int) -> bool:
    """Whether so few values are negative that the others may be counts."""
    return n_negative <= _FEW_NEGATIVE * n_nonzero


def common_total(totals: np.ndarray) -> float | None:
    """Totals of cells -> their median if (nearly) all cells that are not empty share it; one cell alone cannot tell."""
    totals = totals[totals > 0]
    if totals.size < 2:
        return None
    low, median, high = np.percentile(totals, [5, 50, 95])
    return float(median) if high - low <= EQUAL_TOTALS * median else None
