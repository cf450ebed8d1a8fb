"""The annotation as it is in ``obs``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.colors import is_color_like, to_hex
from mudata import MuData

from transanno._constants import CONFIDENCE_SUFFIX, NOVEL_CATEGORY, NOVELTY_SUFFIX, UNASSIGNED_CATEGORY
from transanno.checks._data import check_obs_column
from transanno.data._colors import complete_colors, read_colors
from transanno.data._labels import as_strings
from transanno.data._lazy import with_tables
from transanno.report._contents import TypeRow

# A call with a lower probability is less likely right than wrong.
LOW_CONFIDENCE = 0.5
# Calls that name no type.
NO_TYPE = (UNASSIGNED_CATEGORY, NOVEL_CATEGORY)


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
        data = adata if isinstance(adata, MuData) else with_tables(adata)
        obs = data.obs
        names = as_strings(obs[key], missing="")
        if not (names != "").any():
            raise ValueError(f"obs[{key!r}] holds no predictions. Annotate the cells first: tl.annotate(adata, ...).")
        confidence, novelty = (_numbers(obs, f"{key}{suffix}") for suffix in (CONFIDENCE_SUFFIX, NOVELTY_SUFFIX))
        known = {name: to_hex(color) for name, color in read_colors(data, key).items() if is_color_like(color)}
        return cls(names, confidence, novelty, complete_colors(sorted(set(names) - {""}), known))

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
