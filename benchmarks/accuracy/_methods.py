"""What every method is given and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from benchmarks._data import LABEL

UNLABELED, SELECTED = "Unknown", "selected"


class Prediction(NamedTuple):
    """One type per cell of the query."""

    labels: np.ndarray
    """``(n_query,)``"""
    confidence: np.ndarray | None
    """``(n_query,)``, probability of the label in [0, 1]; None if the method has none"""


Predict = Callable[[AnnData], Prediction]
# A method is a function `(reference, *, seed, cores, **settings) -> Fitted`: it trains on the reference, and what it
# returns meets the query. Several entries share one training; their names are appended to the method's.
Fitted = dict[str, Predict]


def from_probabilities(probabilities: np.ndarray | pd.DataFrame, types: np.ndarray | None = None) -> Prediction:
    """``(n_query, n_types)`` -> most probable type and its probability."""
    values = np.asarray(probabilities)
    names = np.asarray(probabilities.columns if isinstance(probabilities, pd.DataFrame) else types)
    return Prediction(names[values.argmax(axis=1)], values.max(axis=1))


def labeled(reference: AnnData) -> AnnData:
    """-> cells with a label, for methods that cannot use the others."""
    return reference[(reference.obs[LABEL] != UNLABELED).to_numpy()]


def selected(adata: AnnData) -> AnnData:
    """-> counts on the genes that all methods use."""
    return adata[:, adata.var[SELECTED].to_numpy()].copy()


def log_normalized(adata: AnnData) -> AnnData:
    """Counts -> log1p of counts per 10,000, in a new object; normalized over all genes at hand."""
    normalized = AnnData(adata.X.copy(), obs=adata.obs.copy(), var=adata.var.copy())
    sc.pp.normalize_total(normalized, target_sum=1e4)
    sc.pp.log1p(normalized)
    return normalized
