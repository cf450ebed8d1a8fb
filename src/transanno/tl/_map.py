"""Fit, map, predict: the steps that every way to an annotation takes."""

from __future__ import annotations

from typing import Any

from anndata import AnnData
from mudata import MuData

from transanno.checks._arguments import check_adata, one_column
from transanno.checks._data import check_not_repeated, check_obs_column
from transanno.data._cells import check_query
from transanno.data._labels import as_strings
from transanno.data._layers import layer_of_each
from transanno.data._lazy import with_tables
from transanno.data._reference_names import named_as_query
from transanno.models import TransAnno
from transanno.models._predict import predict_cells
from transanno.predictions._predict import Asked
from transanno.predictions._result import Predictions, check_fdr, check_unassigned_threshold
from transanno.tl._reference import fit_reference
from transanno.training._seed import seeded


def fit_for_query(
    query: AnnData | MuData,
    reference: AnnData,
    labels_key: str,
    *,
    layer: str | None,
    unlabeled_category: str,
    asked: Asked,
    **fit_kwargs: Any,
) -> tuple[TransAnno, str | None]:
    """Train a model on the genes that both have, once it is sure that the query can be annotated by it.

    -> the model, and ``layer`` if the query has it, else None: one of both may keep its counts elsewhere.
    """
    check_adata(query, name="query")
    for key in (labels_key, one_column(fit_kwargs.get("batch_key"), argument="batch_key")):
        check_not_repeated(query.obs, key, name="query")
    reference = with_tables(reference)
    reference_layer, layer = layer_of_each(reference, query, layer)
    reference = named_as_query(reference, query.var)
    query_genes = check_query(query, reference.var_names, layer=layer)
    check_obs_column(reference, labels_key, argument="labels_key", name="reference")
    types = set(as_strings(reference.obs[labels_key].drop_duplicates(), missing=unlabeled_category))
    check_unassigned_threshold(asked.unassigned_threshold, types - {unlabeled_category})
    check_fdr(asked.fdr, types - {unlabeled_category})
    model = fit_reference(
        reference,
        labels_key,
        layer=reference_layer,
        unlabeled_category=unlabeled_category,
        query_genes=query_genes,
        **fit_kwargs,
    )
    return model, layer


def map_and_predict(
    query: AnnData | MuData,
    model: Any,
    asked: Asked,
    *,
    layer: str | None = None,
    seed: int | None = 0,
    accelerator: str = "auto",
) -> tuple[TransAnno, Predictions]:
    """Query and trained model or folder of one -> model of the query, and what it predicts; nothing is written."""
    with seeded(seed):
        query_model = TransAnno.load_query_data(
            query, model, accelerator=accelerator, unseen_labels="mask", layer=layer
        )
    return query_model, predict_cells(query_model, None, None, asked)[0]
