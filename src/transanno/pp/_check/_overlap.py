"""Which genes decide a cell type, and how many of them a query measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from transanno._constants import UNLABELED_CATEGORY
from transanno.checks._data import check_not_empty, check_obs_column
from transanno.checks._warn import telling_nothing
from transanno.data._counts import Counts, in_memory
from transanno.data._find_counts import CountsSource, read_counts
from transanno.data._gene_ids import other_features
from transanno.data._labels import as_strings
from transanno.data._log_normalize import log_normalize
from transanno.pp._check._values import READING_ERRORS, counts_of

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
    """``(n_obs, n_genes)`` of the reference, None if they are no counts, and for a model without its cells"""
    others: frozenset[str] = frozenset()
    """further genes that a model reads, by their sum"""


def what_is_known(source: Any, *, layer: str | None, labels_key: str | None) -> Known:
    """Reference, trained model or folder of one -> its genes, those that decide its types, and its counts."""
    if isinstance(source, AnnData):
        return _of_reference(source, layer, labels_key)
    # Only here: whoever has a model has loaded torch anyway.
    from transanno.models import TransAnno, TransAnnoPretrain
    from transanno.models._base import as_model
    from transanno.models._explain import deciding_weights

    if isinstance(source, str | Path):
        source = as_model(source, TransAnno, argument="reference_or_model")
    if not isinstance(source, TransAnno | TransAnnoPretrain):
        raise TypeError(
            f"reference_or_model is a {type(source).__name__}. Allowed: a labeled AnnData, a trained model, or the folder of "
            "a saved TransAnno model."
        )
    # Of a query model, the cells are those of a query: copies of them are no leak, and their labels nothing that it knows.
    has_reference = source.adata is not None and getattr(source, "n_reference_batches_", None) is None
    codes = source._label_codes() if isinstance(source, TransAnno) and has_reference else None
    weights = None if isinstance(source, TransAnnoPretrain) else deciding_weights(source)
    counts = source._registered_cells().counts if has_reference else None
    known = _of_model(source.genes, source._is_gene, getattr(source, "labels", None), counts, codes, weights)
    return replace(known, others=frozenset(source.gene_shares_ or ()) - set(source.genes))


def _of_reference(reference: AnnData, layer: str | None, labels_key: str | None) -> Known:
    check_not_empty(reference, name="reference")
    genes = pd.Index(reference.var_names).astype(str)[~other_features(reference.var)].unique()

    def read(source: CountsSource) -> sp.csr_matrix:
        counts = counts_of(source, genes, name="reference")
        source.judge()
        return in_memory(counts, source.checked(counts, genes)).matrix

    try:
        with telling_nothing():
            counts = read_counts(reference, read, layer=layer, name="reference")
    except READING_ERRORS:  # said of the genes that the query shares, once these are known
        counts = None
    if counts is None or labels_key is None:
        return Known("reference", genes, None, counts)
    check_obs_column(reference, labels_key, argument="labels_key", name="reference")
    labels = as_strings(reference.obs[labels_key], missing=UNLABELED_CATEGORY)
    types = np.array(sorted(set(labels) - {UNLABELED_CATEGORY}), dtype=object)
    codes = pd.Index(types).get_indexer(pd.Index(labels, dtype=object))
    return Known("reference", genes, deciding_by_mean(counts, codes, types, genes), counts)


def _of_model(
    genes: pd.Index,
    is_gene: np.ndarray,
    labels: np.ndarray | None,
    counts: Counts | None,
    codes: np.ndarray | None,
    weights: np.ndarray | None,
) -> Known:
    """Genes, labels, registered counts and codes of labels, weights of the linear expert, or None -> what a model knows."""
    deciding, read = None, None if counts is None else in_memory(counts).matrix[:, is_gene]
    if (
        labels is not None
        and read is not None
        and codes is not None
        and len(np.unique(codes[codes >= 0])) == len(labels)
    ):
        deciding = deciding_by_mean(read, codes, labels, genes)
    elif labels is not None and weights is not None:  # without cells of the reference
        deciding = _largest(weights, labels, genes)
    return Known("model", genes, deciding, read)


def deciding_by_mean(
    counts: sp.csr_matrix, codes: np.ndarray, types: np.ndarray, genes: pd.Index
) -> dict[str, list[str]]:
    """Genes by the difference of their mean log1p of counts per 10,000 in a type from the mean over the other types.

    ``codes (n_obs,)`` are positions in ``types``, -1 for cells without one.
    """
    rows = np.flatnonzero(codes >= 0)
    is_of_type = sp.csr_matrix((np.ones(len(rows)), (codes[rows], rows)), shape=(len(types), len(codes)))
    means = (is_of_type @ log_normalize(counts)).toarray() / np.maximum(np.asarray(is_of_type.sum(axis=1)), 1)
    others = (means.sum(axis=0) - means) / max(len(types) - 1, 1)
    return _largest(means - others, types, genes)


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
