"""Which tasks, methods and seeds: accuracy.toml, checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accuracy._groups import Studies, groups_of, studies_of

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
class Nested:
    """What ``--nested`` chooses from."""

    methods: tuple[str, ...]
    """whose ways of predicting are settings"""
    order: tuple[str, ...]
    """settings, the simplest first"""
    peers: tuple[str, ...]
    """methods that are judged on the same tasks"""


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
    one_batch: tuple[str, ...]
    """files whose batch column gives the type away"""
    tasks: dict[str, dict[str, Any]]
    methods: dict[str, Method]
    studies: dict[str, Studies]
    """of every task"""
    groups: dict[str, tuple[str, ...]]
    """tasks that are reported together, the headline first"""
    nested: Nested | None = None

    @property
    def headline(self) -> str:
        return next(iter(self.groups))


def read_config(path: Path = CONFIG) -> Config:
    """TOML -> config; groups follow from the studies."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    methods = {}
    for name, table in content.pop("methods").items():
        listed: dict[str, Any] = {key: tuple(table.pop(key)) for key in ("packages", "seeds") if key in table}
        methods[name] = Method(name=name, **listed, **table)
    tasks = content["tasks"]
    try:
        studies = studies_of(tasks, content.pop("studies"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    kinds = {key: content.pop(key, ()) for key in ("across_species", "spatial")}
    nested = content.pop("nested", None)
    return Config(
        methods=methods,
        studies=studies,
        groups=groups_of(tasks, studies, **kinds),
        nested=_read_nested(nested, methods, path.name) if nested else None,
        seeds=tuple(content.pop("seeds")),
        one_batch=tuple(content.pop("one_batch")),
        **content,
    )


def _read_nested(table: dict[str, list[str]], methods: dict[str, Method], file: str) -> Nested:
    nested = Nested(**{key: tuple(names) for key, names in table.items()})
    # A peer may also be a way of predicting after a training of ours.
    named = {*nested.methods, *(name for name in nested.peers if not name.startswith(nested.methods))}
    unknown = named - set(methods)
    if unknown:
        raise ValueError(f"{file}: [nested] names methods that there are not: {', '.join(sorted(unknown))}.")
    return nested
