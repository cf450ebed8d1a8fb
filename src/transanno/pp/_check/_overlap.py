"""Which genes decide a cell type, and how many of them a query measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scvi import REGISTRY_KEYS

from transanno._constants import TARGET_SUM, UNLABELED_CATEGORY
from transanno.checks._data import check_not_empty, check_obs_column
from transanno.data._find_counts import find_counts
from transanno.data._gene_ids import other_features
from transanno.data._labels import as_strings
from transanno.data._match_genes import align_counts, match_genes
from transanno.models import TransAnno, TransAnnoPretrain
from transanno.models._base import TransAnnoBase, as_model
from transanno.nn import CellTypeHead

if TYPE_CHECKING:
    from collections.abc import Mapping

# Genes that are said to decide a type; of few genes a tenth, so that they are a choice.
_N_DECIDING, _DECIDING_SHARE = 50, 0.1


@dataclass(frozen=True, eq=False)
class Known:
    """What a reference or a model knows."""

    what: str
    """``"reference"`` or ``"model"``"""
    genes: pd.Index
    """``(n_genes,)``"""
    deciding: Mapping[str, list[str]] | None
    """genes that decide each type, the most important first"""
    counts: sp.csr_matrix | None
    """``(n_obs, n_genes)`` of the reference, None for a model without its data"""
    others: frozenset[str] = frozenset()
    """further genes that a model reads, by their sum"""


def what_is_known(source: AnnData | TransAnnoBase | str | Path, *, layer: str | None, labels_key: str | None) -> Known:
    """Reference, trained model or folder of one -> its genes, those that decide its types, and its counts."""
    if isinstance(source, AnnData):
        return _of_reference(source, layer, labels_key)
    if isinstance(source, str | Path):
        source = as_model(source, TransAnno, argument="reference_or_model")
    if not isinstance(source, TransAnno | TransAnnoPretrain):
        raise TypeError(
            f"reference_or_model is a {type(source).__name__}. Allowed: a labeled AnnData, a trained model, or the folder of "
            "a saved TransAnno model."
        )
    return _of_model(source)


def _of_reference(reference: AnnData, layer: str | None, labels_key: str | None) -> Known:
    check_not_empty(reference, name="reference")
    # Reference and query need not keep their counts in layers of the same name.
    layer = layer if layer in reference.layers else None
    genes = pd.Index(reference.var_names).astype(str)[~other_features(reference.var)].unique()
    source = find_counts(reference, layer=layer, name="reference")
    found = pd.Index(source.adata.var_names).astype(str)
    if source.matrix is None or not genes.isin(found).all():
        return Known("reference", genes, None, None)
    match = match_genes(found, genes, min_shared=1, name="reference")
    counts = align_counts(source.adata, match, layer=source.layer, name="reference")
    deciding = None
    if labels_key is not None:
        check_obs_column(reference, labels_key, argument="labels_key", name="reference")
        labels = as_strings(reference.obs[labels_key], missing=UNLABELED_CATEGORY)
        deciding = deciding_by_mean(counts, labels, genes)
    return Known("reference", genes, deciding, counts)


def _of_model(model: TransAnno | TransAnnoPretrain) -> Known:
    counts = deciding = None
    if model.adata is not None:
        counts = sp.csr_matrix(model._registered_counts(), dtype=np.float32)[:, model._is_gene]
    if isinstance(model, TransAnno):
        if counts is not None:
            codes = np.asarray(model.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel().astype(int)
            labels = np.append(model.labels.astype(object), UNLABELED_CATEGORY)[codes]
            if np.isin(model.labels, labels).all():  # else these are the cells of a query
                deciding = deciding_by_mean(counts, labels, model.genes)
        head = model.module.classifier
        if deciding is None and isinstance(head, CellTypeHead):
            weights = head.linear_weight.cpu().numpy()[:, model._is_gene]
            # Weights are per unit of expression: a rare gene's is large and seldom used. The root of the mean stands for
            # the spread, which a model without data does not know.
            spread = model.module.mean_expression.sqrt().cpu().numpy()[model._is_gene]
            deciding = _largest((weights - weights.mean(axis=0)) * spread, model.labels, model.genes)
    return Known("model", model.genes, deciding, counts, frozenset(model.gene_shares_ or ()) - set(model.genes))


def deciding_by_mean(counts: sp.csr_matrix, labels: np.ndarray, genes: pd.Index) -> dict[str, list[str]]:
    """Genes by the difference of their mean log1p of counts per 10,000 in a type from the mean over the other types."""
    classes = sorted(set(labels) - {UNLABELED_CATEGORY})
    totals = np.asarray(counts.sum(axis=1)).ravel()
    factors = np.divide(TARGET_SUM, totals, out=np.zeros(len(totals)), where=totals > 0)
    logged = sp.csr_matrix(
        (np.log1p(counts.data * np.repeat(factors, np.diff(counts.indptr))), counts.indices, counts.indptr),
        shape=counts.shape,
    )
    codes = pd.Index(classes, dtype=object).get_indexer(pd.Index(labels, dtype=object))
    rows = np.flatnonzero(codes >= 0)
    is_of_class = sp.csr_matrix((np.ones(len(rows)), (codes[rows], rows)), shape=(len(classes), len(labels)))
    means = (is_of_class @ logged).toarray() / np.maximum(np.asarray(is_of_class.sum(axis=1)), 1)
    others = (means.sum(axis=0) - means) / max(len(classes) - 1, 1)
    return _largest(means - others, np.array(classes, dtype=object), genes)


def _largest(importance: np.ndarray, classes: np.ndarray, genes: pd.Index) -> dict[str, list[str]]:
    """Importance ``(n_labels, n_genes)`` -> the genes of highest positive importance of every type."""
    n = min(_N_DECIDING, max(1, round(_DECIDING_SHARE * len(genes))))
    order = np.argsort(-importance, axis=1, kind="stable")[:, :n]
    return {
        str(name): [str(genes[i]) for i in columns if row[i] > 0]
        for name, row, columns in zip(classes, importance, order, strict=True)
    }


def coverage(deciding: Mapping[str, list[str]], measured: set[str]) -> pd.DataFrame:
    """Deciding genes & those that a query has -> a row per type."""
    rows = {}
    for name, genes in deciding.items():
        missing = [gene for gene in genes if gene not in measured]
        n_measured = len(genes) - len(missing)
        rows[name] = [len(genes), n_measured, n_measured / len(genes) if genes else np.nan, ", ".join(missing)]
    columns = ["n_genes", "n_measured", "share", "missing"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.astype({"n_genes": int, "n_measured": int, "share": float})
