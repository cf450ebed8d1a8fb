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

from transanno._constants import JUDGED_KEY, MISSING_CATEGORY, OTHER_GENES, UNLABELED_CATEGORY
from transanno.checks._arguments import check_adata, check_seed, check_whole_number, one_column
from transanno.checks._data import check_layer, check_not_empty, check_obs_column, check_unique_genes
from transanno.data._find_counts import check_found, find_counts, judge_source, say
from transanno.data._gene_ids import other_features
from transanno.data._labels import as_strings
from transanno.data._match_genes import align_counts, match_genes
from transanno.data._other_genes import gene_shares, with_other_genes
from transanno.data._reference_names import named_as_query
from transanno.data._shared_genes import floor_for_reference, warn_of_few_shared
from transanno.models import TransAnno, TransAnnoPretrain
from transanno.models._base import as_model
from transanno.tl._twin import calibrate_by_twin
from transanno.training._seed import seeded

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
    genes: Sequence[str] | pd.Index | None = None,
    pretrained: TransAnnoPretrain | str | Path | None = None,
    max_epochs: int | None = None,
    seed: int | None = 0,
    calibrate: bool = True,
    **train_kwargs: Any,
) -> TransAnno:
    """Train a model on the highly variable genes of a reference, which is left as it is.

    Cells are normalized by all of their counts, those of genes that the model does not read included.

    Parameters
    ----------
    reference
        Labeled cells with raw counts, or values that they can be restored from, see :func:`transanno.pp.check`.
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
    genes
        Genes to use instead of the highly variable ones, such as those of a panel.
    pretrained
        :class:`transanno.TransAnnoPretrain` model or folder to start from.
    max_epochs, **train_kwargs
        See :meth:`transanno.TransAnno.train`. All cells are trained on, unless there is early stopping or a
        ``train_size``.
    seed
        Seed of all randomness; your session's generators are restored afterwards. ``None``: not seeded.
    calibrate
        Train a second model without a fifth of the cells, whole batches where there are enough, and learn from these how
        much confidence is worth and which cells are unlike the reference. Has no influence on labels, and takes about as
        long as the training itself. If there are validation cells, these are used instead.

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
    if query_genes is not None:
        reference = named_as_query(reference, pd.DataFrame(index=pd.Index(query_genes)))
    measured = reference.var_names[~other_features(reference.var)]  # antibodies and hashtags are no genes
    if query_genes is not None:
        with warnings.catch_warnings():
            # Genes that the query lacks are not used here, and mapping the query reports on those that are.
            warnings.simplefilter("ignore", UserWarning)
            n_required = floor_for_reference(len(measured))
            match = match_genes(query_genes, measured, name="query", min_shared=n_required)
        warn_of_few_shared(match.n_shared, len(measured))
        measured = measured[~match.is_missing]
    adata = _reference_copy(reference, measured, labels_key, batch_key, layer)
    allowed, adds_others = measured.astype(str), True
    if pretrained is not None:
        pretrained = as_model(pretrained, TransAnnoPretrain, argument="pretrained")
        adds_others = pretrained.gene_shares_ is not None
        # Genes without a pretrained embedding would start from nothing; a misfit is reported below.
        known = allowed[allowed.isin(pretrained.genes)]
        allowed = known if len(known) >= _min_shared(len(allowed), len(pretrained.genes)) else allowed
    chosen, shares = _vocabulary(adata, allowed, n_top_genes, genes, batch_key)
    if not adds_others:
        chosen, shares = chosen[:, chosen.var_names != OTHER_GENES].copy(), None

    chosen.uns[JUDGED_KEY] = True

    def make(adata: AnnData) -> TransAnno:
        if pretrained is None:
            TransAnno.setup_anndata(adata, labels_key, unlabeled_category, batch_key=batch_key)
            made = TransAnno(adata)
        else:
            made = TransAnno.from_pretrained(pretrained, adata, labels_key, unlabeled_category, batch_key=batch_key)
        made.gene_shares_ = shares
        return made

    with seeded(seed):
        model = make(chosen)
        # Validation cells would be lost to training, and only early stopping looks at them.
        defaults = {} if train_kwargs.get("early_stopping") else {"train_size": 1.0}
        model.train(max_epochs=max_epochs, **(defaults | train_kwargs))
    if calibrate and model.calibration_ is None:
        calibrate_by_twin(model, make, seed=seed, max_epochs=max_epochs, **train_kwargs)
    return model


def pretrain(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    n_top_genes: int = 2000,
    genes: Sequence[str] | pd.Index | None = None,
    max_epochs: int | None = None,
    seed: int | None = 0,
    **train_kwargs: Any,
) -> TransAnnoPretrain:
    """Pretrain on the highly variable genes of unlabeled cells, which are left as they are.

    Parameters
    ----------
    adata
        Cells with raw counts: an atlas, or reference and query together.
    batch_key, layer, n_top_genes, genes, max_epochs, seed
        See :func:`fit_reference`.
    **train_kwargs
        See :meth:`transanno.TransAnnoPretrain.train`.

    Returns
    -------
    Trained model, for ``pretrained=`` of :func:`fit_reference` or :func:`annotate`.

    Raises
    ------
    ValueError
        If the counts are not raw, or gene names repeat.
    KeyError
        If a column or the layer does not exist.

    Examples
    --------
    >>> pretrained = transanno.tl.pretrain(atlas)
    >>> transanno.tl.annotate(query, reference, labels_key="cell_type", pretrained=pretrained)
    """
    _check_reference(adata, None, batch_key, layer, name="adata")
    measured = adata.var_names[~other_features(adata.var)]
    copied = _reference_copy(adata, measured, None, batch_key, layer, name="adata")
    chosen, shares = _vocabulary(copied, measured.astype(str), n_top_genes, genes, batch_key)
    chosen.uns[JUDGED_KEY] = True
    with seeded(seed):
        TransAnnoPretrain.setup_anndata(chosen, batch_key=batch_key)
        model = TransAnnoPretrain(chosen)
        model.gene_shares_ = shares
        model.train(max_epochs=max_epochs, **train_kwargs)
    return model


def _vocabulary(
    adata: AnnData,
    allowed: pd.Index,
    n_top_genes: int,
    genes: Sequence[str] | pd.Index | None,
    batch_key: str | None,
) -> tuple[AnnData, dict[str, float] | None]:
    """All genes of a reference -> those that the model reads and a column for the others, and the shares of all."""
    if genes is None:
        selected = select_genes(adata[:, allowed], n_top_genes=n_top_genes, batch_key=batch_key)
    else:
        asked = pd.Index(genes).astype(str)
        selected = asked[asked.isin(allowed)].unique()
        if len(selected) < _min_shared(len(allowed), len(asked)):
            raise ValueError(
                f"Of the {len(asked)} names in genes=, {len(selected)} are genes that can be used here, such as "
                f"{', '.join(allowed[:3])}. Name genes that the reference, and the query where it is given, have measured."
            )
    if adata[:, ~adata.var_names.isin(selected)].X.sum() == 0:
        return adata[:, selected].copy(), None
    return with_other_genes(adata, selected), gene_shares(adata.X, adata.var_names)


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
    use_batches = False
    if batch_key is not None:
        batches = as_strings(expressed.obs[batch_key], missing=MISSING_CATEGORY)
        normalized.obs[batch_key] = pd.Categorical(batches)  # of numbers or gaps scanpy makes an error
        use_batches = bool(np.unique(batches, return_counts=True)[1].min() >= 20)
    with np.errstate(divide="ignore", invalid="ignore"):  # genes without variance
        found = sc.pp.highly_variable_genes(
            normalized, n_top_genes=n_top_genes, batch_key=batch_key if use_batches else None, inplace=False
        )
    return expressed.var_names[found["highly_variable"].to_numpy()]


def reference_types(reference: AnnData, labels_key: str, unlabeled_category: str) -> set[str]:
    """-> types that a model of the reference would know."""
    check_obs_column(reference, labels_key, argument="labels_key", name="reference")
    labels = as_strings(reference.obs[labels_key], missing=unlabeled_category)
    return set(labels) - {unlabeled_category}


def _check_reference(
    reference: AnnData, labels_key: str | None, batch_key: str | None, layer: str | None, *, name: str = "reference"
) -> None:
    check_not_empty(reference, name=name)
    check_unique_genes(reference.var_names, name=name)
    check_layer(reference, layer, name=name)
    for argument, key in (("labels_key", labels_key), ("batch_key", batch_key)):
        if key is not None:
            check_obs_column(reference, key, argument=argument, name=name)


def _reference_copy(
    reference: AnnData,
    genes: pd.Index,
    labels_key: str | None,
    batch_key: str | None,
    layer: str | None,
    *,
    name: str = "reference",
) -> AnnData:
    """Counts of some genes and the columns that training reads, apart from the user's object."""
    match = match_genes(reference.var_names, genes, name=name, min_shared=1)
    source = find_counts(reference, layer=layer, name=name)
    judge_source(source, reference, layer, name=name)
    if genes.isin(source.adata.var_names).all():  # raw, where counts may have been found, usually has more genes
        say([source.note])
        match = match_genes(source.adata.var_names, genes, name=name, min_shared=1)
        counts = align_counts(source.adata, match, layer=source.layer, name=name)
    else:
        counts = align_counts(reference, match, layer=layer, name=name)
    check_found(counts, source, reference, layer, name=name, genes=genes)
    obs = pd.DataFrame(index=reference.obs_names.astype(str))
    for key in filter(None, (labels_key, batch_key)):
        obs[key] = reference.obs[key].to_numpy()
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=genes.astype(str)))


def _min_shared(n_reference: int, n_query: int) -> int:
    """A query measured with a small panel shares few of a whole transcriptome's genes, and that is fine."""
    return max(1, min(20, n_reference, n_query))
