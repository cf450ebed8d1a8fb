"""Ours against one peer, task by task, with intervals over the query's cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._data import markdown_table
from benchmarks.accuracy._calls import macro_f1, unpack
from benchmarks.accuracy._config import Config
from benchmarks.accuracy._means import as_text

_N_CELLS, _WORSE = 100, 0.01  # scored cells from which a task is watched, and how much lower is too low
_N_QUERY = 200  # cells of a query from which the spread over seeds is watched


def against_baseline(
    done: pd.DataFrame, config: Config, tasks: Sequence[str], headline: Sequence[str], n_resamples: int = 1000
) -> str:
    """-> differences of macro-F1 with intervals by resampling the query's cells, the same for both methods."""
    found = [each for task in tasks if (each := _compare(done[done["task"] == task], config, n_resamples))]
    if not found:
        return f"No task has calls of single cells by both {config.ours} and {config.baseline}."
    table = pd.DataFrame(found).set_index("task")
    verdict = np.select([table["high"] < 0, table["low"] > 0], ["worse", "better"], "")
    watched = table[table["cells"] >= _N_CELLS]
    low = watched.index[watched["difference"] < -_WORSE]
    sentences = [
        f"{config.ours} (mean over seeds) minus {config.baseline}, macro-F1; 95 % intervals over {n_resamples} draws of the "
        "query's cells with replacement. A task is called better or worse where the interval leaves out zero: "
        f"{(verdict == 'better').sum()} and {(verdict == 'worse').sum()} of {len(table)}.",
        f"Of the {len(watched)} tasks with at least {_N_CELLS} scored query cells, {len(low)} are more than {_WORSE} "
        f"below {config.baseline}{': ' + '; '.join(low) if len(low) else ''}.",
    ]
    of_headline = table[table.index.isin(headline) & (table["n_query"] >= _N_QUERY)]["deviation"].dropna()
    if len(of_headline):
        sentences.append(
            f"Standard deviation over seeds: at most {of_headline.max():.3f} ({of_headline.idxmax()}) among the "
            f"{len(of_headline)} tasks {config.headline} with at least {_N_QUERY} query cells."
        )
    lines = [
        [
            *(str(each[key]) for key in ("task", "cells", "rarest")),
            f"{each['difference']:+.3f}",
            as_text((each["low"], each["high"])),
            "–" if np.isnan(each["deviation"]) else f"{each['deviation']:.3f}",
            word,
        ]
        for each, word in zip(found, verdict, strict=True)
    ]
    header = ["task", "query cells", "of the rarest type", "difference", "95 % interval", "sd over seeds", ""]
    return "\n\n".join([*sentences, markdown_table(header, lines)])


def _compare(rows: pd.DataFrame, config: Config, n_resamples: int) -> dict[str, Any] | None:
    """Rows of one task -> difference, its interval, and what it rests on; None where the two cannot be compared."""
    theirs, ours = (rows[rows["name"] == name] for name in (config.baseline, config.ours))
    if theirs.empty or ours.empty or "calls" not in rows or pd.concat([theirs, ours])["calls"].isna().any():
        return None
    (baseline, *_), runs = map(unpack, theirs["calls"]), list(map(unpack, ours["calls"]))
    if any(not np.array_equal(run[0], baseline[0]) for run in runs):
        return None  # other cells
    n_types = len(theirs["per_type"].iloc[0])

    def difference(cells: np.ndarray) -> float:
        mean = np.mean([macro_f1(run[:, cells], n_types) for run in runs])
        return float(mean) - macro_f1(baseline[:, cells], n_types)

    n_cells: int = baseline.shape[1]
    rng = np.random.default_rng(0)
    drawn = [difference(rng.integers(n_cells, size=n_cells)) for _ in range(n_resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "task": rows["task"].iloc[0],
        "cells": n_cells,
        "n_query": ours["n_query"].iloc[0],
        "rarest": int(np.bincount(baseline[0]).min()),
        "difference": difference(np.arange(n_cells)),
        "low": low,
        "high": high,
        "deviation": ours["macro_f1"].std(ddof=1),
    }
