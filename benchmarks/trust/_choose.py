"""Limits that keep a promise on average over studies, and how far they keep it on a study that had no say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.trust._grids import NOVELTY_GRID, PROBABILITY_GRID

FDRS = (0.05, 0.1, 0.2, 0.3, 0.5)
COVERAGES = (0.5, 0.8, 0.9, 0.95, 0.99)
# Share of the known cells of a query without unknown ones that may be called so, for every unit of the rate.
NULL_SHARE = 0.2

Row = dict[str, Any]


def over_studies(rows: Sequence[Row], key: str) -> np.ndarray:
    """-> mean over the tasks of a study, then over the studies of the queries, for every limit."""
    values = {row["task"]: (row["query_study"], row[key]) for row in rows if row.get(key) is not None}
    frame = pd.DataFrame({task: curve for task, (_, curve) in values.items()}).T
    return frame.groupby([study for study, _ in values.values()]).mean().mean().to_numpy()


def choose_novelty(rows: Sequence[Row], fdr: float) -> int:
    """-> position of the lowest limit from which on no mean is above what is allowed."""
    false, called = (over_studies(rows, key) for key in ("false_discoveries", "called"))
    is_bad = (false > fdr) | (called > NULL_SHARE * fdr)
    return min(int(np.flatnonzero(is_bad).max(initial=-1)) + 1, len(NOVELTY_GRID) - 1)


def choose_probability(rows: Sequence[Row], coverage: float) -> int:
    """-> position of the highest limit with the coverage."""
    is_enough = over_studies(rows, "coverage") >= coverage
    return int(is_enough.argmax()) if is_enough.any() else len(PROBABILITY_GRID) - 1


def judge_nested(
    rows: Sequence[Row], choose: Callable[[Sequence[Row], float], int], wanted: float, keys: Sequence[str]
) -> pd.DataFrame:
    """Rows, each judged at the limit that was chosen on tasks of which its query's study is on neither side.

    -> a row for each task: ``task``, ``study``, ``left_out``, ``position`` of the limit, and the ``keys`` there.
    """
    found = []
    for study in sorted({row["query_study"] for row in rows}):
        others = [row for row in rows if study not in (row["query_study"], row["reference_study"])]
        position = choose(others, wanted)
        for row in rows:
            if row["query_study"] == study:
                values = {key: np.nan if row.get(key) is None else row[key][position] for key in keys}
                found.append(
                    {"task": row["task"], "study": study, "left_out": row["left_out"], "position": position, **values}
                )
    return pd.DataFrame(found)
