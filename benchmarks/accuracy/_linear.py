"""Classifiers of scikit-learn on log1p of counts per 10,000; deterministic, so the seed has no effect."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from benchmarks._data import LABEL
from benchmarks.accuracy._methods import Fitted, Prediction, from_probabilities, labeled, log_normalized, selected

_MAX_SCALED = 10.0  # as is usual with scanpy


def logistic_regression(reference: AnnData, *, seed: int, cores: int, scale: bool, **settings: Any) -> Fitted:
    return _fitted(_pipeline(LogisticRegression(**settings), scale), reference)


def linear_svm(reference: AnnData, *, seed: int, cores: int, scale: bool, **settings: Any) -> Fitted:
    return _fitted(_pipeline(LinearSVC(random_state=seed, **settings), scale), reference)


def nearest_neighbors(reference: AnnData, *, seed: int, cores: int, n_components: int, n_neighbors: int) -> Fitted:
    n_obs = labeled(reference).n_obs
    pca = PCA(min(n_components, n_obs - 1), svd_solver="covariance_eigh")
    return _fitted(make_pipeline(pca, KNeighborsClassifier(min(n_neighbors, n_obs))), reference)


def _pipeline(classifier: Any, scale: bool) -> Any:
    if not scale:
        return make_pipeline(classifier)
    clip = FunctionTransformer(np.clip, kw_args={"a_min": None, "a_max": _MAX_SCALED})
    return make_pipeline(StandardScaler(), clip, classifier)


def _fitted(classifier: Any, reference: AnnData) -> Fitted:
    cells = labeled(reference)
    classifier.fit(_expression(cells), cells.obs[LABEL].astype(str).to_numpy())

    def predict(query: AnnData) -> Prediction:
        x = _expression(query)
        if hasattr(classifier, "predict_proba"):
            return from_probabilities(classifier.predict_proba(x), classifier.classes_)
        return Prediction(classifier.predict(x), None)

    return {"": predict}


def _expression(adata: AnnData) -> np.ndarray:
    """-> ``(n_obs, n_selected)``."""
    return selected(log_normalized(adata)).X.toarray()
