"""What other methods say about how much a cell is unlike a reference; high where it is."""

from __future__ import annotations

import warnings

import celltypist
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from benchmarks._data import BATCH, LABEL
from benchmarks.accuracy._config import read_config
from benchmarks.accuracy._methods import SELECTED, log_normalized
from benchmarks.accuracy._scvi import surgery
from benchmarks.speed import mend_celltypist

N_COMPONENTS, N_NEIGHBORS = 50, 15


def neighbor_distance(reference: AnnData, query: AnnData, genes: pd.Index) -> np.ndarray:
    """-> mean distance to the nearest cells of the reference, in its principal components."""
    cells, others = (log_normalized(side)[:, genes].copy() for side in (reference, query))
    sc.pp.pca(cells, n_comps=min(N_COMPONENTS, min(cells.shape) - 1), random_state=0)
    mean = np.asarray(cells.X.mean(axis=0)).ravel()
    projected = np.asarray(others.X @ cells.varm["PCs"]) - mean @ cells.varm["PCs"]
    search = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(cells.obsm["X_pca"])
    return search.kneighbors(projected)[0].mean(axis=1)


def celltypist_doubt(reference: AnnData, query: AnnData, genes: pd.Index) -> np.ndarray:
    """-> 1 - highest probability of ``prob match``."""
    cells, others = (log_normalized(side)[:, genes].copy() for side in (reference, query))
    mend_celltypist(celltypist)
    labels = reference.obs[LABEL].astype(str).to_numpy()
    model = celltypist.train(cells, labels=labels, n_jobs=1, check_expression=False)
    return 1.0 - celltypist.annotate(others, model=model).probability_matrix.to_numpy().max(axis=1)


def scanvi_doubt(reference: AnnData, query: AnnData, genes: pd.Index, seed: int) -> np.ndarray:
    """-> 1 - highest probability by scANVI carried to the query by scArches, a batch a side; settings of ``accuracy.toml``."""
    var = pd.DataFrame({SELECTED: True}, index=genes)
    cells = {
        name: AnnData(side[:, genes].X.copy(), obs=pd.DataFrame({BATCH: name}, index=side.obs_names), var=var)
        for name, side in {"reference": reference, "query": query}.items()
    }
    cells["reference"].obs[LABEL] = reference.obs[LABEL].astype(str).to_numpy()
    settings = read_config().methods["scANVI + scArches"].settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predict = surgery(cells["reference"], seed=seed, cores=1, **settings)[""]
        return 1.0 - np.asarray(predict(cells["query"]).confidence)
