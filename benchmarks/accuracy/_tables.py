"""Tables of the report: methods over a group of tasks, and task by task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks._data import markdown_table
from benchmarks.accuracy._config import Config
from benchmarks.accuracy._means import as_text, by_study, interval
from benchmarks.accuracy._rows import RARE, seed_means

_MEASURES = ["macro_f1", "accuracy", "rare_recall", "ece"]
ABOUT_GROUPS = (
    "Means over the studies of the queries, of the means over a study's tasks: every study weighs the same. Difference: {ours} "
    "minus the method, over the tasks that both have finished, with a 95 % interval by Student's t over the studies. "
    f"Rare recall: of types with fewer than {RARE} labeled reference cells. ECE: expected calibration error of the "
    "confidence, 15 bins. Seconds: fit and predict, mean of a task; ways of predicting after one training each count it. "
    "Methods that lack tasks are at the end, and their means are of other tasks."
)


def by_group(done: pd.DataFrame, config: Config, tasks: Sequence[str]) -> str:
    """-> methods × measures over the tasks of a group, best first."""
    done = done[done["task"].isin(tasks)]
    done = done.assign(seconds=done["fit_seconds"] + done["predict_seconds"])
    scores, query_study = seed_means(done), {task: config.studies[task].query for task in tasks}
    found = []
    for name, rows in done.groupby("name"):
        means = rows.reindex(columns=["task", "seconds", *_MEASURES]).groupby("task").mean()
        per_study = by_study(means, query_study)
        macro_f1, *others = (per_study[measure].mean() for measure in _MEASURES)
        line = [str(name), f"{macro_f1:.3f}", *_difference(scores, config.ours, str(name), query_study)]
        line += [str(len(means)), str(len(per_study))]
        line += ["–" if pd.isna(value) else f"{value:.3f}" for value in others]
        found.append((-len(means), -macro_f1, [*line, f"{means['seconds'].mean():.1f}"]))
    header = ["method", "macro-F1", "difference", "95 % interval", "tasks", "studies", "accuracy", "rare recall", "ECE"]
    return markdown_table([*header, "seconds"], [line for *_, line in sorted(found)])


def _difference(scores: pd.DataFrame, ours: str, name: str, query_study: dict[str, str]) -> list[str]:
    if ours not in scores or name == ours:
        return ["–", "–"]
    both = scores[[ours, name]].dropna()
    if both.empty:
        return ["–", "–"]
    per_study = by_study(both, query_study)
    difference = per_study[ours] - per_study[name]
    return [f"{difference.mean():+.3f}", as_text(interval(difference))]


def by_task(done: pd.DataFrame, tasks: Sequence[str]) -> str:
    """-> tasks × methods, ± standard deviation over seeds where there are several."""
    table = seed_means(done)
    table = table.reindex([task for task in tasks if task in table.index])
    deviation = done.groupby(["task", "name"])["macro_f1"].std(ddof=1)
    lines = []
    for task, row in table.iterrows():
        cells = [str(task)]
        for name, value in row.items():
            text = "–" if pd.isna(value) else f"{value:.3f}"
            spread = deviation.get((task, name), np.nan)
            cells.append(text if pd.isna(spread) else f"{text} ± {spread:.3f}")
        lines.append(cells)
    return markdown_table(["task", *table], lines)
