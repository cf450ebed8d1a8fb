"""CellTypist, trained on the reference."""

from __future__ import annotations

from typing import Any

import celltypist
import numpy as np
from anndata import AnnData
from joblib import parallel_config

from benchmarks._data import LABEL
from benchmarks.accuracy._methods import Fitted, Prediction, from_probabilities, labeled, log_normalized, selected
from benchmarks.speed import mend_celltypist


def train(reference: AnnData, *, seed: int, cores: int, all_genes: bool, **settings: Any) -> Fitted:
    mend_celltypist(celltypist)
    np.random.seed(seed)  # its feature selection is seeded by nothing else
    cells = log_normalized(labeled(reference))
    # Normalized over all genes, as it asks for; what it checks is the sum over those it is given.
    with parallel_config("threading"):
        model = celltypist.train(
            cells if all_genes else selected(cells),
            labels=LABEL,
            n_jobs=cores,
            check_expression=all_genes,
            **settings,
        )

    def predict(query: AnnData) -> Prediction:
        result = celltypist.annotate(log_normalized(query), model=model, majority_voting=False)
        return from_probabilities(result.probability_matrix)

    return {"": predict}
