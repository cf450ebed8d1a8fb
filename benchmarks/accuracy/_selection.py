"""Choice of a setting without the study that it is judged on.

Scores are ``(n_tasks, n_settings)``, the simplest setting first; studies are ``(n_tasks, 2)``, the columns ``reference``
and ``query``, of the same tasks.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.accuracy._means import by_study


def choose(scores: pd.DataFrame, studies: pd.DataFrame, *, simplest: bool = True) -> str:
    """-> the simplest setting that is within one standard error of the best, or the best.

    The best has the highest mean over the queries' studies; the error is that of another's paired difference from it.
    """
    if scores.empty:
        raise ValueError("No task to choose a setting on.")
    per_study = by_study(scores, studies["query"])
    best = per_study.mean().idxmax()
    if not simplest:
        return str(best)
    behind = per_study.rsub(per_study[best], axis=0)
    error = behind.std(ddof=1).fillna(0.0) / np.sqrt(len(behind))  # one study has no error: the best is chosen
    is_close = behind.mean() <= error
    return str(is_close.index[is_close][0])


def votes(studies: pd.DataFrame, study: str) -> pd.Index:
    """-> tasks of which the study is neither the reference's nor the query's."""
    return studies.index[(studies != study).all(axis=1)]


def choose_without_each(
    scores: pd.DataFrame, studies: pd.DataFrame, judged: pd.Index, *, simplest: bool = True
) -> pd.DataFrame:
    """-> for every study of a query of the tasks ``judged``: ``chosen`` without it, and its ``score`` on those tasks."""
    found = {}
    for study, tasks in studies.loc[judged].groupby("query", sort=False).groups.items():
        voting = votes(studies, str(study))
        if voting.empty:
            raise ValueError(f"No task without {study}: nothing to choose a setting on.")
        chosen = choose(scores.loc[voting], studies.loc[voting], simplest=simplest)
        found[study] = {"chosen": chosen, "score": scores.loc[tasks, chosen].mean()}
    return pd.DataFrame.from_dict(found, orient="index")
