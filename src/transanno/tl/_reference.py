"""A trained model from a labeled reference, with the defaults that users should not have to know."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from transanno._arguments import check_adata, check_seed, check_whole_number, one_column
from transanno._constants import UNLABELED_CATEGORY
from transanno._genes import align_counts, match_genes
from transanno._labels import as_strings
from transanno._seed import seeded
from transanno._validation import check_counts, check_layer, check_not_empty, check_obs_column, check_unique_genes
from transanno.models import TransAnno, TransAnnoPretrain
from transanno.models._base import as_model

logger = logging.getLogger(__name__)


def fit_reference(
    reference: AnnData,
    labels_key: str,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    unlabeled_category: str = UNLABELED_CATEGORY,
    query_genes: Sequence[str] | pd.Index | None = None,
    n_top_genes: int = 2000,
    pretrained: TransAnnoPretrain | str | Path | None = None,
    max_epochs: int | None = None,
    seed: int | None = 0,
    **train_kwargs: Any,
) -> TransAnno:
    """Train a model on the highly variable genes of a reference, which is left as it is.

    Parameters
    ----------
    reference
        Labeled cells with raw counts.
    labels_key
        Column of ``obs`` with the cell types.
    batch_key
        Column of ``obs`` with technical batches; leave it out where batch and cell type coincide.
    layer
        Layer of raw counts. Default: ``X``.
    unlabeled_category
        Label that marks unlabeled cells; NaN does, too.
    query_genes
        Genes of the query, if it is at hand: the model then uses genes that both have.
    n_top_genes
        Number of highly variable genes. More is slower and rarely better.
    pretrained
        :class:`transanno.TransAnnoPretrain` model or folder to start from.
    max_epochs, **train_kwargs
        See :meth:`transanno.TransAnno.train`.
    seed
        Seed of all randomness; your session's generators are restored afterwards. ``None``: not seeded.

    Returns
    -------
    Trained model.

    Raises
    ------
    ValueError
        If the counts are not raw, gene names repeat, fewer than two types are labeled, or too few genes are shared.
    KeyError
        If a column or the layer does not exist.

    Examples
    --------
    >>> model = transanno.tl.fit_reference(reference, "cell_type")
    >>> model.save("model/")
    """
    check_adata(reference, name="reference")
    batch_key = one_column(batch_key, argument="batch_key")
    check_whole_number("n_top_genes", n_top_genes, 1)
    check_seed(seed)
    _check_reference(reference, labels_key, batch_key, layer)
    genes = reference.var_names
    if query_genes is not None:
        with warnings.catch_warnings():
            # Genes that the query lacks are not used here, and mapping the query reports on those that are.
            warnings.simplefilter("ignore", UserWarning)
            match = match_genes(query_genes, genes, name="query", min_shared=_min_shared(len(genes), len(query_genes)))
        genes = genes[~match.is_missing]
    if pretrained is not None:
        pretrained = as_model(pretrained, TransAnnoPretrain, argument="pretrained")
        # Genes without a pretrained embedding would start from nothing; a misfit is reported below.
        known = genes[genes.isin(pretrained.genes)]
        genes = known if len(known) >= _min_shared(len(genes), len(pretrained.genes)) else genes
    adata = _reference_copy(reference, genes, labels_key, batch_key, layer)
    genes = select_genes(adata, n_top_genes=n_top_genes, batch_key=batch_key)
    adata = adata[:, genes].copy()
    with seeded(seed):
        if pretrained is None:
            TransAnno.setup_anndata(adata, labels_key, unlabeled_category, batch_key=batch_key)
            model = TransAnno(adata)
        else:
            model = TransAnno.from_pretrained(pretrained, adata, labels_key, unlabeled_category, batch_key=batch_key)
        model.train(max_epochs=max_epochs, **train_kwargs)
    return model


def select_genes(adata: AnnData, *, n_top_genes: int = 2000, batch_key: str | None = None) -> pd.Index:
    """Highly variable genes of raw counts in ``adata.X``, in the order of ``adata.var_names``.

    Parameters
    ----------
    adata
        Cells with raw counts in ``X``; not changed.
    n_top_genes
        Number of genes; all expressed genes if there are fewer.
    batch_key
        Column of ``obs``: genes that vary within many batches are preferred.

    Returns
    -------
    Names of the genes.
    """
    is_expressed = np.asarray((adata.X > 0).sum(axis=0)).ravel() > 0
    expressed = adata[:, is_expressed]
    if expressed.n_vars <= n_top_genes:
        return expressed.var_names
    normalized = AnnData(expressed.X.copy(), obs=expressed.obs.copy(), var=pd.DataFrame(index=expressed.var_names))
    sc.pp.normalize_total(normalized, target_sum=1e4)
    sc.pp.log1p(normalized)
    if (normalized.X.max(axis=0) != normalized.X.min(axis=0)).sum() == 0:
        raise ValueError(
            f"No gene varies among the {normalized.n_obs} cells of the reference, so there is nothing to tell types by. Check "
            "that the matrix holds counts of cells, and the filters that made it."
        )
    # Batches of a few cells tell nothing about variability, and scanpy's bins fail on them.
    use_batches = batch_key is not None and normalized.obs[batch_key].value_counts().loc[lambda n: n > 0].min() >= 20
    with np.errstate(divide="ignore", invalid="ignore"):  # genes without variance
        found = sc.pp.highly_variable_genes(
            normalized, n_top_genes=n_top_genes, batch_key=batch_key if use_batches else None, inplace=False
        )
    return expressed.var_names[found["highly_variable"].to_numpy()]


def reference_types(reference: AnnData, labels_key: str, unlabeled_category: str) -> set[str]:
    """-> types that a model of the reference would know."""
    check_obs_column(reference, labels_key, argument="labels_key", name="reference")
    labels = as_strings(reference.obs[labels_key].drop_duplicates(), missing=unlabeled_category)
    return set(labels) - {unlabeled_category}


def _check_reference(reference: AnnData, labels_key: str, batch_key: str | None, layer: str | None) -> None:
    check_not_empty(reference, name="reference")
    check_unique_genes(reference.var_names, name="reference")
    check_layer(reference, layer, name="reference")
    check_obs_column(reference, labels_key, argument="labels_key", name="reference")
    if batch_key is not None:
        check_obs_column(reference, batch_key, argument="batch_key", name="reference")


def _reference_copy(
    reference: AnnData, genes: pd.Index, labels_key: str, batch_key: str | None, layer: str | None
) -> AnnData:
    """Counts of some genes and the columns that training reads, apart from the user's object."""
    match = match_genes(reference.var_names, genes, name="reference", min_shared=1)
    counts = align_counts(reference, match, layer=layer, name="reference")
    check_counts(counts, name="reference.X" if layer is None else f'reference.layers["{layer}"]')
    obs = pd.DataFrame(index=reference.obs_names.astype(str))
    for key in filter(None, (labels_key, batch_key)):
        obs[key] = reference.obs[key].to_numpy()
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=genes.astype(str)))


def _min_shared(n_reference: int, n_query: int) -> int:
    """A query measured with a small panel shares few of a whole transcriptome's genes, and that is fine."""
    return max(1, min(20, n_reference, n_query))
