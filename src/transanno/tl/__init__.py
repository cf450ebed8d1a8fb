"""Tools: one call from reference and query to cell types."""

from __future__ import annotations

from transanno.tl._annotate import annotate
from transanno.tl._reference import fit_reference, select_genes

__all__ = ["annotate", "fit_reference", "select_genes"]
