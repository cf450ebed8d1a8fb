"""What the cells of a type express, from whatever labeled cells there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy.special import softmax

from transanno.checks._data import check_obs_column
from transanno.data._labels import as_strings
from transanno.models._transanno import TransAnno

# Calls of at least this probability stand in for labels where there are none.
_SURE = 0.9
# Fewer cells say little about what a type expresses.
_MIN_CELLS = 3


@dataclass(frozen=True)
class Profiles:
    """Expression of the model's genes in some groups of cells."""

    mean: pd.DataFrame
    """groups × genes, mean log1p of counts per 10,000; NaN where there are too few cells"""
    share: pd.DataFrame
    """groups × genes, share of cells that express the gene"""
    source: str
    """which cells these are"""


def mean_logits(model: TransAnno, adata: AnnData | MuData | None, positions: np.ndarray) -> pd.DataFrame:
    """Some cells -> mean over them, of every label: ``logit``, and ``probability``."""
    _, aligned = model._resolve(adata)
    logits = model._infer("logits", aligned, positions, None).astype(np.float64)
    means = {"logit": logits.mean(axis=0), "probability": softmax(logits, axis=1).mean(axis=0)}
    return pd.DataFrame(means, index=model.labels)


def cell_profile(model: TransAnno, adata: AnnData | MuData | None, positions: np.ndarray) -> Profiles:
    """Some cells -> one profile, of all of them."""
    _, aligned = model._resolve(adata)
    mean, share = model._mean_expression(aligned, positions, np.zeros(len(positions), int), 1)
    return _as_profiles(model, mean, share, ["cells"], "explained cells")


def label_profiles(
    model: TransAnno,
    labels: list[str],
    adata: AnnData | MuData | None,
    reference: AnnData | MuData | None,
    labels_key: str | None,
) -> Profiles:
    """-> profiles of the labels in the reference; without one, in the training cells or in cells surely called so."""
    source, data = "reference", reference
    if reference is None and model.n_reference_batches_ is None and model.adata is not None:
        # `model.adata` may have been replaced by cells without labels; then calls have to do.
        if model._spec.modality is None and model._spec.labels_key in model.adata.obs:
            source, data = "training cells", model.adata
    if data is not None:
        key = labels_key or str(model._spec.labels_key)
        check_obs_column(data, key, argument="labels_key", name="reference" if data is reference else "adata")
        known = as_strings(data.obs[key], missing="")
    else:
        source, data = "confident calls", adata
        probabilities = model.predict(adata, soft=True, key_added=None)
        assert isinstance(probabilities, pd.DataFrame)  # which soft=True makes it
        is_sure = probabilities.max(axis=1).to_numpy() >= _SURE
        known = np.where(is_sure, probabilities.columns.to_numpy()[probabilities.to_numpy().argmax(axis=1)], "")
    _, aligned = model._resolve(data)
    codes = pd.Index(labels).get_indexer(pd.Index(known)).astype(np.int64)
    positions = np.flatnonzero(codes >= 0)
    mean, share = model._mean_expression(aligned, positions, codes[positions], len(labels))
    is_rare = np.bincount(codes[positions], minlength=len(labels)) < _MIN_CELLS
    mean[is_rare] = share[is_rare] = np.nan
    return _as_profiles(model, mean, share, labels, source)


def measured_genes(model: TransAnno, adata: AnnData | MuData | None) -> np.ndarray:
    """-> ``(n_genes,)`` bool, the genes of the model that the data have."""
    _, aligned = model._resolve(adata)
    is_missing = model.module.is_missing.cpu().numpy() if aligned is None else aligned.is_missing
    return ~is_missing[model._is_gene]


def _as_profiles(model: TransAnno, mean: np.ndarray, share: np.ndarray, index: list[str], source: str) -> Profiles:
    mean_table, share_table = (pd.DataFrame(values, index=index, columns=model.genes) for values in (mean, share))
    return Profiles(mean_table, share_table, source)
