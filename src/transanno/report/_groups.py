"""Groups of cells that are called "Unknown"."""

from __future__ import annotations

from typing import Any

import pandas as pd

from transanno._constants import GROUPS_SUFFIX, NOVEL_CATEGORY
from transanno.report._calls import Calls
from transanno.report._contents import UnknownGroup

_COLUMNS = ("group", "n_cells", "nearest_type", "share_nearest", "markers")


def unknown_groups(adata: Any, calls: Calls, key_added: str) -> tuple[list[UnknownGroup], str]:
    """-> groups, and what there is to say about them or why there are none."""
    n_unknown = int((calls.names == NOVEL_CATEGORY).sum())
    table = adata.uns.get(f"{key_added}{GROUPS_SUFFIX}")
    if calls.novelty is None:
        return (
            [],
            f"Cells unlike the reference were not looked for. With fdr=0.1, for example, they are called {NOVEL_CATEGORY}.",
        )
    if n_unknown == 0:
        return [], f"No cell is called {NOVEL_CATEGORY}. Not all cells of new types are found."
    if not isinstance(table, pd.DataFrame) or not set(_COLUMNS) <= set(table.columns):
        return [], f"{n_unknown:,} cells are called {NOVEL_CATEGORY}; there is no table of groups among them."
    if table.empty:
        return [], f"{n_unknown:,} cells are called {NOVEL_CATEGORY}, no ten of which are alike."
    rows = [
        UnknownGroup(str(name), int(n_cells), f"{nearest} ({share:.0%})", str(markers) or "none")
        for name, n_cells, nearest, share, markers in table[list(_COLUMNS)].itertuples(index=False)
    ]
    return rows, (
        f"{n_unknown:,} cells are called {NOVEL_CATEGORY}; these groups of them are alike. The nearest type is what most of "
        "their cells would be called, and markers are genes that are higher in them than in cells of that type."
    )
