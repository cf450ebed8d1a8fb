"""Which tasks, methods and seeds: accuracy.toml, checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).resolve().parent.parent / "accuracy.toml"


@dataclass(frozen=True)
class Method:
    """A row of the results, or several: one training can be followed by several ways to predict."""

    name: str
    run: str
    """``module:function`` in this package"""
    packages: tuple[str, ...]
    """whose versions the result depends on"""
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    """where these settings are recommended"""
    seeds: tuple[int, ...] | None = None
    """instead of the seeds of the run: one for a method that draws nothing, or is too slow for more"""
    enabled: bool = True
    hours: float = 1.0
    """time limit of one task and seed"""

    @property
    def is_ours(self) -> bool:
        return "transanno" in self.packages


@dataclass(frozen=True)
class Config:
    """The bench."""

    n_genes: int
    cores: int
    seeds: tuple[int, ...]
    baseline: str
    """method that the others are compared with, task by task"""
    ours: str
    """row that every method is paired with"""
    slow: str
    """method that total times are compared with"""
    one_batch: tuple[str, ...]
    """files whose batch column gives the type away"""
    tasks: dict[str, dict[str, Any]]
    methods: dict[str, Method]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """tasks that are also averaged on their own"""


def read_config(path: Path = CONFIG) -> Config:
    """TOML -> config."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    methods = {}
    for name, table in content.pop("methods").items():
        listed = {key: tuple(table.pop(key)) for key in ("packages", "seeds") if key in table}
        methods[name] = Method(name=name, **listed, **table)
    listed = {key: tuple(content.pop(key)) for key in ("seeds", "one_batch")}
    groups = {name: tuple(tasks) for name, tasks in content.pop("groups", {}).items()}
    unknown = {task for tasks in groups.values() for task in tasks} - set(content["tasks"])
    if unknown:
        raise ValueError(f"{path.name}: groups name tasks that there are not: {', '.join(sorted(unknown))}.")
    return Config(methods=methods, groups=groups, **listed, **content)
