"""Rows -> trust.md, trust.json and the figure of the user guide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._data import markdown_table, write_results
from benchmarks.accuracy._means import as_text, interval
from benchmarks.trust._choose import (
    COVERAGES,
    FDRS,
    NULL_SHARE,
    Row,
    choose_novelty,
    choose_probability,
    judge_nested,
)
from benchmarks.trust._grids import NOVELTY_GRID, PROBABILITY_GRID

_SHOWN_FDRS, _SHOWN_COVERAGE = (0.05, 0.1, 0.2), 0.9
_ABOUT = (
    "All pairs of `pairs.json`, sides thinned to {max_cells} cells; pairs of two studies once more without the commonest type that is at most 40 % of "
    "the query, and without one of middling size. Unknown are the cells of types that the reference lacks, where there are at least "
    "20. Every study of a query weighs the same in the means; intervals are 95 %, by Student's t over these studies.\n\n"
    "*Nested*: for every study, the limits are chosen on tasks of two studies of which it is neither the reference's nor the query's, and judged on "
    "its own queries. For novelty that is the lowest limit from which on, over studies, the mean false discovery rate is at most what is "
    f"asked, and at most {NULL_SHARE:g} times as many of the cells of a query without unknown ones are called Unknown; for sets the highest probability that "
    "covers what is asked. The package ships the limits that all studies together give. References of which too few cells could be held out to calibrate by have no numbers."
)


def write_report(rows: list[Row], folder: Path, info: dict[str, Any], figure: Path | None) -> None:
    across = [row for row in rows if row["reference_study"] != row["query_study"]]
    within = [row for row in rows if row["reference_study"] == row["query_study"]]
    keys = ("found", "false_discoveries", "called")
    novelty = {fdr: judge_nested(across, choose_novelty, fdr, keys) for fdr in FDRS}
    sets = {
        wanted: judge_nested(across, choose_probability, wanted, ("coverage", "set_size", "empty"))
        for wanted in COVERAGES
    }
    limits = {
        "novelty": {str(fdr): round(float(NOVELTY_GRID[choose_novelty(across, fdr)]), 2) for fdr in FDRS},
        "probability": {
            str(wanted): float(np.round(PROBABILITY_GRID[choose_probability(across, wanted)], 4))
            for wanted in COVERAGES
        },
    }
    sections = [
        _ABOUT.format(max_cells=rows[0]["max_cells"]),
        "## Unknown, nested",
        _novelty_table(novelty, limits["novelty"]),
        "*Found* is the share of the unknown cells that is called Unknown, *FDR* that of known cells among all that are called so (0 where none "
        "is), *called in error* the share of the cells that is called Unknown when the query holds known types only.",
        "## Ranking unknown cells: AUROC",
        _auroc_table(across),
        "## Label sets, nested",
        _set_table(sets, limits["probability"]),
        "## Expected calibration error, cells of known types",
        _ece_table({"across studies": across, "within a study": within}),
        "## Task by task",
        _tasks_table(across, novelty, sets[_SHOWN_COVERAGE]),
        "### Within a study, at the limits of all others",
        _within_table(within, limits),
    ]
    numbers = {
        "limits": limits,
        "novelty": {str(fdr): judged.to_dict("records") for fdr, judged in novelty.items()},
        "sets": {str(wanted): judged.to_dict("records") for wanted, judged in sets.items()},
        "auroc": {row["task"]: row["auroc"] for row in rows if row["auroc"]},
        "ece": {row["task"]: row["ece"] for row in rows if "ece" in row},
    }
    if figure is not None:
        draw({"within a study": within, "across studies": across}, figure)
    write_results("trust", folder, info, sections, numbers)


def by_study(judged: pd.DataFrame, key: str) -> pd.Series:
    """-> mean over the tasks of every study."""
    return judged.dropna(subset=key).groupby("study")[key].mean()


def _mean(values: pd.Series, digits: int = 3) -> str:
    bounds = interval(values)
    return f"{values.mean():.{digits}f}" + ("" if bounds is None else f" ({as_text(bounds, '')})")


def _novelty_table(novelty: dict[float, pd.DataFrame], limits: dict[str, float]) -> str:
    lines = []
    for fdr, judged in novelty.items():
        false, called = (judged[key].dropna() for key in ("false_discoveries", "called"))
        lines.append(
            [
                f"{fdr:g}",
                *(_mean(by_study(judged, key)) for key in ("found", "false_discoveries")),
                f"{(false > 0.3).sum()} of {len(false)}",
                _mean(by_study(judged, "called")),
                f"{called.max():.3f}",
                f"{limits[str(fdr)]:.2f}",
            ]
        )
    columns = ["`fdr`", "found", "FDR", "tasks with FDR > 0.3", "called in error", "worst", "limit of all studies"]
    return markdown_table(columns, lines)


def _set_table(sets: dict[float, pd.DataFrame], limits: dict[str, float]) -> str:
    lines = [
        [
            f"{wanted:g}",
            _mean(by_study(judged, "coverage")),
            f"{judged['coverage'].min():.2f}",
            *(f"{by_study(judged, key).mean():.2f}" for key in ("set_size", "empty")),
            f"{limits[str(wanted)]:.4f}",
        ]
        for wanted, judged in sets.items()
    ]
    columns = ["`coverage`", "attained", "lowest of a task", "types in a set", "empty", "limit of all studies"]
    return markdown_table(columns, lines)


def _auroc_table(rows: list[Row]) -> str:
    lines = []
    for name, is_whole in (("types that the reference never had", True), ("a type left out", False)):
        kept = [row for row in rows if row["auroc"] and (row["left_out"] is None) == is_whole]
        frame = pd.DataFrame([row["auroc"] for row in kept])
        studies = pd.Series([row["query_study"] for row in kept])
        methods, is_everywhere = list(frame), frame.notna().all()
        means = frame.groupby(studies).mean()
        lines.append(
            [name, str(len(kept)), *(_mean(means[method]) if is_everywhere[method] else "–" for method in frame)]
        )
        if not is_everywhere.all():  # scANVI takes minutes for a task, and may have been run on some
            part = frame.dropna()
            means = part.groupby(studies[part.index]).mean()
            lines.append(
                ["of these, those that all methods ran on", str(len(part)), *(_mean(means[method]) for method in frame)]
            )
        if is_whole:
            columns = ["unknown cells are of", "tasks", *methods]
        else:
            lines[-1] += ["–"] * (len(columns) - len(lines[-1]))
    return markdown_table(columns, lines)


def _ece_table(groups: dict[str, list[Row]]) -> str:
    lines = []
    for name, rows in groups.items():
        kept = [row for row in rows if "ece" in row]
        frame = pd.DataFrame([row["ece"] | {"accuracy": row["accuracy"]} for row in kept])
        means = frame.groupby([row["query_study"] for row in kept]).mean()
        versions = list(kept[0]["ece"])
        lines.append([f"{name} ({len(kept)})", *(_mean(means[key]) for key in ("accuracy", *versions))])
    return markdown_table(["queries", "accuracy", *versions], lines)


def _tasks_table(rows: list[Row], novelty: dict[float, pd.DataFrame], sets: pd.DataFrame) -> str:
    judged = {fdr: novelty[fdr].set_index("task") for fdr in _SHOWN_FDRS}
    coverage = sets.set_index("task")["coverage"]
    lines = []
    for row in rows:
        cells = [row["task"], f"{row['n_unknown']} of {row['n_query']}"]
        cells.append(f"{row['auroc']['novelty']:.2f}" if row["auroc"] else "–")
        for found in judged.values():
            values = found.loc[row["task"], ["found", "false_discoveries", "called"]].astype(float)
            cells.append(" / ".join("–" if np.isnan(value) else f"{value:.2f}" for value in values))
        covered = coverage[row["task"]]
        lines.append([*cells, "–" if np.isnan(covered) else f"{covered:.2f}"])
    columns = [f"found / FDR / in error at {fdr:g}" for fdr in _SHOWN_FDRS]
    return markdown_table(["task", "unknown", "AUROC", *columns, f"coverage at {_SHOWN_COVERAGE:g}"], lines)


def _within_table(rows: list[Row], limits: dict[str, Any]) -> str:
    called = [int(np.abs(NOVELTY_GRID - limits["novelty"][str(fdr)]).argmin()) for fdr in _SHOWN_FDRS]
    covered = int(np.abs(PROBABILITY_GRID - limits["probability"][str(_SHOWN_COVERAGE)]).argmin())
    lines = [
        [row["task"], *(f"{row['called'][at]:.3f}" for at in called), f"{row['coverage'][covered]:.2f}"]
        for row in rows
        if "called" in row
    ]
    columns = [f"called in error at {fdr:g}" for fdr in _SHOWN_FDRS]
    return markdown_table(["pair", *columns, f"coverage at {_SHOWN_COVERAGE:g}"], lines)


def draw(groups: dict[str, list[Row]], path: Path) -> None:
    """Reliability of raw and calibrated confidence, all tasks of a group together."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, 2, sharey=True), groups.items(), strict=True):
        axes.plot([0.2, 1], [0.2, 1], color="0.7", linewidth=1, linestyle="--")
        for version, color in (("raw", "C1"), ("refined, calibrated", "C0")):
            bins = pd.concat([pd.DataFrame(row["bins"][version]) for row in rows if "bins" in row])
            position = (bins["confidence"] * 10).astype(int).clip(upper=9)
            weighted = bins[["confidence", "accuracy"]].mul(bins["n_cells"], axis=0).groupby(position).sum()
            n_cells = bins["n_cells"].groupby(position).sum()
            shown = weighted.div(n_cells, axis=0)[n_cells >= 20]
            axes.plot(shown["confidence"], shown["accuracy"], "o-", color=color, markersize=4, label=version)
        axes.set(title=name, xlabel="confidence", xlim=(0.2, 1.02), ylim=(0.2, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
