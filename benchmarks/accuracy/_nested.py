"""Cached rows -> nested.md: how good ours is when its setting is chosen without the study that it is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks._data import markdown_table
from benchmarks.accuracy._config import Config, Nested
from benchmarks.accuracy._groups import HEADLINE, SPECIES
from benchmarks.accuracy._means import as_text, by_study, interval
from benchmarks.accuracy._report import about_rows
from benchmarks.accuracy._rows import current_rows, finished, seed_means
from benchmarks.accuracy._selection import choose, choose_without_each

_ABOUT = (
    "For every study of a query, the setting is chosen on the tasks {voting} of which that study is neither the reference's nor "
    "the query's, and judged on the study's tasks. Chosen is the simplest that is within one standard error, over studies, of "
    "the one with the highest mean; beside it stands what always choosing the latter gives. All means weigh the studies of the queries the same; intervals are by Student's t over these studies."
)


def write_nested(config: Config, folder: Path, info: dict[str, Any]) -> None:
    """Read ``cells.jsonl`` in the folder, and write the report beside it."""
    nested = config.nested
    if nested is None:
        raise SystemExit("--nested needs a config with [nested].")
    headline, species = (list(config.groups[group]) for group in (HEADLINE, SPECIES))
    methods = [*nested.methods, *nested.peers]
    rows = current_rows(config, [*headline, *species], methods, folder / "cells.jsonl")
    scores = seed_means(finished(rows)).reindex([*headline, *species])
    settings, peers = (_complete(scores, names) for names in (nested.order, nested.peers))
    if not settings:
        raise SystemExit(f"No setting of [nested] has results for all {len(scores)} tasks {HEADLINE} and {SPECIES}.")
    studies = pd.DataFrame([config.studies[task] for task in scores.index], index=scores.index)
    judged = {HEADLINE: headline, f"{HEADLINE} and {SPECIES}": [*headline, *species]}
    found, highest = (
        {
            group: choose_without_each(scores[settings], studies, pd.Index(tasks), simplest=simplest)
            for group, tasks in judged.items()
        }
        for simplest in (True, False)
    )
    sections = [
        "# Benchmark: accuracy, nested selection of settings",
        about_rows(rows[rows["name"].isin([*settings, *peers])], info),
        *_missing(nested, settings, peers),
        _ABOUT.format(voting=f"{HEADLINE} and {SPECIES}"),
    ]
    for group, tasks in judged.items():
        per_study = by_study(scores.loc[tasks], studies["query"])
        sections += [
            f"## {group[0].upper()}{group[1:]}",
            _numbers(found[group], highest[group], per_study, settings, peers),
        ]
    simplest, best = (choose(scores[settings], studies, simplest=simplest) for simplest in (True, False))
    sections += ["## Settings", f"Over all studies, {best} has the highest mean; chosen is {simplest}."]
    columns = {HEADLINE: headline, SPECIES: species}
    sections.append(_settings(scores[settings], studies, columns, found))
    sections += ["## Study by study", _by_study(found[HEADLINE])]
    text = "\n\n".join(sections) + "\n"
    (folder / "nested.md").write_text(text, encoding="utf-8")
    print(text)


def _complete(scores: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """-> those of the names that have a result for every task."""
    return [name for name in names if name in scores and scores[name].notna().all()]


def _missing(nested: Nested, settings: list[str], peers: list[str]) -> list[str]:
    absent = [name for name in (*nested.order, *nested.peers) if name not in (*settings, *peers)]
    return [f"Left out, because results are missing: {', '.join(absent)}."] if absent else []


def _numbers(
    found: pd.DataFrame, highest: pd.DataFrame, per_study: pd.DataFrame, settings: list[str], peers: list[str]
) -> str:
    """Choices and scores of every study, by either rule -> nested numbers, the flattering one, and the peers' with differences."""
    score = found["score"]
    best = per_study[settings].mean().idxmax()
    compared = {"nested, always the highest mean": highest["score"]}
    compared |= {f"best setting with hindsight ({best})": per_study[best]}
    compared |= {peer: per_study[peer] for peer in peers}
    lines = [["**nested**", f"**{score.mean():.3f}**", as_text(interval(score), sign=""), "–", "–"]]
    for name, values in compared.items():
        difference = score - values
        numbers = [f"{values.mean():.3f}", as_text(interval(values), sign="")]
        lines.append([name, *numbers, f"{difference.mean():+.3f}", as_text(interval(difference))])
    header = ["", "macro-F1", "95 % interval", "nested minus it", "95 % interval"]
    return f"{len(score)} studies.\n\n" + markdown_table(header, lines)


def _settings(
    settings: pd.DataFrame,
    studies: pd.DataFrame,
    groups: dict[str, list[str]],
    found: dict[str, pd.DataFrame],
) -> str:
    """-> settings, the simplest first: means over the studies of each group, and how often each was chosen."""
    means = {group: by_study(settings.loc[tasks], studies["query"]).mean() for group, tasks in groups.items()}
    lines = [
        [
            name,
            *(f"{mean[name]:.3f}" for mean in means.values()),
            *(str((each["chosen"] == name).sum()) for each in found.values()),
        ]
        for name in map(str, settings)
    ]
    return markdown_table(["setting", *means, *(f"chosen, {group}" for group in found)], lines)


def _by_study(found: pd.DataFrame) -> str:
    lines = [[str(row.Index), str(row.chosen), f"{row.score:.3f}"] for row in found.itertuples()]
    return markdown_table(["study of the query", "chosen without it", "macro-F1"], lines)
