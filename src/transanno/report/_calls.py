"""The annotation as it is in ``obs``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.colors import is_color_like, to_hex
from mudata import MuData

from transanno._constants import CONFIDENCE_SUFFIX, NOVEL_CATEGORY, NOVELTY_SUFFIX, UNASSIGNED_CATEGORY
from transanno.checks._data import check_obs_column
from transanno.data._labels import as_strings
from transanno.data._lazy import with_tables
from transanno.pl._umap import color_map
from transanno.report._contents import TypeRow

# A call with a lower probability is less likely right than wrong.
LOW_CONFIDENCE = 0.5
# Calls that name no type.
NO_TYPE = (UNASSIGNED_CATEGORY, NOVEL_CATEGORY)
_NO_TYPE_COLORS = {UNASSIGNED_CATEGORY: "#b8b8b8", NOVEL_CATEGORY: "#1a1a1a"}


@dataclass(frozen=True, eq=False)
class Calls:
    """What cells were called."""

    names: np.ndarray
    """``(n_obs,)`` str, "" for cells without a call"""
    confidence: np.ndarray | None
    """``(n_obs,)`` in [0, 1], NaN for cells without a call; None where there is no such column"""
    novelty: np.ndarray | None
    """``(n_obs,)``, None where it was not asked for"""
    colors: dict[str, str]
    """``#rrggbb`` of every call"""

    @classmethod
    def of(cls, adata: AnnData | MuData, key: str) -> Calls:
        """Annotated cells, column of the calls -> calls."""
        check_obs_column(adata, key, argument="key_added", name="adata")
        obs = adata.obs if isinstance(adata, MuData) else with_tables(adata).obs
        names = as_strings(obs[key], missing="")
        if not (names != "").any():
            raise ValueError(f"obs[{key!r}] holds no predictions. Annotate the cells first: tl.annotate(adata, ...).")
        confidence, novelty = (_numbers(obs, f"{key}{suffix}") for suffix in (CONFIDENCE_SUFFIX, NOVELTY_SUFFIX))
        return cls(names, confidence, novelty, _colors(obs[key], adata.uns.get(f"{key}_colors", ()), names))

    @property
    def types(self) -> list[str]:
        """Types that some cell was called, the most frequent first."""
        return [name for name in self.n_cells.index if name not in NO_TYPE]

    @property
    def n_cells(self) -> pd.Series:
        """Number of cells by call, the most frequent first, and calls that name no type last."""
        found = pd.Series(self.names[self.names != ""]).value_counts()
        order = sorted(found.index, key=lambda name: (name in NO_TYPE, -found[name], name))
        return found[order]

    def rows(self, genes: dict[str, str]) -> list[TypeRow]:
        """Genes that decided, by type -> a row per call."""
        found = []
        for name, n_cells in self.n_cells.items():
            confidence = None if self.confidence is None else self.confidence[self.names == name]
            found.append(
                TypeRow(
                    str(name),
                    self.colors[str(name)],
                    int(n_cells),
                    n_cells / len(self.names),
                    None if confidence is None else float(np.nanmean(confidence)),
                    None if confidence is None else float(np.mean(confidence < LOW_CONFIDENCE)),
                    genes.get(str(name), ""),
                )
            )
        return found


def _numbers(obs: pd.DataFrame, key: str) -> np.ndarray | None:
    return pd.to_numeric(obs[key]).to_numpy(dtype=float) if key in obs else None


def _colors(column: pd.Series, given: Sequence[str], names: np.ndarray) -> dict[str, str]:
    """Calls, colors of their categories by scanpy's plots, calls ``(n_obs,)`` -> color of every call."""
    found = {**color_map(pd.Series(names[names != ""])), **_NO_TYPE_COLORS}
    if isinstance(column.dtype, pd.CategoricalDtype) and len(given) >= len(column.cat.categories):
        pairs = zip(as_strings(column.cat.categories.to_series(), missing=""), given, strict=False)
        found |= {name: to_hex(color) for name, color in pairs if is_color_like(color)}
    return found
