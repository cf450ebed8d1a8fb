"""The network of JAX as a backend."""

from __future__ import annotations

import jax
import numpy as np
import scipy.sparse as sp

from transanno._constants import N_PRIOR_CELLS, TARGET_SUM
from transanno.data._counts import CELLS_PER_BLOCK
from transanno.jax._forward import forward_expression
from transanno.jax._weights import Weights
from transanno.predictions._run import Cells, Outputs, center_cells

# Fewer cells are padded: to compute that many takes a millisecond, to compile for another number seconds.
_MIN_ROWS = 64
# On a CPU: blocks that fit into its cache take half the time per cell.
_MAX_ROWS = 512
# One for all predictors: it compiles once for every architecture and shape.
_compiled = jax.jit(forward_expression)


class JaxBackend:
    """Counts -> outputs of a network.

    Parameters
    ----------
    weights
        Its weights.
    n_rows
        Rows of the blocks that are computed; fewer cells are padded with empty ones, so that nothing is compiled again for them.
    center
        Mean log-expression of the data set that cells are of ``(n_vars,)``. Default: that of the reference.
    axes
        What log-expression is projected on ``(n_vars, width)``. Default: nothing.
    """

    is_stateless = False  # it writes into its block

    def __init__(
        self, weights: Weights, *, n_rows: int, center: np.ndarray | None = None, axes: np.ndarray | None = None
    ) -> None:
        self.weights, self.center = weights, center
        self.block = np.zeros((n_rows, len(weights.arrays["mean_expression"])), dtype=np.float32)
        self.axes = None if axes is None else axes.astype(np.float32)

    def __call__(self, counts: sp.csr_matrix, batch: np.ndarray, is_missing: np.ndarray) -> Outputs:
        """Counts ``(n_cells, n_vars)``, batch codes ``(n_cells,)``, genes that the data lack ``(n_vars,)`` -> outputs."""
        # Here, where only what is stored is read: a quarter of the time of the network on dense counts.
        expression = log_expression(counts, masked_genes(self.weights, is_missing), has_others=self.weights.has_others)
        # Memory that is used again costs a quarter of new one; what was computed from it before has been waited for.
        block, codes = as_block(expression, batch, len(self.block), out=self.block)
        outputs = _compiled(self.weights, block, is_missing, codes, self.center, axes=self.axes)
        return Outputs(*(np.asarray(values)[: counts.shape[0]] for values in outputs))


def as_block(
    counts: sp.csr_matrix, batch: np.ndarray, n_rows: int, *, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Counts ``(n_cells, n_vars)``, batch codes -> dense ``(n_rows, n_vars)``, in ``out`` if given, and codes ``(n_rows,)``.

    Rows beyond the cells are empty cells of an unknown batch.
    """
    n_cells = counts.shape[0]
    block = np.empty((n_rows, counts.shape[1]), dtype=np.float32) if out is None else out
    counts.astype(np.float32, copy=False).toarray(out=block[:n_cells])
    block[n_cells:] = 0.0
    codes = np.full(n_rows, -1, dtype=np.int32)
    codes[:n_cells] = batch
    return block, codes


def rows_per_block(n_cells: int, limit: int) -> int:
    """-> rows of a block: the limit, or for few cells the next power of two, so that there are few shapes to compile."""
    if jax.default_backend() == "cpu":
        limit = min(limit, _MAX_ROWS)
    return min(limit, 1 << (max(n_cells, _MIN_ROWS) - 1).bit_length())


def center_of(weights: Weights, cells: Cells) -> np.ndarray | None:
    """Mean log-expression ``(n_vars,)`` of the cells of a data set, drawn a little to that of the reference.

    None if no result depends on it.
    """
    architecture = dict(weights.architecture)
    if architecture["encoder"] == "performer" and architecture["head"] == "conv":
        return None
    mean = np.asarray(weights.arrays["mean_expression"])
    sample, total = center_cells(np.arange(cells.counts.shape[0])), N_PRIOR_CELLS * mean.astype(np.float64)
    is_masked = masked_genes(weights, cells.is_missing)
    for start in range(0, len(sample), CELLS_PER_BLOCK):
        counts = cells.counts.rows(sample[start : start + CELLS_PER_BLOCK])
        expression = log_expression(counts, is_masked, has_others=weights.has_others)
        total += np.bincount(expression.indices, weights=expression.data, minlength=len(mean))
    return (total / (len(sample) + N_PRIOR_CELLS)).astype(np.float32)


def masked_genes(weights: Weights, is_missing: np.ndarray) -> np.ndarray:
    """Genes that the data lack -> columns that the network does not see ``(n_vars,)``."""
    is_masked = is_missing.copy()
    is_masked[-1] |= weights.has_others
    return is_masked


def log_expression(counts: sp.csr_matrix, is_masked: np.ndarray, *, has_others: bool) -> sp.csr_matrix:
    """Counts ``(n_cells, n_vars)`` -> log1p of counts per 10,000, of the same shape, as :func:`normalize_counts` gives it."""
    visible = np.where(is_masked[counts.indices], np.float32(0), counts.data.astype(np.float32, copy=False))
    sizes = np.diff(counts.indptr)
    cells = np.repeat(np.arange(counts.shape[0]), sizes)
    total = np.bincount(cells, weights=counts.data if has_others else visible, minlength=counts.shape[0])
    scale = (TARGET_SUM / np.maximum(total, 1.0)).astype(np.float32)
    expression = np.log1p(visible * np.repeat(scale, sizes))
    return sp.csr_matrix((expression, counts.indices, counts.indptr), shape=counts.shape)
