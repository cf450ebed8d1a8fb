"""Cached rows -> accuracy.csv, accuracy.md and accuracy.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._data import markdown_table
from benchmarks.accuracy._baseline import against_baseline
from benchmarks.accuracy._config import Config
from benchmarks.accuracy._means import by_study
from benchmarks.accuracy._rows import current_rows, finished, seed_means
from benchmarks.accuracy._tables import ABOUT_GROUPS, by_group, by_task

_COLUMNS = [
    *("task", "reference_study", "query_study", "name", "seed", "status", "macro_f1", "accuracy", "ece", "rare_recall"),
    *("n_scored", "n_unknown", "confidence_right", "confidence_wrong", "confidence_unknown"),
    *("fit_seconds", "predict_seconds", "peak_gib", "data_gib"),
    *("cores", "load_before", "date", "cpu", "python", "versions", "source", "key"),
]


def write_report(
    config: Config, tasks: Sequence[str], methods: Sequence[str], folder: Path, info: dict[str, Any]
) -> None:
    """Read ``cells.jsonl`` in the folder, and write the table, the report and the plot beside it."""
    rows = current_rows(config, tasks, methods, folder / "cells.jsonl")
    rows.reindex(columns=_COLUMNS).to_csv(folder / "accuracy.csv", index=False, float_format="%.5g")
    done = finished(rows)
    sections = ["# Benchmark: accuracy", about_rows(rows, info)]
    if not done.empty:
        sections += _groups(done, config, folder / "accuracy.png")
        if config.ours != config.baseline:
            title = f"## {config.ours} against {config.baseline}, task by task"
            sections += [title, against_baseline(done, config, tasks, config.groups[config.headline])]
        sections += ["## Macro-F1", by_task(done, tasks)]
    failed = rows[rows["status"] != "ok"]
    if not failed.empty:
        error = failed["error"].fillna("") if "error" in failed else pd.Series("", failed.index)
        lines = zip(failed["task"], failed["name"], failed["seed"].astype(str), failed["status"], error, strict=True)
        sections += ["## Not finished", markdown_table(["task", "method", "seed", "status", "error"], lines)]
    text = "\n\n".join(sections) + "\n"
    (folder / "accuracy.md").write_text(text, encoding="utf-8")
    print(text)


def about_rows(rows: pd.DataFrame, info: dict[str, Any]) -> str:
    """-> command, and dates, machines and versions behind the rows; says where rows cannot be compared."""
    versions: dict[str, set[str]] = {}
    for each in rows["versions"]:
        for package, version in each.items():
            versions.setdefault(package, set()).add(version)
    found = ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in sorted(versions.items()))
    lines = [
        f"- command: `{info['command']}`",
        f"- results from: {rows['date'].min()} to {rows['date'].max()}",
        f"- machine: {' and '.join(sorted(rows['cpu'].unique()))}, {_numbers(rows['cores'])} of its cores; load average "
        f"before a run up to {rows['load_before'].max():.1f}",
        f"- versions: Python {' and '.join(sorted(rows['python'].unique()))}, {found}",
    ]
    sources = rows["source"].dropna().unique()
    if len(sources) > 1:
        lines.append(f"- **mixed**: the rows of transanno come from {len(sources)} states of its source")
    n_data = rows.groupby("task")["data"].nunique()
    if (n_data > 1).any():
        changed = ", ".join(n_data.index[n_data > 1])
        lines.append(f"- **mixed**: not all methods saw the same cells and genes; run them again on {changed}")
    return "\n".join(lines)


def _numbers(values: pd.Series) -> str:
    return " and ".join(map(str, sorted(values.unique())))


def _groups(done: pd.DataFrame, config: Config, path: Path) -> list[str]:
    """-> sections of the groups that have results; the plot is of the first."""
    sections = []
    for group, tasks in config.groups.items():
        if not done["task"].isin(tasks).any():
            continue
        sections += [f"## {group[0].upper()}{group[1:]}", by_group(done, config, tasks)]
        if len(sections) == 2:
            sections.insert(1, ABOUT_GROUPS.format(ours=config.ours))
            sections.append(f"![macro-F1 by method, {group}]({path.name})")
            _plot(done[done["task"].isin(tasks)], config, group, path)
    return sections


def _plot(done: pd.DataFrame, config: Config, group: str, path: Path) -> None:
    """Macro-F1 of every study by method, methods ordered by their mean; of methods that have finished all tasks."""
    from matplotlib.figure import Figure

    scores = seed_means(done).dropna(axis="columns")
    table = by_study(scores, {task: studies.query for task, studies in config.studies.items()})
    order = table.mean().sort_values().index
    figure = Figure(figsize=(8, 1.2 + 0.38 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    jitter = np.random.default_rng(0).uniform(-0.22, 0.22, size=len(table))
    for row, name in enumerate(order):
        axes.plot(table[name], row + jitter, "o", color="#4477aa", alpha=0.45, markersize=4.5, markeredgewidth=0)
        axes.plot([table[name].mean()] * 2, [row - 0.32, row + 0.32], color="black", linewidth=2)
    axes.set_yticks(range(len(order)), list(order))
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(f"macro-F1, {group} (dots: studies of the queries; lines: their means)")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=150)
