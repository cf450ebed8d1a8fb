"""The counts of a cell outside the vocabulary, so that a cell is normalized by all of its counts.

A model reads some 2,000 highly variable genes. Their total alone is a noisy measure of a cell's size, and a few strong
genes dominate it. One more column, the last, therefore holds the counts of all other genes; the module reads nothing but
totals from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from transanno._constants import OTHER_GENES
from transanno.data._match_genes import sum_columns

if TYPE_CHECKING:
    from collections.abc import Mapping


def gene_shares(counts: sp.csr_matrix, genes: pd.Index) -> dict[str, float]:
    """Counts ``(n_obs, n_vars)`` -> share of each gene in all counts, by name: what a library is made of."""
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    return dict(zip(genes.astype(str), (total / max(total.sum(), 1.0)).tolist(), strict=True))


def with_other_genes(adata: AnnData, genes: pd.Index) -> AnnData:
    """-> these genes of ``adata`` and, as the last column, the counts of all others of its genes."""
    chosen = adata[:, genes]
    others = np.asarray(adata.X.sum(axis=1) - chosen.X.sum(axis=1), dtype=np.float32).reshape(-1, 1)
    counts = sp.hstack([sp.csr_matrix(chosen.X), sp.csr_matrix(others)], format="csr", dtype=np.float32)
    return AnnData(counts, obs=adata.obs.copy(), var=pd.DataFrame(index=[*genes.astype(str), OTHER_GENES]))


def count_other_genes(
    adata: AnnData,
    names: pd.Index,
    is_missing: np.ndarray,
    counts: sp.csr_matrix,
    vocabulary: pd.Index,
    shares: Mapping[str, float] | None,
    *,
    layer: str | None,
) -> np.ndarray:
    """-> counts of a query's cells outside the vocabulary ``(n_obs,)``, in whole molecules.

    ``shares`` are those of :func:`gene_shares` in the reference: only its genes count. Where the query measured a part
    of them, a cell's total is that of the part, divided by the share that the part has in the reference. Without
    ``shares`` all genes outside the vocabulary count.

    Parameters
    ----------
    adata, names, is_missing, layer
        The query, the names of its columns ``(n_query,)`` as the vocabulary spells them, which of them are placeholders,
        and the layer of its counts.
    counts
        Its counts in the vocabulary ``(n_obs, n_vocabulary)``.
    vocabulary
        Genes of the model.
    """
    is_outside = ~names.isin(vocabulary) & ~is_missing
    if shares is not None:
        is_outside &= names.isin(shares)
    others = sum_columns(adata, np.flatnonzero(is_outside), layer=layer)
    if shares is None:
        return others
    measured = sum(shares.get(name, 0.0) for name in set(names[~is_missing]))
    if measured >= 1.0 - 1e-6 or measured <= 0.0:
        return others
    inside = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return np.rint((inside + others) / measured - inside)
