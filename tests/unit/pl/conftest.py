from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from transanno import metrics

TRUTH = ["T cell"] * 11 + ["B cell"] * 7 + ["$novel_1$"] * 3 + [None] * 2
PREDICTED = ["T cell"] * 9 + ["B cell", "NK cell"] + ["B cell"] * 7 + ["T cell"] * 2 + [None] + ["T cell"] * 2


@pytest.fixture
def annotated() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(TRUTH),
            "transanno": pd.Categorical(PREDICTED),
            "transanno_confidence": rng.uniform(0.3, 1.0, size=len(TRUTH)),
        },
        index=[f"cell{i}" for i in range(len(TRUTH))],
    )
    return ad.AnnData(obs=obs, obsm={"X_umap": rng.normal(size=(len(TRUTH), 2))})


@pytest.fixture
def evaluation(annotated: ad.AnnData) -> metrics.Evaluation:
    return metrics.evaluate(annotated.obs["cell_type"], annotated.obs["transanno"])
