"""What a cross-validation reads of the user's data, and which cells are copies of others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from anndata import AnnData

from transanno.checks._data import check_layer, check_not_empty, check_obs_column, check_unique_genes
from transanno.data._align_counts import align_counts
from transanno.data._copies import identical_cells
from transanno.data._labels import as_strings
from transanno.data._match_genes import match_genes


@dataclass(frozen=True)
class LabeledCells:
    """The cells that have a label, apart from the user's object."""

    cells: AnnData
    """counts of all genes, labels and batches"""
    positions: np.ndarray
    """``(n_labeled,)``, where they are in the user's object"""
    labels: np.ndarray
    """``(n_labeled,)`` str"""
    groups: np.ndarray | None
    """``(n_labeled,)`` str"""
    copies: np.ndarray
    """``(n_labeled,)`` int, the same for cells with the same counts"""

    def without_copies(self) -> LabeledCells:
        """-> the first of every set of cells with the same counts."""
        first = np.sort(np.unique(self.copies, return_index=True)[1])
        return replace(
            self,
            cells=self.cells[first].copy(),
            positions=self.positions[first],
            labels=self.labels[first],
            groups=None if self.groups is None else self.groups[first],
            copies=self.copies[first],
        )


def labeled_cells(
    adata: AnnData,
    labels_key: str,
    groups_key: str | None,
    batch_key: str | None,
    layer: str | None,
    unlabeled_category: str,
) -> LabeledCells:
    """The user's data -> cells with a label.

    Raises
    ------
    ValueError
        If no cell is labeled, a labeled one has no group, or gene names repeat.
    KeyError
        If a column or the layer does not exist.
    """
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"adata is a {type(adata).__name__}. Allowed: AnnData. Of a MuData, pass the modality that holds the counts, "
            'for example mdata["rna"].'
        )
    check_not_empty(adata, name="adata")
    check_unique_genes(adata.var_names, name="adata")
    check_layer(adata, layer, name="adata")
    keys = {"labels_key": labels_key, "groups_key": groups_key, "batch_key": batch_key}
    for argument, key in keys.items():
        if key is not None:
            check_obs_column(adata, key, argument=argument, name="adata")
    labels = as_strings(adata.obs[labels_key], missing=unlabeled_category)
    positions = np.flatnonzero(labels != unlabeled_category)
    if not len(positions):
        raise ValueError(
            f"No cell is labeled: obs[{labels_key!r}] holds NaN or {unlabeled_category!r} only. Name another column."
        )
    obs = pd.DataFrame({labels_key: labels[positions]}, index=adata.obs_names[positions].astype(str))
    if batch_key is not None:
        obs[batch_key] = adata.obs[batch_key].to_numpy()[positions]
    match = match_genes(adata.var_names, adata.var_names, min_shared=1, name="adata")
    counts = align_counts(adata, match, layer=layer, name="adata")[positions]
    cells = AnnData(counts, obs=obs, var=pd.DataFrame(index=match.vocabulary))
    groups = None if groups_key is None else _groups(adata.obs[groups_key].iloc[positions])
    return LabeledCells(cells, positions, labels[positions], groups, identical_cells(counts))


def _groups(column: pd.Series) -> np.ndarray:
    n_missing = int(column.isna().sum())
    if n_missing:
        raise ValueError(
            f"{n_missing} of {len(column)} labeled cells have no value in obs[{column.name!r}], so it is unknown which "
            "cells have to be held out together with them. Fill the column in, or leave these cells out."
        )
    return as_strings(column, missing="")
