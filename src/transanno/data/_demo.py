"""Real data that scanpy ships: a reference and a query without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from anndata import AnnData

LABELS_KEY = "cell_type"
_QUERY_SHARE = 1 / 3
_SEED = 0
# The values are stored with three decimals, which is all that restored counts may deviate from whole numbers by.
_STORED_PRECISION = 0.5e-3


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
    adata = AnnData(
        restore_counts(source.raw.X, source.obs["n_counts"].to_numpy()),
        obs=pd.DataFrame({LABELS_KEY: source.obs["bulk_labels"].astype(str).astype("category")}),
        var=pd.DataFrame(index=source.raw.var_names.astype(str)),
    )
    adata.obs_names, adata.var_names = adata.obs_names.rename(None), adata.var_names.rename(None)
    in_reference, in_query = train_test_split(
        np.arange(adata.n_obs), test_size=_QUERY_SHARE, stratify=adata.obs[LABELS_KEY], random_state=_SEED
    )
    return adata[np.sort(in_reference)].copy(), adata[np.sort(in_query)].copy()


def restore_counts(logged: sp.spmatrix, totals: np.ndarray) -> sp.csr_matrix:
    """log1p of counts per 10,000 ``(n_obs, n_vars)``, total counts ``(n_obs,)`` -> counts, float32.

    The totals are those of all genes that were measured, so that the counts of a selection sum to less.

    Raises
    ------
    ValueError
        If the result is not whole numbers within the precision of the input, or exceeds the totals: then the input
        was not made from these totals.
    """
    restored = sp.csr_matrix(logged, dtype=np.float64)
    totals_of_values = np.repeat(totals.astype(np.float64), np.diff(restored.indptr))
    exact = np.expm1(restored.data) * totals_of_values / 1e4
    counts = np.rint(exact)
    # d(count) = (count + total / 1e4) d(log), and a little more for values in float32.
    tolerance = 1.01 * _STORED_PRECISION * (counts + totals_of_values / 1e4)
    is_whole = np.abs(exact - counts) <= tolerance
    restored.data = counts
    sums = np.asarray(restored.sum(axis=1)).ravel()
    if not is_whole.all() or (counts < 1).any() or (sums > totals).any():
        raise ValueError(
            f"Counts cannot be restored: {np.count_nonzero(~is_whole)} of {counts.size} values are not whole numbers, "
            f"and {np.count_nonzero(sums > totals)} cells sum to more than their total. Allowed: log1p of counts per "
            "10,000 with the totals they were scaled by. Check that both belong to the same data."
        )
    return restored.astype(np.float32)
