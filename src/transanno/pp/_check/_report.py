"""Result of a check: findings, and what they rest on."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pandas as pd

from transanno.html._render import Table, summary

if TYPE_CHECKING:
    from anndata import AnnData

Severity = Literal["ok", "note", "warning", "error"]
_RANK = {"ok": 0, "note": 1, "warning": 2, "error": 3}
_WIDTH = 110
_LEAST_COVERED, _FIXED = "deciding genes that are measured, least first", "repaired in the copy, report.adata"


@dataclass(frozen=True)
class Finding:
    """One line of a check."""

    name: str
    """what was looked at, such as "scale" """
    severity: Severity
    """``"ok"``; ``"note"``, worth knowing; ``"warning"``, predictions may be worse; ``"error"``, models refuse the data or the reference"""
    found: str
    """what was found"""
    cure: str = ""
    """what to do about it"""


@dataclass(frozen=True, repr=False, eq=False)
class CheckReport:
    """What :func:`transanno.pp.check` found; printing it shows a table."""

    findings: tuple[Finding, ...]
    """in the order of the checks"""
    n_obs: int
    """number of cells"""
    n_vars: int
    """number of columns, genes or not"""
    scale: str | None
    """what the values are, such as ``"log1p (natural) of 10,000 counts per cell"``; None where they are no numbers"""
    restored: bool
    """whether the values are no counts, but counts were restored from them or from ``raw``"""
    is_inexact: pd.Series
    """bool by cell, True where restored counts are rounded, because values are no multiples of one unit"""
    gene_ids: str
    """how genes are named, such as ``"Ensembl ids with versions, human"``"""
    species: str | None
    """species that the names of the genes speak for, None where they do not tell"""
    n_shared_genes: int | None
    """genes of the reference or model that the data have; None without one"""
    n_reference_genes: int | None
    """genes of the reference or model"""
    class_coverage: pd.DataFrame | None
    """a row per type of the reference or model: ``n_genes`` that decide it, ``n_measured`` of them, their ``share``, and
    the ``missing`` ones as a text, the most important first; None without labels"""
    cells: pd.DataFrame
    """a row per cell: ``total`` counts, ``n_genes`` with counts, and bool ``is_empty``, ``is_near_empty``,
    ``is_outlier`` and ``is_duplicate``; without rows where there are no counts"""
    adata: AnnData | None = field(default=None)
    """repaired copy, with ``fix=True``"""
    fixes: tuple[str, ...] = ()
    """what was done in the copy"""

    @property
    def severity(self) -> Severity:
        """The worst of all findings."""
        return max((finding.severity for finding in self.findings), key=_RANK.__getitem__, default="ok")

    @property
    def is_usable(self) -> bool:
        """Whether models accept the data, and the reference where there is one, repaired as they do by themselves."""
        return self.severity != "error"

    def to_frame(self) -> pd.DataFrame:
        """A row per finding."""
        return pd.DataFrame(
            [(f.name, f.severity, f.found, f.cure) for f in self.findings],
            columns=["check", "severity", "found", "what to do"],
        )

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"{name!r}; there are {', '.join(repr(finding.name) for finding in self.findings)}")

    def __str__(self) -> str:
        names = max((len(finding.name) for finding in self.findings), default=0)
        lines = [self.headline, ""]
        margin = " " * (names + 11)
        for finding in self.findings:
            text = finding.found if not finding.cure else f"{finding.found} -> {finding.cure}"
            start = f"{finding.name.ljust(names)}  {finding.severity.ljust(7)}  "
            lines += textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=margin)
        if low := self.least_covered():
            width = max(len(name) for name, *_ in low)
            lines += ["", f"{_LEAST_COVERED}:"]
            lines += [f"{name.ljust(width)}  {n:>10} {share:>5}  lacks {missing}" for name, n, share, missing in low]
        if self.fixes:
            lines += ["", f"{_FIXED}:", *(f"- {fix}" for fix in self.fixes)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return summary(self.headline, tables=self.tables())

    def tables(self) -> list[Table]:
        """-> findings, types whose deciding genes are measured least, and what was repaired."""
        found = self.to_frame()
        tables = [Table(list(found.columns), found.to_numpy().tolist())]
        if low := self.least_covered():
            tables.append(Table(["type", "measured", "share", "lacks"], low, _LEAST_COVERED))
        if self.fixes:
            tables.append(Table(["what was done"], [[fix] for fix in self.fixes], _FIXED))
        return tables

    @property
    def headline(self) -> str:
        """How many cells and features, and whether models accept them."""
        return f"{self.n_obs} cells x {self.n_vars} features: {self._verdict()}"

    def _verdict(self) -> str:
        n = {severity: sum(f.severity == severity for f in self.findings) for severity in _RANK}
        if n["error"]:
            return f"not usable as they are ({n['error']} error{'s' if n['error'] > 1 else ''})"
        return f"usable, {n['warning']} warning{'s' if n['warning'] != 1 else ''}" if n["warning"] else "usable"

    def least_covered(self) -> list[list[str]]:
        """-> name, deciding genes that are measured, their share, and some that are not, of the ten types that lack most."""
        if self.class_coverage is None:
            return []
        low = self.class_coverage[self.class_coverage["share"] < 1].sort_values("share", kind="stable").head(10)
        return [
            [str(row.Index), f"{row.n_measured} of {row.n_genes}", f"{row.share:.0%}", _first(str(row.missing))]
            for row in low.itertuples()
        ]


def _first(names: str, n: int = 4) -> str:
    parts = names.split(", ")
    return ", ".join(parts[:n]) + (", …" if len(parts) > n else "")
