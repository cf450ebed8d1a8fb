"""Counts to log-expression outside the network, by scanpy."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from threadpoolctl import threadpool_limits

from transanno._constants import TARGET_SUM


def log_normalize(counts: sp.csr_matrix, is_other: np.ndarray | None = None) -> sp.csr_matrix:
    """Counts ``(n_obs, n_vars)`` -> log1p of counts per 10,000 ``(n_obs, n_genes)``; empty cells stay empty.

    Columns where ``is_other (n_vars,)`` is True count in the total, and are then left out.
    """
    import scanpy as sc  # loads matplotlib, which checks of data can do without

    adata = AnnData(counts.astype(np.float32))
    # The first time, numba, which scanpy uses, sets OpenMP's number of threads for the whole process, that of torch included.
    with threadpool_limits(limits={}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some cells have zero counts")
        sc.pp.normalize_total(adata, target_sum=TARGET_SUM)
    if is_other is not None and is_other.any():
        adata = adata[:, ~is_other].copy()
    sc.pp.log1p(adata)
    return adata.X
