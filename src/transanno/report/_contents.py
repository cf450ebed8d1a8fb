"""What a report says, before it is a page. Where a part is missing, a sentence says why."""

from __future__ import annotations

from dataclasses import dataclass

from transanno.pp import CheckReport


@dataclass(frozen=True)
class Origin:
    """Where cells and model are from, as far as whoever makes the report knows."""

    cells: str | None = None
    """path of their file; None: they are in memory"""
    model: str | None = None
    """folder of the model; None: it is in memory"""
    reference: str | None = None
    """path of the file that it was trained on; None: that is not known"""
    command: str | None = None
    """line of the shell that made the annotation; None: it was made in Python"""


@dataclass(frozen=True)
class TypeRow:
    """A type that cells were called, or "Unassigned" or "Unknown"."""

    name: str
    color: str
    """``#rrggbb``"""
    n_cells: int
    share: float
    """of all cells"""
    confidence: float | None
    """mean probability of these calls; None where there is none"""
    share_low: float | None
    """share of its cells with a probability below one half"""
    genes: str
    """genes that decided"""


@dataclass(frozen=True)
class Panel:
    """A picture of all cells."""

    title: str
    image: str
    """as a ``data:`` URI"""
    about: str
    """what is seen, for those who cannot see it, too"""


@dataclass(frozen=True)
class Confusion:
    """What held-out cells of the reference were that got one call."""

    called: str
    n_cells: int
    share_right: float | None
    """None without such cells"""
    others: str
    """types that most of the others were"""


@dataclass(frozen=True)
class UnknownGroup:
    """Cells called "Unknown" that are alike."""

    name: str
    n_cells: int
    nearest: str
    markers: str


@dataclass(frozen=True)
class Contents:
    """All of a report."""

    title: str
    facts: dict[str, str]
    """what was annotated by what"""
    numbers: dict[str, str]
    """the same at a glance"""
    preflight: CheckReport | str
    types: list[TypeRow]
    genes_note: str
    """how the genes of ``types`` were found, or why there are none"""
    panels: list[Panel]
    panels_note: str
    confusions: list[Confusion]
    confusions_note: str
    groups: list[UnknownGroup]
    groups_note: str
    arguments: dict[str, str]
    versions: dict[str, str]
    code: str
    """lines that make the annotation again"""
