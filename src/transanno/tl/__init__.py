"""Tools: from reference and query to cell types in one call, and how good they are."""

from __future__ import annotations

from transanno.data._select_genes import select_genes
from transanno.tl._annotate import annotate
from transanno.tl._cross_validate import cross_validate
from transanno.tl._evaluate import evaluate
from transanno.tl._explain import explain
from transanno.tl._reference import fit_reference, pretrain
from transanno.tl._report import report
from transanno.tl._vote import vote

__all__ = [
    "annotate",
    "cross_validate",
    "evaluate",
    "explain",
    "fit_reference",
    "pretrain",
    "report",
    "vote",
    "select_genes",
]
