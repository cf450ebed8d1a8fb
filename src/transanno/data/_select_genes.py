"""Highly variable genes, from sums over the cells: all that is held of a reference is one block of cells.

The rule is that of Seurat :cite:p:`satija2015spatial` as scanpy has it (``flavor="seurat"``), whose function needs all
normalized values at once; the tests compare with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from transanno._constants import MISSING_CATEGORY
from transanno.data._counts import MatrixCounts
from transanno.data._labels import as_strings
from transanno.data._log_normalize import log_normalize

_N_BINS = 20
# Batches of fewer cells tell nothing about variability.
_MIN_BATCH = 20
# Smaller variances, as a share of the squared mean, are rounding.
_ROUNDING = 1e-10


def select_genes(adata: AnnData, *, n_top_genes: int = 2000, batch_key: str | None = None) -> pd.Index:
    """Highly variable genes of raw counts in ``adata.X``, in the order of ``adata.var_names``.

    Parameters
    ----------
    adata
        Cells with raw counts in ``X``, in memory or backed; not changed.
    n_top_genes
        Number of genes; all expressed genes if there are fewer.
    batch_key
        Column of ``obs``: genes that vary within many batches are preferred.

    Returns
    -------
    Names of the genes.

    Raises
    ------
    ValueError
        If there is no ``X``.
    """
    if adata.X is None:
        raise ValueError('adata.X is None. Put raw counts there, for example adata.X = adata.layers["counts"].')
    counts, is_allowed = MatrixCounts(adata.X), np.ones(adata.n_vars, dtype=bool)
    return adata.var_names[
        choose_genes(sum_genes(counts.blocks(), batch_codes(adata, batch_key), is_allowed), n_top_genes)
    ]


def batch_codes(adata: AnnData, batch_key: str | None) -> np.ndarray:
    """-> code of every cell's batch ``(n_obs,)``."""
    if batch_key is None:
        return np.zeros(adata.n_obs, dtype=int)
    return pd.factorize(as_strings(adata.obs[batch_key], missing=MISSING_CATEGORY))[0]


@dataclass(frozen=True, eq=False)
class GeneSums:
    """Sums over the cells of every batch, ``(n_batches, n_genes)``."""

    n_cells: np.ndarray
    """``(n_batches, 1)``"""
    counts: np.ndarray
    n_expressing: np.ndarray
    normalized: np.ndarray
    """of counts per 10,000"""
    squares: np.ndarray
    """of their squares"""

    def pooled(self) -> GeneSums:
        """-> of all cells as one batch."""
        return GeneSums(*(getattr(self, name).sum(axis=0, keepdims=True) for name in self.__dataclass_fields__))

    def of(self, is_chosen: np.ndarray) -> GeneSums:
        """Which genes ``(n_genes,)`` -> of these."""
        found = {name: getattr(self, name)[:, is_chosen] for name in self.__dataclass_fields__ if name != "n_cells"}
        return GeneSums(n_cells=self.n_cells, **found)


def sum_genes(blocks: Iterable[sp.csr_matrix], batch: np.ndarray, is_allowed: np.ndarray) -> GeneSums:
    """Blocks of counts, batch codes ``(n_obs,)`` -> sums; cells are normalized over the genes ``(n_genes,)`` that are allowed."""
    n_batches, n_genes, start = int(batch.max(initial=0)) + 1, len(is_allowed), 0
    sums = GeneSums(np.zeros((n_batches, 1)), *np.zeros((4, n_batches, n_genes)))
    for block in blocks:
        codes = batch[start : start + block.shape[0]]
        start += block.shape[0]
        is_member = sp.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), (n_batches, len(codes)))
        # In single precision there and back, as scanpy does it: which of two genes is more variable may hang on that.
        values = log_normalize(block if is_allowed.all() else block[:, is_allowed])
        values.data = np.expm1(values.data)
        values = values.astype(np.float64)
        sums.n_cells[:] += np.bincount(codes, minlength=n_batches)[:, None]
        sums.counts[:] += is_member @ block
        sums.n_expressing[:] += is_member @ (block > 0)
        sums.normalized[:, is_allowed] += is_member @ values
        sums.squares[:, is_allowed] += is_member @ values.multiply(values)
    return sums


def choose_genes(sums: GeneSums, n_top_genes: int) -> np.ndarray:
    """-> bool ``(n_genes,)``, the genes to use; all that are expressed if these are no more.

    Raises
    ------
    ValueError
        If no gene varies.
    """
    is_expressed = sums.n_expressing.sum(axis=0) > 0
    if np.count_nonzero(is_expressed) <= n_top_genes:
        return is_expressed
    expressed, pooled = sums.of(is_expressed), sums.of(is_expressed).pooled()
    if not _moments(pooled, 0)[1].any():
        raise ValueError(
            f"No gene varies among the {int(sums.n_cells.sum())} cells of the reference, so there is nothing to tell types by. "
            "Check that the matrix holds counts of cells, and the filters that made it."
        )
    n_cells = expressed.n_cells[expressed.n_cells > 0]
    by_batch = expressed if len(n_cells) > 1 and n_cells.min() >= _MIN_BATCH else pooled
    chosen = np.zeros(len(is_expressed), dtype=bool)
    chosen[np.flatnonzero(is_expressed)[_most_variable(by_batch, n_top_genes)]] = True
    return chosen


def _most_variable(sums: GeneSums, n_top_genes: int) -> np.ndarray:
    """-> positions of the genes that most batches find highly variable, and of these the most variable."""
    found = [_dispersion(sums, i) for i in np.flatnonzero(sums.n_cells[:, 0]).tolist()]
    is_chosen = [_is_among_highest(values, is_expressed, n_top_genes) for values, is_expressed in found]
    if len(found) == 1:
        return np.flatnonzero(is_chosen[0])
    votes, values = np.sum(is_chosen, axis=0), np.stack([values for values, _ in found])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(values, axis=0) / np.sum(~np.isnan(values), axis=0)
    order = pd.DataFrame({"votes": votes, "dispersion": mean}).sort_values(["votes", "dispersion"], ascending=False)
    return np.sort(order.index[:n_top_genes])


def _moments(sums: GeneSums, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """-> mean and variance of every gene."""
    n_cells = sums.n_cells[batch, 0]
    mean = sums.normalized[batch] / n_cells
    variance = (sums.squares[batch] - n_cells * mean**2) / max(n_cells - 1, 1)
    return mean, np.where(variance > _ROUNDING * mean**2, variance, 0.0)


def _dispersion(sums: GeneSums, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """-> log dispersion of every gene in units of those of genes of like mean, 0 where not expressed; and if it is expressed."""
    is_expressed = sums.n_expressing[batch] > 0
    mean, variance = (values[is_expressed] for values in _moments(sums, batch))
    with np.errstate(divide="ignore"):
        dispersion = np.log(variance / mean)
    dispersion[np.isneginf(dispersion)] = np.nan
    genes = pd.DataFrame({"bin": pd.cut(np.log1p(mean), _N_BINS), "dispersion": dispersion})
    by_bin = genes.groupby("bin", observed=True)["dispersion"]
    center, spread = by_bin.transform("mean"), by_bin.transform("std")
    # A gene that has no like is taken to be as variable as one standard deviation.
    is_alone = spread.isna()
    center, spread = center.mask(is_alone, 0.0), spread.mask(is_alone, center)
    found = np.zeros(len(is_expressed))
    found[is_expressed] = (genes["dispersion"] - center) / spread
    return found, is_expressed


def _is_among_highest(values: np.ndarray, is_candidate: np.ndarray, n: int) -> np.ndarray:
    """-> bool, the candidates of the highest n values, and those that equal the last of them; never NaN."""
    is_candidate = is_candidate & ~np.isnan(values)
    if not is_candidate.any():
        return is_candidate
    return is_candidate & (values >= np.sort(values[is_candidate])[::-1][:n][-1])
