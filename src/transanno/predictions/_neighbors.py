"""Which cells of a data set are alike: principal components of its own log-expression, and neighbors in them. No labels are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from transanno.checks._progress import cells_bar
from transanno.checks._warn import warn
from transanno.data._counts import CELLS_PER_BLOCK, Counts, is_streamed
from transanno.data._log_normalize import log_normalize

N_NEIGHBORS = 15
MIN_CELLS = 50
"""Fewer cells have no neighborhood to speak of."""
_N_COMPONENTS = 50
# Exact neighbors up to here; an approximate search beyond.
_MAX_EXACT = 50_000
# Components of all cells up to here. Their counts, and two copies of them while they are normalized, take 2 GiB at most: 600 of 2,000
# genes in a cell. Beyond, components of as many cells as are drawn, on which the others are projected in blocks.
_MAX_WHOLE, _N_DRAWN = 100_000, 50_000
# Of more cells, components and the search for neighbors would take more than 2 GiB (benchmarks/results/scale.md).
_MAX_CELLS = 1_500_000


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The cells that are predicted together, among each other."""

    components: np.ndarray
    """``(n_obs, n_components)``"""
    neighbors: np.ndarray
    """``(n_obs, n_neighbors)`` positions of every cell's nearest others"""

    @classmethod
    def of(cls, counts: Counts, positions: np.ndarray, is_other: np.ndarray | None = None) -> Surroundings | None:
        """Cells at ``positions`` of counts ``(n_obs, n_vars)`` -> their surroundings; None for fewer than 50, a single gene, or too many cells.

        Columns where ``is_other (n_vars,)`` is True are part of a cell's total and nothing else.
        """
        if len(positions) < MIN_CELLS or counts.shape[1] < 2:  # one gene has no principal components
            return None
        if len(positions) > _MAX_CELLS:
            warn(
                f"Neighborhoods among {len(positions)} cells would take more than 2 GiB of memory, so they are left out: "
                "predictions are not refined, novelty is not averaged over neighbors, and cells that are called Unknown are not "
                f"grouped. Predict parts of the query, of at most {_MAX_CELLS} cells, if you need that."
            )
            return None
        if len(positions) <= _MAX_WHOLE:
            components = principal_components(counts.rows(positions), is_other)
        else:
            components = projected_components(counts, positions, is_other)
        return cls(components, nearest_neighbors(components))


def principal_components(counts: sp.csr_matrix, is_other: np.ndarray | None = None) -> np.ndarray:
    """counts ``(n_obs, n_vars)`` -> principal components of log-expression ``(n_obs, n_components)``."""
    adata = AnnData(log_normalize(counts, is_other))
    return adata.obsm["X_pca"] if _add_components(adata) else adata.X[:, :1].toarray()


def projected_components(counts: Counts, positions: np.ndarray, is_other: np.ndarray | None = None) -> np.ndarray:
    """Cells at ``positions`` -> principal components of some, drawn at random, and all projected on them ``(n_cells, n_components)``.

    At most a block of cells, beside those that were drawn, is in memory.
    """
    drawn = np.random.default_rng(0).choice(len(positions), min(_N_DRAWN, len(positions)), replace=False)
    adata = AnnData(log_normalize(counts.rows(positions[np.sort(drawn)]), is_other))
    axes = adata.varm["PCs"].astype(np.float32) if _add_components(adata) else np.eye(adata.n_vars, 1, dtype=np.float32)
    center = np.asarray(adata.X.mean(axis=0)).ravel() @ axes
    del adata
    components = np.empty((len(positions), axes.shape[1]), dtype=np.float32)
    with cells_bar("Comparing", len(positions), is_long=is_streamed(counts)) as bar:
        for start in range(0, len(positions), CELLS_PER_BLOCK):
            block = slice(start, start + CELLS_PER_BLOCK)
            components[block] = log_normalize(counts.rows(positions[block]), is_other) @ axes - center
            bar.update(len(components[block]))
    return components


def _add_components(adata: AnnData) -> bool:
    """Log-expression -> whether it has principal components, which then are in ``obsm`` and ``varm``.

    One gene is its own component, and identical cells have none.
    """
    if adata.n_vars == 1 or (adata.X.max(axis=0) != adata.X.min(axis=0)).nnz == 0:
        return False
    sc.pp.pca(adata, n_comps=max(1, min(_N_COMPONENTS, *(size - 1 for size in adata.shape))), random_state=0)
    return True


def nearest_neighbors(components: np.ndarray) -> np.ndarray:
    """Components ``(n_obs, n_components)`` -> positions of every cell's neighbors ``(n_obs, n_neighbors)``, itself left out."""
    n_obs = len(components)
    n_neighbors = min(N_NEIGHBORS, n_obs - 1)
    if (components == components[0]).all():
        return (np.arange(n_obs)[:, None] + np.arange(1, n_neighbors + 1)) % n_obs
    if n_obs <= _MAX_EXACT:
        search = NearestNeighbors(n_neighbors=n_neighbors).fit(components)
        return search.kneighbors(return_distance=False)
    from pynndescent import NNDescent  # comes with scanpy; slow to import

    neighbors, _ = NNDescent(components, n_neighbors=n_neighbors + 1, random_state=0).neighbor_graph
    return neighbors[:, 1:]


def neighbor_average(values: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Values ``(n_obs, ...)``, neighbors ``(n_obs, k)`` -> mean over the neighbors."""
    n_obs, k = neighbors.shape
    averages = np.empty(values.shape)
    for start in range(0, n_obs, _MAX_WHOLE):  # the weights of more cells than that would take more than the values
        block = neighbors[start : start + _MAX_WHOLE]
        rows = np.repeat(np.arange(len(block)), k)
        weights = sp.csr_matrix((np.full(block.size, 1.0 / k), (rows, block.ravel())), shape=(len(block), n_obs))
        averages[start : start + _MAX_WHOLE] = weights @ values
    return averages
