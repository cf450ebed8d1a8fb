"""Cells that are called "Unknown", as groups: what they are like, and which genes tell them from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from scipy.sparse.csgraph import connected_components

from transanno.data._log_normalize import log_normalize

# Fewer cells that are alike are no group.
_MIN_CELLS = 10
_N_MARKERS = 5
# Cells of a group, and of what it is compared with, that are looked at.
_MAX_COMPARED = 1_000


@dataclass(frozen=True, eq=False)
class UnknownGroups:
    """Groups among cells that are called "Unknown"."""

    codes: np.ndarray
    """``(n_cells,)``, -1 for cells that are in none"""
    table: pd.DataFrame
    """a row for each: ``group``, ``n_cells``, ``nearest_type``, ``share_nearest``, ``novelty``, ``markers``"""


def find_groups(
    is_novel: np.ndarray,
    novelty: np.ndarray,
    called: np.ndarray,
    neighbors: np.ndarray,
    rows: Callable[[np.ndarray], sp.csr_matrix],
    genes: np.ndarray,
) -> UnknownGroups:
    """Group the cells where ``is_novel (n_cells,)``, the largest group first.

    Two of them are in one group if each is among the ``neighbors (n_cells, k)`` of the other. A group is like the type that most
    of its cells are ``called (n_cells,)`` otherwise, and its markers are the genes that are higher in it than in cells that stay of that type. ``rows``
    gives counts of cells ``(n, n_vars)``, of which columns beyond the ``genes`` are part of a cell's total only.
    """
    novel, codes = np.flatnonzero(is_novel), np.full(len(is_novel), -1)
    table: list[dict[str, str | int | float]] = []
    for members in _alike(novel, neighbors):
        types, n_called = np.unique(called[members], return_counts=True)
        nearest = types[n_called.argmax()]
        codes[members] = len(table)
        known = np.flatnonzero(~is_novel & (called == nearest))
        table.append(
            {
                "group": f"Unknown {len(table) + 1}, like {nearest}",
                "n_cells": len(members),
                "nearest_type": str(nearest),
                "share_nearest": float(n_called.max() / len(members)),
                "novelty": float(np.median(novelty[members])),
                "markers": ", ".join(_markers(members, known, rows, genes)),
            }
        )
    columns = ["group", "n_cells", "nearest_type", "share_nearest", "novelty", "markers"]
    return UnknownGroups(codes, pd.DataFrame(table, columns=columns))


def _alike(novel: np.ndarray, neighbors: np.ndarray) -> list[np.ndarray]:
    """Positions of cells -> those of every group of them, largest first."""
    n_cells, k = neighbors.shape
    rows = np.repeat(np.arange(len(novel)), k)
    near = neighbors[novel].ravel()
    is_near = sp.csr_matrix((np.ones(len(near), dtype=bool), (rows, near)), shape=(len(novel), n_cells))[:, novel]
    is_mutual = is_near.multiply(is_near.T).tocsr()
    group = connected_components(is_mutual, directed=False)[1]
    n_members = np.bincount(group)
    order = np.argsort(-n_members, kind="stable")
    return [novel[group == code] for code in order if n_members[code] >= _MIN_CELLS]


def _markers(
    members: np.ndarray, known: np.ndarray, rows: Callable[[np.ndarray], sp.csr_matrix], genes: np.ndarray
) -> list[str]:
    """-> names of the genes that are highest in the members against known cells, by Welch's t; none without known cells."""
    if len(known) < 2:
        return []
    rng = np.random.default_rng(0)
    sides = [np.sort(rng.permutation(side)[:_MAX_COMPARED]) for side in (members, known)]
    counts = rows(np.concatenate(sides))
    is_other = np.arange(counts.shape[1]) >= len(genes)
    compared = AnnData(log_normalize(counts, is_other), var=pd.DataFrame(index=pd.Index(genes)))
    compared.obs["side"] = pd.Categorical(np.repeat(["group", "known"], [len(side) for side in sides]))
    sc.tl.rank_genes_groups(compared, "side", groups=["group"], reference="known", method="t-test")
    found = sc.get.rank_genes_groups_df(compared, "group").head(_N_MARKERS)
    return found.loc[(found["scores"] > 0) & (found["pvals_adj"] < 0.05), "names"].tolist()
