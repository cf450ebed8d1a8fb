"""Cached rows -> accuracy.csv, accuracy.md and accuracy.png."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from benchmarks._data import markdown_table
from benchmarks.accuracy._calls import macro_f1, unpack
from benchmarks.accuracy._config import Config

RARE = 20  # fewer labeled reference cells than this
_MOST = 0.6  # of the tasks
_NOISE = 0.01
_COLUMNS = [
    *(
        "task",
        "name",
        "seed",
        "status",
        "macro_f1",
        "accuracy",
        "ece",
        "rare_recall",
        "n_rare",
        "n_scored",
        "n_unknown",
    ),
    *("confidence_right", "confidence_wrong", "confidence_unknown", "fit_seconds", "predict_seconds", "peak_gib"),
    *("data_gib", "cores", "load_before", "date", "cpu", "python", "versions", "source", "key"),
]


def write_report(
    config: Config, tasks: Sequence[str], methods: Sequence[str], folder: Path, info: dict[str, Any]
) -> None:
    """Read ``cells.jsonl`` in the folder, and write the table, the report and the plot beside it."""
    rows = current_rows(config, tasks, methods, folder / "cells.jsonl")
    if rows.empty:
        raise SystemExit(f"Nothing to report: no result of these tasks and methods in {folder.name}/cells.jsonl.")
    folder.mkdir(parents=True, exist_ok=True)
    rows.reindex(columns=_COLUMNS).to_csv(folder / "accuracy.csv", index=False, float_format="%.5g")
    done = rows[rows["status"] == "ok"]
    sections = [_header(rows, info)]
    if not done.empty:
        table = done.pivot_table(index="task", columns="name", values="macro_f1", sort=False)
        table = table.reindex([task for task in tasks if task in table.index])
        summary, about = summarize(done, table, config)
        plot(table, summary.index, folder / "accuracy.png")
        sections += [
            "## Summary\n\n" + about + ("" if summary.empty else "\n\n" + _format(summary)),
            "![macro-F1 by method](accuracy.png)",
            "## Paired differences\n\n" + paired(done, table, config.ours),
            *(["## By group of tasks\n\n" + by_group(done, table, config)] if config.groups else []),
            *(
                [f"## {config.ours} against {config.baseline}, task by task\n\n" + against_baseline(done, config)]
                if config.ours != config.baseline
                else []
            ),
            "## Macro-F1\n\n" + _by_task(done, table, list(summary.index)),
        ]
    failed = rows[rows["status"] != "ok"]
    if not failed.empty:
        error = failed["error"].fillna("") if "error" in failed else pd.Series("", failed.index)
        lines = zip(failed["task"], failed["name"], failed["seed"].astype(str), failed["status"], error, strict=True)
        sections.append("## Not finished\n\n" + markdown_table(["task", "method", "seed", "status", "error"], lines))
    text = "\n\n".join(sections) + "\n"
    (folder / "accuracy.md").write_text(text, encoding="utf-8")
    print(text)


def current_rows(config: Config, tasks: Sequence[str], methods: Sequence[str], path: Path) -> pd.DataFrame:
    """-> the newest row of every task, way of predicting and seed that has the config's task and settings."""
    newest: dict[tuple, list[dict[str, Any]]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for row in map(json.loads, filter(None, lines)):
        if row["task"] not in tasks or row["method"] not in methods:
            continue
        # A method that ends early has not said in which ways it would predict: its newest run counts.
        cell = row["task"], row["method"], row["seed"]
        method = config.methods[row["method"]]
        if (row["definition"], row["settings"], row["run"]) == (config.tasks[row["task"]], method.settings, method.run):
            if any(other["key"] != row["key"] or other["status"] != "ok" for other in newest.get(cell, ())):
                newest[cell] = []
            newest.setdefault(cell, []).append(row)
    found = pd.DataFrame([row for rows in newest.values() for row in rows])
    if "per_type" in found:
        rare = [_rare_recalls(each) for each in found["per_type"]]
        found["rare_recall"] = [np.mean(each) if each else np.nan for each in rare]
        found["n_rare"] = [len(each) for each in rare]
    return found


def _rare_recalls(per_type: Any) -> list[float]:
    if not isinstance(per_type, dict):
        return []
    return [recall for n_reference, _, recall, _ in per_type.values() if n_reference < RARE]


def summarize(done: pd.DataFrame, table: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, str]:
    """-> methods × measures, best first, over the tasks that all of them have finished; and which those are."""
    n_done = table.notna().sum()
    compared = n_done.index[n_done >= _MOST * len(table)]  # another would take tasks away from all others
    common = table[compared].dropna()
    if common.empty:
        order = table[compared].mean().sort_values(ascending=False).index
        return pd.DataFrame(index=order), "No task that all methods have finished: nothing can be compared."
    done = done[done["name"].isin(compared) & done["task"].isin(common.index)]
    by_task = done.groupby(["name", "task"])[["accuracy", "rare_recall", "n_rare", "ece", "fit_seconds"]].mean()
    by_task["seconds"] = by_task["fit_seconds"] + done.groupby(["name", "task"])["predict_seconds"].mean()
    rare_recall = by_task["rare_recall"] * by_task["n_rare"]
    mean = by_task.groupby("name").mean()
    by_seed = done.groupby(["name", "seed"])["macro_f1"].mean().groupby("name")
    seconds = by_task.groupby("name")["seconds"].sum()
    summary = pd.DataFrame(
        {
            "macro-F1": common.mean(),
            "sd over seeds": by_seed.std(ddof=1),
            "accuracy": mean["accuracy"],
            "mean rank": common.rank(axis=1, ascending=False).mean(),
            f"recall of types with < {RARE} cells": (
                rare_recall.groupby("name").sum() / by_task["n_rare"].groupby("name").sum()
            ),
            "ECE": mean["ece"],
            "seconds": seconds,
            "peak GiB": done.groupby("name")["peak_gib"].max(),
        }
    )
    if config.baseline in common:
        difference = common.sub(common[config.baseline], axis=0)
        summary["won"] = (difference > _NOISE).sum()
        summary["lost"] = (difference < -_NOISE).sum()
        summary["worst difference"] = difference.min()
        summary["its task"] = difference.idxmin().drop(config.baseline)
    if config.slow in seconds:
        summary["times faster"] = seconds[config.slow] / seconds
    than = f"; times faster: than {config.slow}" if config.slow in seconds else ""
    about = (
        f"Means over the {len(common)} tasks that all methods of this table finished, of {len(table)} with a result. "
        f"Won, lost, worst difference: macro-F1 against {config.baseline}, differences up to {_NOISE} count as neither. "
        f"Seconds: fit and predict, one seed, all tasks together{than}. ECE: expected "
        "calibration error of the confidence, 15 bins. Peak GiB: of the process, libraries and data included. "
        "Ways of predicting after one training share its time and each count it."
    )
    partial = [f"{name} ({n} tasks)" for name, n in n_done.items() if name not in compared]
    if partial:
        about += f" Too few tasks to be compared: {', '.join(partial)}."
    return summary.sort_values("macro-F1", ascending=False), about


def paired(done: pd.DataFrame, table: pd.DataFrame, ours: str) -> str:
    """-> ``ours`` against every other row on the tasks that both have finished, also where these are few."""
    if ours not in table:
        return f"No result of {ours} yet."
    seconds = (done["fit_seconds"] + done["predict_seconds"]).groupby([done["name"], done["task"]]).mean()
    lines = []
    for name in table.columns.drop(ours):
        both = table[[ours, name]].dropna()
        difference = both[ours] - both[name]
        means = [f"{mean:.3f}" for mean in both.mean()]
        ratio = seconds[name][both.index].sum() / seconds[ours][both.index].sum() if len(both) else np.nan
        lines.append([name, str(len(both)), *means, f"{difference.mean():+.3f}", _interval(difference), f"{ratio:.1f}"])
    header = ["method", "tasks", ours, "method's mean", "difference", "95 % interval", "its seconds / ours"]
    return (
        f"{ours} minus each method, macro-F1, over the tasks that both have finished; intervals by Student's t over tasks.\n\n"
        + markdown_table(header, lines)
    )


def _interval(difference: pd.Series) -> str:
    """Differences by task -> 95 % interval of their mean, by Student's t."""
    if len(difference) < 2 or difference.std() == 0:
        return "–"
    low, high = ttest_1samp(difference, 0.0).confidence_interval(0.95)
    return f"{low:+.3f} to {high:+.3f}"


def by_group(done: pd.DataFrame, table: pd.DataFrame, config: Config) -> str:
    """-> means of every method over the tasks of a group that it and ``ours`` have finished."""
    measures = done.groupby(["name", "task"])[["accuracy", "ece"]].mean()
    lines = []
    for group, tasks in config.groups.items():
        part = table.reindex([task for task in tasks if task in table.index])
        if config.ours not in part or part[config.ours].isna().all():
            continue
        for name in part.columns:
            both = part[list(dict.fromkeys([config.ours, name]))].dropna()
            if both.empty:
                continue
            found = measures.loc[name].loc[both.index].mean()
            ours = measures.loc[config.ours].loc[both.index].mean()
            difference = both[config.ours] - both[name]
            values = [both[name].mean(), found["accuracy"], found["ece"], ours["ece"]]
            numbers = ["–" if pd.isna(value) else f"{value:.3f}" for value in values]
            lines.append([group, name, str(len(both)), *numbers, f"{difference.mean():+.3f}", _interval(difference)])
    header = ["tasks", "method", "finished", "macro-F1", "accuracy", "ECE", f"ECE of {config.ours} there"]
    return (
        f"Difference: {config.ours} minus the method, macro-F1, with a 95 % interval by Student's t over tasks.\n\n"
        + markdown_table([*header, "difference", "interval"], lines)
    )


def against_baseline(done: pd.DataFrame, config: Config, n_resamples: int = 1000) -> str:
    """-> differences of macro-F1 with intervals by resampling the query's cells, the same for both methods."""
    if "calls" not in done:
        return "No calls of single cells were stored."
    done = done[done["calls"].notna()]
    lines, n_worse, n_better = [], 0, 0
    for task, rows in done.groupby("task", sort=False):
        theirs, ours = (rows[rows["name"] == name] for name in (config.baseline, config.ours))
        if theirs.empty or ours.empty:
            continue
        (baseline, *_), runs = map(unpack, theirs["calls"]), list(map(unpack, ours["calls"]))
        n_types = len(theirs["per_type"].iloc[0])
        if any(not np.array_equal(run[0], baseline[0]) for run in runs):
            continue  # other cells
        smallest = int(np.bincount(baseline[0]).min())
        rng = np.random.default_rng(0)

        def difference(cells: np.ndarray, runs=runs, baseline=baseline, n_types=n_types) -> float:
            return float(np.mean([macro_f1(run[:, cells], n_types) for run in runs])) - macro_f1(
                baseline[:, cells], n_types
            )

        n_cells = baseline.shape[1]
        found = difference(np.arange(n_cells))
        low, high = np.quantile(
            [difference(rng.integers(n_cells, size=n_cells)) for _ in range(n_resamples)], [0.025, 0.975]
        )
        verdict = "worse" if high < 0 else "better" if low > 0 else ""
        n_worse, n_better = n_worse + (verdict == "worse"), n_better + (verdict == "better")
        lines.append([str(task), str(n_cells), str(smallest), f"{found:+.3f}", f"{low:+.3f} to {high:+.3f}", verdict])
    about = (
        f"{config.ours} (mean over seeds) minus {config.baseline}, macro-F1; 95 % intervals over {n_resamples} draws of the "
        f"query's cells with replacement. A task is called better or worse where the interval leaves out zero: {n_better} and "
        f"{n_worse} of {len(lines)}."
    )
    header = ["task", "query cells", "of the rarest type", "difference", "95 % interval", ""]
    return about + "\n\n" + markdown_table(header, lines)


def plot(table: pd.DataFrame, order: Sequence[str], path: Path) -> None:
    """Macro-F1 of every task by method, methods ordered by their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.38 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    jitter = np.random.default_rng(0).uniform(-0.22, 0.22, size=len(table))
    finished = table[list(order)].dropna()
    for row, name in enumerate(reversed(list(order))):
        axes.plot(table[name], row + jitter, "o", color="#4477aa", alpha=0.45, markersize=4.5, markeredgewidth=0)
        axes.plot([finished[name].mean()] * 2, [row - 0.32, row + 0.32], color="black", linewidth=2)
    axes.set_yticks(range(len(order)), list(reversed(list(order))))
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(f"macro-F1 (dots: tasks; lines: means over {len(finished)} tasks)")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=150)


def _header(rows: pd.DataFrame, info: dict[str, Any]) -> str:
    versions: dict[str, set[str]] = {}
    for each in rows["versions"]:
        for package, version in each.items():
            versions.setdefault(package, set()).add(version)
    found = ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in sorted(versions.items()))
    lines = [
        "# Benchmark: accuracy\n",
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


def _format(summary: pd.DataFrame) -> str:
    styles = {"mean rank": "{:.1f}", "seconds": "{:,.0f}", "peak GiB": "{:.2f}", "times faster": "{:.1f}"}
    styles |= {"won": "{:.0f}", "lost": "{:.0f}", "its task": "{}", "worst difference": "{:+.3f}"}
    rows = [
        [str(name), *("–" if pd.isna(row[key]) else styles.get(key, "{:.3f}").format(row[key]) for key in row.index)]
        for name, row in summary.iterrows()
    ]
    return markdown_table(["method", *summary.columns], rows)


def _by_task(done: pd.DataFrame, table: pd.DataFrame, order: list[str]) -> str:
    """-> tasks × methods, ± standard deviation over seeds where there are several."""
    order += [name for name in table if name not in order]
    deviation = done.groupby(["task", "name"])["macro_f1"].std(ddof=1)
    lines = []
    for task, row in table[order].iterrows():
        cells = [str(task)]
        for name in order:
            text = "–" if pd.isna(row[name]) else f"{row[name]:.3f}"
            spread = deviation.get((task, name), np.nan)
            cells.append(text if pd.isna(spread) else f"{text} ± {spread:.3f}")
        lines.append(cells)
    return markdown_table(["task", *order], lines)
