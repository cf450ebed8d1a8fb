"""Which tasks, which cells to pretrain on and which labels: pretraining.toml, and what it has no say in."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).resolve().parent.parent / "pretraining.toml"

PLAIN, AT_HAND = "not pretrained", "query and reference"
SAME_ORGAN, EVERYTHING = "other studies of the organ", "all other studies"
# The simplest first: of arms that are as good the first is chosen.
ARMS = (PLAIN, AT_HAND, SAME_ORGAN, EVERYTHING)

# Of the reference's cells; the others stay, without their labels.
LABELS: dict[str, dict[str, Any]] = {
    "all labels": {},
    "10 % of the labels": {"label_fraction": 0.1},
    "10 labels per type": {"labels_per_type": 10},
}


@dataclass(frozen=True)
class Config:
    """The bench."""

    n_genes: int
    max_cells: int
    """of a study, to pretrain on for another"""
    min_measured: float
    """share of a task's genes that a file needs to be pretrained on"""
    seeds: tuple[int, ...]
    """of the trainings on labels; pretraining has one"""
    tasks: dict[str, str]
    """study of the query -> pair of pairs.json"""
    organs: dict[str, str]
    """of every file"""


def read_config(path: Path = CONFIG) -> Config:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return Config(seeds=tuple(content.pop("seeds")), **content)
