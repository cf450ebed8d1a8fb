"""scANVI, trained with the query or carried to it by scArches surgery."""

from __future__ import annotations

from typing import Any

import anndata as ad
import scvi
from anndata import AnnData

from benchmarks._data import BATCH, LABEL
from benchmarks.accuracy._methods import UNLABELED, Fitted, Prediction, from_probabilities, selected

_TRAIN: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


def joint(
    reference: AnnData, *, seed: int, cores: int, model: dict[str, Any], scvi_train: dict, scanvi_train: dict
) -> Fitted:
    """One model of both sides, with the query as unlabeled cells: all training is part of the prediction."""

    def predict(query: AnnData) -> Prediction:
        scvi.settings.seed = seed
        both = ad.concat([selected(reference), _unlabeled(query)], index_unique="-", keys=["reference", "query"])
        trained = _train(both, model, scvi_train, scanvi_train)
        return from_probabilities(trained.predict(both[reference.n_obs :].copy(), soft=True))

    return {"": predict}


def surgery(
    reference: AnnData,
    *,
    seed: int,
    cores: int,
    model: dict[str, Any],
    scvi_train: dict,
    scanvi_train: dict,
    query_train: dict,
) -> Fitted:
    """A model of the reference; the query's batches are added to it and trained."""
    scvi.settings.seed = seed
    trained = _train(selected(reference), model, scvi_train, scanvi_train)

    def predict(query: AnnData) -> Prediction:
        query = _unlabeled(query)
        query_model = scvi.model.SCANVI.load_query_data(query, trained, accelerator="cpu")
        query_model.train(**query_train, **_TRAIN)
        return from_probabilities(query_model.predict(soft=True))

    return {"": predict}


def _train(adata: AnnData, model: dict, scvi_train: dict, scanvi_train: dict) -> scvi.model.SCANVI:
    scvi.model.SCVI.setup_anndata(adata, batch_key=BATCH)
    pretrained = scvi.model.SCVI(adata, **model)
    pretrained.train(**scvi_train, **_TRAIN)
    trained = scvi.model.SCANVI.from_scvi_model(pretrained, labels_key=LABEL, unlabeled_category=UNLABELED)
    trained.train(**scanvi_train, **_TRAIN)
    return trained


def _unlabeled(query: AnnData) -> AnnData:
    query = selected(query)
    query.obs[LABEL] = UNLABELED
    return query
