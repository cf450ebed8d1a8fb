"""Counts of cells wherever they are, in memory or on disk: one way of reading them for everything above."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from transanno.checks._data import is_lazy

CELLS_PER_BLOCK = 4096
# Cells times genes of the model. Up to here, counts are read into memory once, which is faster: about a tenth of these values are
# not zero, and take 100 MB. Beyond, cells of a query on disk are read when they are asked for.
MAX_IN_MEMORY = 100_000_000


class Counts(Protocol):
    """Cells × genes, read in pieces; every piece is CSR with sorted indices and without stored zeros."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_obs, n_vars)``"""

    def rows(self, positions: np.ndarray) -> sp.csr_matrix:
        """Positions of cells, in any order -> ``(n_cells, n_vars)``."""

    def blocks(self, n_rows: int = CELLS_PER_BLOCK) -> Iterator[sp.csr_matrix]:
        """All cells in their order, at most so many at a time."""

    @property
    def is_on_disk(self) -> bool:
        """Whether rows are read from a file, or computed, whenever they are asked for."""


@dataclass(frozen=True, eq=False)
class MatrixCounts:
    """The values of a matrix as they are: dense, CSR or CSC, in memory, on disk or computed by dask."""

    matrix: Any

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_obs, n_vars)``"""
        return self.matrix.shape

    @property
    def is_on_disk(self) -> bool:
        """Whether rows are read from a file, or computed, whenever they are asked for."""
        is_in_memory = isinstance(self.matrix, np.ndarray) or sp.issparse(self.matrix)
        return not is_in_memory and self.matrix is not None and _format(self.matrix) != "csc"

    @cached_property
    def _by_rows(self) -> Any:
        matrix = self.matrix
        if _format(matrix) == "csc" and not sp.issparse(matrix):
            # the rows of a CSC file lie all over it
            matrix = matrix.compute() if is_lazy(matrix) else matrix.to_memory()
        matrix = readable(matrix)
        _check_indices(matrix)
        return matrix.tocsr() if sp.issparse(matrix) and matrix.format != "csr" else matrix

    def rows(self, positions: np.ndarray) -> sp.csr_matrix:
        """Positions of cells, in any order -> ``(n_cells, n_vars)``."""
        matrix = self._by_rows
        if len(positions) and (np.diff(positions) == 1).all():
            return _read(matrix, slice(positions[0], positions[-1] + 1))  # which is four times as fast
        if isinstance(matrix, np.ndarray) or sp.issparse(matrix):
            return _read(matrix, positions)
        # h5py and anndata's backed matrices want sorted unique rows.
        unique, inverse = np.unique(positions, return_inverse=True)
        return _read(matrix, unique)[inverse]

    def blocks(self, n_rows: int = CELLS_PER_BLOCK) -> Iterator[sp.csr_matrix]:
        """All cells in their order, at most so many at a time."""
        for start in range(0, self.shape[0], n_rows):
            yield _read(self._by_rows, slice(start, start + n_rows))


def _read(matrix: Any, rows: slice | np.ndarray) -> sp.csr_matrix:
    block = matrix[rows]
    block = block.compute() if is_lazy(block) else block
    if not sp.issparse(matrix):  # whose indices were checked as a whole
        _check_indices(block)
    return as_csr(block)


def _format(matrix: Any) -> str | None:
    """-> "csr" or "csc" of a sparse matrix, also of the blocks of a dask array; None of a dense one."""
    return getattr(matrix._meta if is_lazy(matrix) else matrix, "format", None)


def in_memory(counts: Counts, blocks: Iterable[sp.csr_matrix] | None = None) -> MatrixCounts:
    """-> all of it as one float32 CSR matrix; read from ``blocks`` where these are given, such as checked ones."""
    return MatrixCounts(stack(counts.blocks() if blocks is None else blocks, counts.shape[1]))


def is_large(shape: tuple[int, int]) -> bool:
    """Whether counts of so many cells and genes stay on disk if they are there."""
    return math.prod(shape) > MAX_IN_MEMORY


def is_streamed(counts: Counts) -> bool:
    """Whether cells of a large data set on disk are read whenever they are asked for, which takes a while."""
    return counts.is_on_disk and is_large(counts.shape)


def stack(blocks: Iterable[sp.csr_matrix], n_vars: int) -> sp.csr_matrix:
    """Blocks of cells -> all of them as one float32 CSR matrix ``(n_cells, n_vars)``."""
    values, genes, n_stored = [], [], [0]
    for block in blocks:
        values.append(block.data.astype(np.float32, copy=False))
        genes.append(block.indices)
        n_stored += np.diff(block.indptr).tolist()
    parts = []
    for pieces, dtype in ((values, np.float32), (genes, np.int32)):
        parts.append(np.concatenate(pieces or [np.zeros(0, dtype)]))
        pieces.clear()  # so that the result is in memory one and a half times at most
    return sp.csr_matrix((*parts, np.cumsum(n_stored)), shape=(len(n_stored) - 1, n_vars))


def readable(matrix: Any) -> Any:
    """The matrix, or if it is one that scipy can hold but neither copy nor slice, the same in numbers that it can.

    These are float16, and numbers of a machine of another byte order.
    """
    if not sp.issparse(matrix) or (matrix.dtype != np.float16 and matrix.dtype.isnative):
        return matrix
    dtype = np.float32 if matrix.dtype == np.float16 else matrix.dtype.newbyteorder("=")
    return type(matrix)((matrix.data.astype(dtype), matrix.indices, matrix.indptr), matrix.shape)


def _check_indices(matrix: Any) -> None:
    """Raise ``ValueError`` if the index arrays of a CSR or CSC matrix point outside of it, where scipy would read: Python dies of that."""
    if not sp.issparse(matrix) or matrix.format not in ("csr", "csc"):
        return
    n_inner, starts = matrix.shape[matrix.format == "csr"], matrix.indptr
    n_stored = min(len(matrix.indices), len(matrix.data))
    if starts[0] != 0 or starts[-1] > n_stored or (starts[1:] < starts[:-1]).any():
        what = f"indptr does not rise from 0 to at most {n_stored}"
    else:
        used = matrix.indices[: starts[-1]]
        if used.size == 0 or (used.min() >= 0 and used.max() < n_inner):
            return
        what = f"indices go from {used.min()} to {used.max()} where 0 to {n_inner - 1} are there"
    raise ValueError(
        f"A sparse matrix ({matrix.format.upper()}, {matrix.shape[0]} x {matrix.shape[1]}) is damaged: {what}. Read it again "
        "from where it came from, or make it again with scipy.sparse.csr_matrix; arrays that were changed in place cannot be repaired."
    )


def as_csr(block: Any) -> sp.csr_matrix:
    """A piece of a matrix -> CSR of our own, of numbers that scipy can handle."""
    if block.dtype.kind not in "biuf":
        raise TypeError(
            f"Counts have dtype {block.dtype}; real numbers in a dense, CSR or CSC matrix are needed. "
            'Convert them, for example with .astype("float32").'
        )
    if block.dtype == np.float16:
        block = np.asarray(block).astype(np.float32)  # which sparse matrices cannot hold
    if not block.dtype.isnative:  # of a file from another kind of machine
        block = block.astype(block.dtype.newbyteorder("="))
    found = sp.csr_matrix(block if sp.issparse(block) else np.asarray(block))
    if not found.has_canonical_format or (found.data == 0).any():
        # A copy, since a slice of all rows is the user's own matrix; and in uint8 or bool a sum would wrap around.
        found = found.astype(np.float32) if found.dtype.itemsize < 4 else found.copy()
        found.sum_duplicates()
        found.eliminate_zeros()
    return found
