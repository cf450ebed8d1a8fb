"""Groups of cells that are explained together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from transanno.checks._data import check_obs_column
from transanno.predictions._temperature import as_probabilities


def as_groups(
    groupby: str | Sequence[object] | np.ndarray | pd.Categorical, target: AnnData | MuData, positions: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Column of ``obs`` or a group per cell -> code of every cell ``(n_cells,)``, -1 without a group, and their names."""
    if isinstance(groupby, str):
        check_obs_column(target, groupby, argument="groupby", name="adata")
        given = pd.Series(target.obs[groupby].iloc[positions].array)
    else:
        given = pd.Series(groupby)
    if len(given) != len(positions):
        raise ValueError(
            f"groupby has {len(given)} values for {len(positions)} cells. Give one per cell of indices, or the name of a "
            "column of obs."
        )
    groups = pd.Categorical(given).remove_unused_categories()
    if not len(groups.categories):
        raise ValueError(
            "There are no cells to explain: "
            + ("indices selects none." if not len(positions) else "none of them has a group in groupby.")
        )
    return groups.codes.astype(np.int64), groups.categories.astype(str).tolist()


def mean_probabilities(logits: np.ndarray, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Logits ``(n_cells, n_labels)``, group of every cell, -1 without one, -> mean probabilities ``(n_groups, n_labels)``."""
    is_used = codes >= 0
    total = np.zeros((n_groups, logits.shape[1]))
    np.add.at(total, codes[is_used], as_probabilities(logits[is_used]))
    return total / np.bincount(codes[is_used], minlength=n_groups)[:, None]
