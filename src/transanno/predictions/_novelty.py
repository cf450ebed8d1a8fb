"""How far a cell is from every type of the reference.

What the network has learned keeps what tells the known types apart, and may drop what makes a new one new; principal components
of expression keep the latter, but see subtle types poorly. A cell is scored by both: the logarithm of the product of its
squared Mahalanobis distances :cite:p:`lee2018mahalanobis` to the nearest type, in either space (docs/decisions/0009). Where cells are
seen relative to their data set, what was learned is taken from the table of gene embeddings and not from the cell states: the
composition of a data set is no novelty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from sklearn.covariance import LedoitWolf
from sklearn.metrics import euclidean_distances

_N_COMPONENTS = 30
# Cells from which the components come.
MAX_CELLS = 5_000
# More digits would only make a saved model larger.
_DECIMALS = 5


@dataclass(frozen=True, eq=False)
class TypeCenters:
    """The types in one space."""

    centers: np.ndarray
    """``(n_labels, width)``"""
    precision: np.ndarray
    """``(width, width)``, inverse of the covariance that they share, shrunk"""

    @classmethod
    def fit(cls, values: np.ndarray, codes: np.ndarray) -> TypeCenters:
        """Reference cells ``(n_cells, width)``, their types ``(n_cells,)`` -> centers."""
        types, positions = np.unique(codes, return_inverse=True)
        centers = np.stack([values[positions == i].mean(axis=0) for i in range(len(types))])
        shared = LedoitWolf(assume_centered=True).fit(values - centers[positions])
        return cls(centers, shared.precision_)

    def distance_to_nearest(self, values: np.ndarray) -> np.ndarray:
        """Cells ``(n_cells, width)`` -> squared Mahalanobis distance ``(n_cells,)``."""
        # Euclidean after a linear map: two matrix products instead of one for every type.
        root = np.linalg.cholesky(self.precision)
        cells, centers = values @ root, self.centers @ root
        return euclidean_distances(cells, centers, squared=True).min(axis=1)


@dataclass(frozen=True, eq=False)
class NoveltySpace:
    """Where the types of a reference are."""

    mean: np.ndarray
    """``(n_genes,)`` log-expression"""
    components: np.ndarray
    """``(n_genes, n_components)``"""
    state: TypeCenters
    """in what was learned: cell states, or expression times the table"""
    expression: TypeCenters
    """in the components"""

    def axes(self, table: np.ndarray | None) -> np.ndarray:
        """Gene embeddings ``(n_genes, width)`` or None -> what expression is projected on ``(n_genes, n_components + width)``."""
        return _side_by_side(self.components, table)

    def distances(
        self, z: np.ndarray, projected: np.ndarray, is_missing: np.ndarray, table: np.ndarray | None
    ) -> np.ndarray:
        """Cell states, what was projected on :meth:`axes` -> scores ``(n_cells,)``, high where cells are unlike any type.

        Log-expression was zero in genes where ``is_missing (n_genes,)`` is True; these count as average.
        """
        mean = self.mean[~is_missing] @ self.axes(table)[~is_missing]
        learned, expressed = _views(projected, mean, self.components.shape[1], z if table is None else None)
        nearest = [self.state.distance_to_nearest(learned), self.expression.distance_to_nearest(expressed)]
        return np.sum([np.log(np.maximum(values, 1e-12)) for values in nearest], axis=0)


def fit_space(
    state: np.ndarray | None, expression: sp.csr_matrix, codes: np.ndarray, *, table: np.ndarray | None = None
) -> NoveltySpace | None:
    """States, log-expression ``(n_cells, n_genes)`` and types of reference cells -> space.

    With a ``table (n_genes, width)`` of gene embeddings, expression times the table takes the place of the states. None where
    there is nothing to measure distances by: fewer than three cells or two genes, or no variation.
    """
    if min(expression.shape) < 3 or (expression.max(axis=0) != expression.min(axis=0)).nnz < 2:
        return None
    adata = AnnData(expression)
    sc.pp.pca(adata, n_comps=min(_N_COMPONENTS, min(adata.shape) - 1), random_state=0)
    mean = np.asarray(expression.mean(axis=0), dtype=np.float64).ravel().round(_DECIMALS)
    components = adata.varm["PCs"].astype(np.float64).round(_DECIMALS)
    # Around the mean cell, as a saved model holds its centers.
    axes = _side_by_side(components, table)
    learned, expressed = _views(expression @ axes, mean @ axes, components.shape[1], state)
    return NoveltySpace(mean, components, TypeCenters.fit(learned, codes), TypeCenters.fit(expressed, codes))


def _side_by_side(components: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    return components if table is None else np.hstack([components, table])


def _views(
    projected: np.ndarray, mean: np.ndarray, n_components: int, state: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """What was projected ``(n_cells, n_components + width)``, states or None -> what was learned, and components, around ``mean``."""
    expressed = projected[:, :n_components] - mean[:n_components]
    learned = projected[:, n_components:] - mean[n_components:] if state is None else state
    return learned.astype(np.float64, copy=False), expressed
