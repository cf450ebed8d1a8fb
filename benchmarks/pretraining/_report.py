"""Cached rows -> pretraining.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._data import markdown_table
from benchmarks.accuracy._means import as_text, interval
from benchmarks.accuracy._report import about_rows
from benchmarks.accuracy._selection import choose_without_each
from benchmarks.pretraining._config import ARMS, LABELS, PLAIN, Config

_ABOUT = (
    "Means over {n_studies} studies, one task each, of the means over seeds that all ways have finished: {n_seeds}. Difference: from not pretraining, with a 95 % "
    "interval by Student's t over the studies. *Transformer alone*: the same models, predicting without their linear experts, which "
    "pretraining leaves as they are. *Nested*: for every study, what to pretrain on is chosen on the tasks of which that study is "
    "neither the reference's nor the query's, and judged on its own task: the simplest way, none first, within one standard error of "
    "the one with the highest mean, or always the latter. Seconds: pretraining, which one model needs once, and fit and predict, both of "
    "a task and seed, on {cores} core."
)
_ABOUT_POOLS = (
    "Means over the tasks that have such cells. *Not measured*: share of the values of a task's genes that are zero because a cell's study "
    "did not measure the gene. *Hidden genes*: share whose expression bin was predicted right in the last pass, beside always guessing "
    "each gene's commonest bin. *MB*: of the saved model. A task without such cells is not pretrained: {without}."
)


def write_report(config: Config, folder: Path, info: dict[str, Any]) -> None:
    """Read ``cells.jsonl`` in the folder, and write the report beside it."""
    rows = current_rows(config, folder / "cells.jsonl")
    scores = {name: means(rows[rows["labels"] == name], config) for name in LABELS}
    alone = {name: means(rows[rows["labels"] == name], config, "macro_f1_transformer") for name in LABELS}
    studies = studies_of(rows)
    nested = {name: nested_scores(table, studies) for name, table in scores.items()}
    n_seeds = rows.groupby(["task", "arm"]).size().groupby("task").min().value_counts().sort_index()
    seeds = ", ".join(f"{n} for {n_tasks} tasks and labels" for n, n_tasks in n_seeds.items())
    about = _ABOUT.format(n_studies=len(next(iter(scores.values()))), n_seeds=seeds, cores=rows["cores"].max())
    sections = [
        "# Benchmark: pretraining",
        about_rows(rows, info),
        verdict(scores, nested),
        about,
        _main_table(rows, scores, alone, nested),
        "## What was pretrained on",
        *_pools(rows),
        "## Study by study",
        "Macro-F1 without pretraining ± standard deviation over seeds, and differences from it.",
    ]
    for name, table in scores.items():
        sections += [f"### {name[0].upper()}{name[1:]}", _by_study(table, rows[rows["labels"] == name], studies)]
    text = "\n\n".join(sections) + "\n"
    (folder / "pretraining.md").write_text(text, encoding="utf-8")
    print(text)


# -- rows and what is made of them --------------------------------------------------------------------------------------


def current_rows(config: Config, path: Path) -> pd.DataFrame:
    """-> the newest row of every task, arm and seed of the config."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = pd.DataFrame([json.loads(line) for line in lines if line])
    if not rows.empty:
        tasks = {f"{pair}, {labels}" for pair in config.tasks.values() for labels in LABELS}
        rows = rows[rows["task"].isin(tasks) & rows["arm"].isin(ARMS) & rows["seed"].isin(config.seeds)]
    if rows.empty:
        raise SystemExit(f"Nothing to report: no result of the config's tasks in {path.parent.name}/{path.name}.")
    return rows.drop_duplicates(["task", "arm", "seed"], keep="last")


def means(rows: pd.DataFrame, config: Config, column: str = "macro_f1") -> pd.DataFrame:
    """Rows of one way of withholding labels -> ``(n_studies, n_arms)``, means over the seeds that all arms have finished."""
    runs = rows.pivot_table(index=["query_study", "seed"], columns="arm", values=column).reindex(columns=list(ARMS))
    table = runs.dropna().groupby("query_study").mean()
    return table.reindex([study for study in config.tasks if study in table.index])


def studies_of(rows: pd.DataFrame) -> pd.DataFrame:
    """-> ``(n_studies, 2)``, those of reference and query, by the latter."""
    table = rows.drop_duplicates("query_study")[["reference_study", "query_study"]]
    return table.set_axis(["reference", "query"], axis=1).set_index("query", drop=False).rename_axis(index=None)


def nested_scores(scores: pd.DataFrame, studies: pd.DataFrame) -> dict[bool, pd.DataFrame]:
    """-> arm ``chosen`` for every study without it, and its ``score``; by whether the simplest or the best is chosen."""
    studies = studies.loc[scores.index]
    return {
        simplest: choose_without_each(scores, studies, scores.index, simplest=simplest) for simplest in (True, False)
    }


def verdict(scores: dict[str, pd.DataFrame], nested: dict[str, dict[bool, pd.DataFrame]]) -> str:
    """-> whether pretraining helps, and the numbers that say so."""
    gains = {name: nested[name][True]["score"] - table[PLAIN] for name, table in scores.items()}
    helps = [name for name, gain in gains.items() if _sign(gain) > 0]
    found = {f"{arm}, {name}": scores[name][arm] - scores[name][PLAIN] for name in scores for arm in ARMS[1:]}
    signs = {key: _sign(difference) for key, difference in found.items()}
    better, worse = ([key for key, sign in signs.items() if sign == wanted] for wanted in (1, -1))
    what = f"helps with {' and '.join(helps)}" if helps else "is not shown to help, and the default stays without it"
    numbers = ", ".join(f"{gain.mean():+.3f} ({name})" for name, gain in gains.items())
    return (
        f"**Pretraining {what}**: chosen without the study that it is judged on, it changes macro-F1 by {numbers}. Of the "
        f"{len(found)} differences of a way of pretraining from none, the interval is above zero for {_listed(better)} and below for "
        f"{_listed(worse)}; they go from {_extreme(found, min)} to {_extreme(found, max)}."
    )


def _sign(difference: pd.Series) -> int:
    """-> 1 or -1 if the interval leaves out zero, else 0."""
    bounds = interval(difference)
    return 0 if bounds is None or bounds[0] <= 0 <= bounds[1] else int(np.sign(difference.mean()))


def _listed(names: list[str]) -> str:
    return f"{len(names)} ({'; '.join(names)})" if names else "none"


def _extreme(differences: dict[str, pd.Series], which: Any) -> str:
    name = which(differences, key=lambda key: differences[key].mean())
    return f"{differences[name].mean():+.3f} ({name})"


# -- tables -------------------------------------------------------------------------------------------------------------


def _main_table(
    rows: pd.DataFrame,
    scores: dict[str, pd.DataFrame],
    alone: dict[str, pd.DataFrame],
    nested: dict[str, dict[bool, pd.DataFrame]],
) -> str:
    """-> labels × arms, and for each way of withholding labels the nested choices."""
    rows = rows.assign(seconds=rows["fit_seconds"] + rows["predict_seconds"])
    seconds = rows.groupby(["labels", "arm"])[["pretraining_seconds", "seconds"]].mean()
    lines = []
    for name, table in scores.items():
        for arm in ARMS:
            line = [name, arm, *_compared(table[arm], table[PLAIN]), *_compared(alone[name][arm], alone[name][PLAIN])]
            of_arm = seconds.loc[(name, arm)]
            pretraining = "–" if arm == PLAIN else f"{of_arm['pretraining_seconds']:.0f}"
            lines.append([*line, pretraining, f"{of_arm['seconds']:.0f}"])
        for simplest, found in nested[name].items():
            n_chosen = int((found["chosen"] != PLAIN).sum())
            rule = "**nested**" if simplest else "nested, highest mean"
            label = f"{rule}, pretrained for {n_chosen} of {len(found)} studies"
            lines.append([name, label, *_compared(found["score"], table[PLAIN]), *["–"] * 5])
    header = ["labels", "pretrained on", "macro-F1", "difference", "95 % interval"]
    header += ["Transformer alone", "difference", "95 % interval", "pretraining, s", "fit and predict, s"]
    return markdown_table(header, lines)


def _compared(values: pd.Series, plain: pd.Series) -> list[str]:
    """Scores of studies, and those without pretraining -> mean, difference and its interval."""
    difference = values - plain
    if values.equals(plain):
        return [f"{values.mean():.3f}", "–", "–"]
    return [f"{values.mean():.3f}", f"{difference.mean():+.3f}", as_text(interval(difference))]


def _pools(rows: pd.DataFrame) -> list[str]:
    """-> what pretraining saw and learned, by arm."""
    once = rows[rows["arm"] != PLAIN].drop_duplicates(["query_study", "arm"])
    seen = once[once["pretraining_cells"] > 0]
    without = [f"{row.query_study} ({row.arm})" for row in once[once["pretraining_cells"] == 0].itertuples()]
    lines = []
    for arm in (arm for arm in ARMS if (seen["arm"] == arm).any()):
        mean = seen[seen["arm"] == arm].mean(numeric_only=True)
        cells = seen.loc[seen["arm"] == arm, "pretraining_cells"]
        shares = [f"{mean[name]:.3f}" for name in ("masked_accuracy", "masked_accuracy_commonest")]
        lines.append(
            [
                *(arm, str(len(cells)), f"{cells.mean():,.0f}", f"{cells.min():,} to {cells.max():,}"),
                *(f"{mean['known_genes']:.0%}", f"{mean['unmeasured']:.0%}", *shares, f"{mean['megabytes']:.1f}"),
            ]
        )
    header = ["", "tasks", "cells", "range", "genes of the task", "not measured", "hidden genes", "commonest bin", "MB"]
    return [_ABOUT_POOLS.format(without=", ".join(without) or "there is none"), markdown_table(header, lines)]


def _by_study(scores: pd.DataFrame, rows: pd.DataFrame, studies: pd.DataFrame) -> str:
    """-> studies × arms of one way of withholding labels."""
    deviation = rows[rows["arm"] == PLAIN].groupby("query_study")["macro_f1"].std(ddof=1)
    lines = []
    for study, row in scores.iterrows():
        spread = "" if pd.isna(deviation[study]) else f" ± {deviation[study]:.3f}"
        differences = [f"{row[arm] - row[PLAIN]:+.3f}" for arm in ARMS[1:]]
        lines.append([str(study), studies.loc[study, "reference"], f"{row[PLAIN]:.3f}{spread}", *differences])
    return markdown_table(["query", "reference", *ARMS], lines)
