"""Means in which every study of a query weighs the same, and their intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

_ROUNDING = 1e-9  # values that differ by less are the same


def by_study(scores: pd.DataFrame, query_study: Mapping[str, str] | pd.Series) -> pd.DataFrame:
    """``(n_tasks, n_methods)`` -> ``(n_studies, n_methods)``, the mean over the tasks of a query's study."""
    return scores.groupby([query_study[task] for task in scores.index], sort=False).mean()


def interval(values: pd.Series) -> tuple[float, float] | None:
    """-> 95 % interval of the mean by Student's t; None where the values say nothing about it."""
    if len(values) < 2 or np.ptp(values.to_numpy()) < _ROUNDING:
        return None
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    return float(low), float(high)


def as_text(bounds: tuple[float, float] | None, sign: str = "+") -> str:
    return "–" if bounds is None else f"{bounds[0]:{sign}.3f} to {bounds[1]:{sign}.3f}"
