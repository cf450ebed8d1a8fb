"""A trained model -> the same model on a query, without the reference's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.model.base import ArchesMixin

from transanno.checks._data import check_choice
from transanno.checks._quiet import calm_libraries
from transanno.data._cells import DataSpec, align
from transanno.data._counts import MatrixCounts
from transanno.data._labels import as_strings
from transanno.models._base import as_model, ignored_gene_warnings


def map_query(
    cls: Any,
    adata: AnnData | MuData,
    reference_model: Any | str | Path,
    *,
    layer: str | None,
    unseen_labels: str,
    **device: Any,
) -> tuple[Any, Any]:
    """-> model of the query, all of whose weights are those of the reference, and the model of the reference.

    Where the counts of the query stay on disk, some of its cells stand for all of them in the registry of scvi-tools, which
    wants them in memory; predictions are of all.
    """
    check_choice("unseen_labels", unseen_labels, ("error", "mask"))
    reference = as_model(reference_model, cls, argument="reference_model")
    spec = reference._spec
    aligned = align(adata, spec, shares=reference.gene_shares_, layer=layer)
    if unseen_labels == "mask":
        _mask_unseen_labels(aligned.obs, spec, reference.labels, reference.registry["setup_args"]["unlabeled_category"])
    is_whole = isinstance(aligned.counts, MatrixCounts)
    registered = (aligned if is_whole else aligned.stand_in()).to_registrable()
    with ignored_gene_warnings(), calm_libraries():
        # Ours would call this again.
        load = ArchesMixin.load_query_data.__func__  # type: ignore[attr-defined]
        model = load(cls, registered, reference, unfrozen=True, **device)
    model._attach(adata, layer=layer, cells=None if is_whole else model._encode(aligned))
    # scvi-tools hands the reference's training record down to the query model.
    model.history_ = None
    model.train_indices_ = model.validation_indices_ = model.test_indices_ = None
    model.is_trained_ = True
    return model, reference


def _mask_unseen_labels(obs: pd.DataFrame, spec: DataSpec, classes: np.ndarray, unlabeled_category: str) -> None:
    """Turn labels that the model does not know into the unlabeled category, in our copy of ``obs``."""
    if spec.labels_key in obs:
        labels = as_strings(obs[spec.labels_key], missing=unlabeled_category)
        obs[spec.labels_key] = np.where(np.isin(labels, classes.astype(str)), labels, unlabeled_category)
