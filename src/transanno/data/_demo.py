"""Real data that scanpy ships: a reference and a query without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno._constants import TARGET_SUM

if TYPE_CHECKING:
    from anndata import AnnData

LABELS_KEY = "cell_type"
_QUERY_SHARE = 1 / 3
_SEED = 0


def load_demo() -> tuple[AnnData, AnnData]:
    """700 blood cells of 10 types from 10x Genomics, with 765 genes.

    A third of the cells, of every type, are the query; their labels are for scoring only.

    Returns
    -------
    Reference and query with raw counts in ``X`` and types in ``obs["cell_type"]``.
    """
    import scanpy as sc
    from anndata import AnnData
    from sklearn.model_selection import train_test_split

    source = sc.datasets.pbmc68k_reduced()
    counts = sp.csr_matrix(source.raw.X, dtype=np.float64)
    totals = np.repeat(source.obs["n_counts"].to_numpy(), np.diff(counts.indptr))
    counts.data = np.rint(np.expm1(counts.data) * totals / TARGET_SUM)  # logged, with three decimals
    adata = AnnData(
        counts.astype(np.float32),
        obs=pd.DataFrame({LABELS_KEY: source.obs["bulk_labels"].astype(str).astype("category")}),
        var=pd.DataFrame(index=source.raw.var_names.astype(str)),
    )
    adata.obs_names, adata.var_names = adata.obs_names.rename(None), adata.var_names.rename(None)
    in_reference, in_query = train_test_split(
        np.arange(adata.n_obs), test_size=_QUERY_SHARE, stratify=adata.obs[LABELS_KEY], random_state=_SEED
    )
    return adata[np.sort(in_reference)].copy(), adata[np.sort(in_query)].copy()
