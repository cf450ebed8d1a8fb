"""A trained model from a labeled reference, with the defaults that users should not have to know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from transanno._constants import UNLABELED_CATEGORY
from transanno.checks._arguments import check_adata, check_seed, check_whole_number, one_column
from transanno.checks._data import check_layer, check_not_empty, check_obs_column, check_unique_genes
from transanno.checks._warn import telling_nothing
from transanno.data._colors import read_colors
from transanno.data._gene_ids import other_features
from transanno.data._lazy import with_tables
from transanno.data._match_genes import match_genes
from transanno.data._reference import WantedGenes, least_shared, read_reference
from transanno.data._reference_names import named_as_query
from transanno.data._shared_genes import floor_for_reference, warn_of_few_shared
from transanno.models import TransAnno, TransAnnoPretrain
from transanno.models._base import as_model
from transanno.tl._in_pieces import as_one_object
from transanno.tl._twin import calibrate_by_twin, can_have_twin
from transanno.training._progress import stage
from transanno.training._seed import seeded


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
        Labeled cells with raw counts, or values that they can be restored from, see :func:`transanno.pp.check`. In memory, on
        disk or lazy: it is read twice, in blocks of cells, and the counts of the model's genes are kept. An
        :class:`anndata.experimental.AnnCollection`, or a Lightning data module of scvi-tools, which has the columns that it was made
        with, is read once, into a temporary file.
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
    batch_key = one_column(batch_key, argument="batch_key")
    check_whole_number("n_top_genes", n_top_genes, 1)
    check_seed(seed)
    has_bar = bool(train_kwargs.get("enable_progress_bar", True))
    with as_one_object(
        reference, layer=layer, name="reference", unlabeled_category=unlabeled_category, has_bar=has_bar
    ) as reference:
        check_adata(reference, name="reference", may_be_lazy=True)
        reference = with_tables(reference)
        _check_reference(reference, labels_key, batch_key, layer)
        if query_genes is not None:
            reference = named_as_query(reference, pd.DataFrame(index=pd.Index(query_genes)))
        measured = reference.var_names[~other_features(reference.var)]  # antibodies and hashtags are no genes
        if query_genes is not None:
            # Genes that the query lacks are not used here, and mapping the query reports on those that are.
            with telling_nothing():
                match = match_genes(query_genes, measured, name="query", min_shared=floor_for_reference(len(measured)))
            warn_of_few_shared(match.n_shared, len(measured))
            measured = measured[~match.is_missing]
        allowed, adds_others = measured.astype(str), True
        if pretrained is not None:
            pretrained = as_model(pretrained, TransAnnoPretrain, argument="pretrained")
            adds_others = pretrained.gene_shares_ is not None
            # Genes without a pretrained embedding would start from nothing; a misfit is reported below.
            known = allowed[allowed.isin(pretrained.genes)]
            allowed = known if len(known) >= least_shared(len(allowed), len(pretrained.genes)) else allowed
        wanted = WantedGenes(measured.astype(str), allowed, genes, n_top_genes, adds_others)
        colors = read_colors(reference, labels_key)
        adata, shares = read_reference(reference, wanted, labels_key, batch_key, layer, name="reference")

    def make(adata: AnnData) -> TransAnno:
        if pretrained is None:
            TransAnno.setup_anndata(adata, labels_key, unlabeled_category, batch_key=batch_key)
            made = TransAnno(adata)
        else:
            made = TransAnno.from_pretrained(pretrained, adata, labels_key, unlabeled_category, batch_key=batch_key)
        made.gene_shares_, made.label_colors_ = shares, colors
        return made

    with seeded(seed):
        model = make(adata)
        # Validation cells would be lost to training, and only early stopping looks at them.
        defaults = {} if train_kwargs.get("early_stopping") else {"train_size": 1.0}
        arguments = defaults | train_kwargs
        is_first = calibrate and arguments.get("train_size") == 1.0 and can_have_twin(model)
        with stage("training 1/2" if is_first else "training"):
            model.train(max_epochs=max_epochs, **arguments)
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
        Cells with raw counts: an atlas, or reference and query together. May be what a reference of :func:`fit_reference` may be.
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
    has_bar = bool(train_kwargs.get("enable_progress_bar", True))
    with as_one_object(adata, layer=layer, name="adata", has_bar=has_bar) as adata:
        check_adata(adata, name="adata", may_be_lazy=True)
        adata = with_tables(adata)
        _check_reference(adata, None, batch_key, layer, name="adata")
        measured = adata.var_names[~other_features(adata.var)]
        wanted = WantedGenes(measured.astype(str), measured.astype(str), genes, n_top_genes)
        chosen, shares = read_reference(adata, wanted, None, batch_key, layer, name="adata")
    with seeded(seed):
        TransAnnoPretrain.setup_anndata(chosen, batch_key=batch_key)
        model = TransAnnoPretrain(chosen)
        model.gene_shares_ = shares
        model.train(max_epochs=max_epochs, **train_kwargs)
    return model


def _check_reference(
    reference: AnnData, labels_key: str | None, batch_key: str | None, layer: str | None, *, name: str = "reference"
) -> None:
    check_not_empty(reference, name=name)
    check_unique_genes(reference.var_names, name=name)
    check_layer(reference, layer, name=name, may_be_lazy=True)
    for argument, key in (("labels_key", labels_key), ("batch_key", batch_key)):
        if key is not None:
            check_obs_column(reference, key, argument=argument, name=name)
