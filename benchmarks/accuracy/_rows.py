"""Cached rows that count for a report, and the means over seeds that it is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.accuracy._config import Config

RARE = 20  # fewer labeled reference cells than this


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
    if found.empty:
        raise SystemExit(f"Nothing to report: no result of these tasks and methods in {path.parent.name}/{path.name}.")
    found["reference_study"] = [config.studies[task].reference for task in found["task"]]
    found["query_study"] = [config.studies[task].query for task in found["task"]]
    if "per_type" in found:
        found["rare_recall"] = [_rare_recall(each) for each in found["per_type"]]
    return found


def finished(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["status"] == "ok"]


def seed_means(done: pd.DataFrame, column: str = "macro_f1") -> pd.DataFrame:
    """-> tasks × ways of predicting, means over seeds."""
    return done.pivot_table(index="task", columns="name", values=column, sort=False)


def _rare_recall(per_type: Any) -> float:
    """-> mean recall of the rare types; NaN where there are none."""
    if not isinstance(per_type, dict):
        return np.nan
    rare = [recall for n_reference, _, recall, _ in per_type.values() if n_reference < RARE]
    return float(np.mean(rare)) if rare else np.nan
