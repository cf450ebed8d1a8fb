"""transanno: the steps of ``tl.annotate``, and the same with parts added."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import scvi
from anndata import AnnData

import transanno
from benchmarks._data import BATCH, LABEL
from benchmarks.accuracy._methods import SELECTED, UNLABELED, Fitted, Predict, Prediction, from_probabilities, selected
from transanno.nn import CellTypeHead, Shares
from transanno.predictions._neighbors import Surroundings
from transanno.predictions._refine import average_neighbors, refine_probabilities

_TRAIN: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


def annotate(reference: AnnData, *, seed: int, cores: int, **train: Any) -> Fitted:
    """What ``tl.annotate`` does; without its refinement; and the Transformer alone, refined."""
    model = _fit(reference, seed, train)

    def deep(query: AnnData) -> Prediction:
        with model.module.classifier.weighted(Shares(deep=1.0)):
            return _predict(model, refine=True)(query)

    return {"": _predict(model, refine=True), ", unrefined": _predict(model, refine=False), ", Transformer alone": deep}


# What `--nested` chooses from: whose word counts for how much, and what the query as a whole is asked.
SHARES = {
    "linear": Shares(0.0, 1.0, 0.0),
    "Transformer": Shares(1.0, 0.0, 0.0),
    "linear + cosine": Shares(0.0, 0.5, 0.5),
    "Transformer + linear": Shares(0.5, 0.5, 0.0),
    "all three": Shares(1 / 3, 1 / 3, 1 / 3),
    "all three, Transformer 3/5": Shares(0.6, 0.2, 0.2),
}


def settings(reference: AnnData, *, seed: int, cores: int, concentration: float) -> Fitted:
    """One training, predicted from in all the ways that ``--nested`` chooses from.

    ``concentration`` says how even the compositions of episodes are.
    """
    with mock.patch("transanno.training._episodes._CONCENTRATION", concentration):
        model = _fit(reference, seed, {}, calibrate=False)

    found: dict[str, Any] = {}  # of the query, which is the same for all ways

    def read(query: AnnData) -> None:
        query_model = _load(query, model)
        head = query_model.module.classifier
        assert isinstance(head, CellTypeHead)
        for name, shares in SHARES.items():
            with head.weighted(shares):
                found[name] = np.asarray(query_model.predict(soft=True, key_added=None))
        counts = query_model._registered_cells().counts
        found["around"] = Surroundings.of(counts, np.arange(query.n_obs), ~query_model._is_gene)

    def predict(name: str, refine: _Refine, query: AnnData) -> Prediction:
        if not found:
            read(query)
        return from_probabilities(refine(found[name], found["around"]), model.labels)

    return {
        f", {name}{suffix}": partial(predict, name, refine)
        for name in SHARES
        for suffix, refine in _REFINEMENTS.items()
    }


_Refine = Callable[[np.ndarray, Surroundings | None], np.ndarray]
_REFINEMENTS: dict[str, _Refine] = {
    "": lambda probabilities, around: probabilities,
    ", neighbors": lambda probabilities, around: (
        probabilities if around is None else average_neighbors(probabilities, around.neighbors)
    ),
    ", neighbors, query": refine_probabilities,
}


def with_batches(reference: AnnData, *, seed: int, cores: int, **train: Any) -> Fitted:
    """With a batch column, which training on the query needs; with and without that."""
    model = _fit(reference, seed, train, batch_key=BATCH)

    def adapted(query: AnnData) -> Prediction:
        scvi.settings.seed = seed
        query_model = _load(query, model)
        query_model.train(**_TRAIN)
        return from_probabilities(query_model.predict(soft=True, refine=True, key_added=None))

    return {"": _predict(model, refine=True), " + query training": adapted}


def other_encoder(reference: AnnData, *, seed: int, cores: int, encoder: str, **train: Any) -> Fitted:
    """Another encoder; ``tl.fit_reference`` has the default one."""
    scvi.settings.seed = seed
    adata = selected(reference)
    transanno.TransAnno.setup_anndata(adata, LABEL, UNLABELED)
    model = transanno.TransAnno(adata, encoder=encoder)
    model.train(**train, **_TRAIN)
    return {"": _predict(model, refine=True), ", unrefined": _predict(model, refine=False)}


def _genes(reference: AnnData) -> list[str]:
    """The genes that all methods use; other genes count in the totals, as in the other methods."""
    return reference.var_names[reference.var[SELECTED].to_numpy()].tolist()


def _fit(reference: AnnData, seed: int, train: dict[str, Any], **options: Any) -> transanno.TransAnno:
    return transanno.tl.fit_reference(
        reference,
        LABEL,
        unlabeled_category=UNLABELED,
        query_genes=reference.var_names,
        genes=_genes(reference),
        seed=seed,
        **options,
        **train,
        **_TRAIN,
    )


def _load(query: AnnData, model: transanno.TransAnno) -> transanno.TransAnno:
    return transanno.TransAnno.load_query_data(query, model, accelerator="cpu", unseen_labels="mask")


def _predict(model: transanno.TransAnno, *, refine: bool) -> Predict:
    def predict(query: AnnData) -> Prediction:
        return from_probabilities(_load(query, model).predict(soft=True, refine=refine, key_added=None))

    return predict
