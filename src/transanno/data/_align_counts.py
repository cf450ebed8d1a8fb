"""Counts in the order of a vocabulary, by a match of names; what a query lacks is empty, and what it has beside is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from transanno._constants import IS_MISSING_KEY
from transanno.checks._data import check_layer, check_not_empty, no_x
from transanno.data._counts import CELLS_PER_BLOCK, Counts, MatrixCounts, as_csr, in_memory, readable, stack
from transanno.data._match_genes import GeneMatch, examples

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from transanno.data._other_genes import OtherGenes


@dataclass(frozen=True, eq=False)
class AlignedCounts:
    """Counts of a vocabulary's genes, aligned as they are read.

    Columns with the same gene are summed. With ``others`` there is one more column, of all genes outside the vocabulary.
    """

    counts: Counts
    match: GeneMatch
    others: OtherGenes | None = None
    name: str = "query"

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_obs, n_vars)``"""
        return self.counts.shape[0], len(self.match.vocabulary) + (self.others is not None)

    def rows(self, positions: np.ndarray) -> sp.csr_matrix:
        """Positions of cells, in any order -> ``(n_cells, n_vars)``."""
        if len(positions) <= CELLS_PER_BLOCK:
            return self._align(self.counts.rows(positions))
        # The data may have many more genes than the vocabulary, which must not be in memory for all cells.
        starts = range(0, len(positions), CELLS_PER_BLOCK)
        parts = (positions[start : start + CELLS_PER_BLOCK] for start in starts)
        return stack((self._align(self.counts.rows(part)) for part in parts), self.shape[1])

    def blocks(self, n_rows: int = CELLS_PER_BLOCK) -> Iterator[sp.csr_matrix]:
        """All cells in their order, at most so many at a time."""
        matrix = self.counts.matrix if isinstance(self.counts, MatrixCounts) else None
        if getattr(matrix, "format", None) == "csc":
            # A range of rows of a CSC file lies all over it: reading by rows would read the whole file for every block.
            yield from MatrixCounts(self._finish(self._read_columns(matrix, n_rows))).blocks(n_rows)
            return
        for block in self.counts.blocks(n_rows):
            yield self._align(block)

    @property
    def is_on_disk(self) -> bool:
        """Whether rows are read from a file, or computed, whenever they are asked for."""
        return self.counts.is_on_disk

    @cached_property
    def _selector(self) -> sp.csr_matrix:
        if self.others is None:
            return selector(self.match)
        outside = sp.csr_matrix(self.others.is_outside[:, None], dtype=np.float32)
        return sp.hstack([selector(self.match), outside], format="csr")

    def _align(self, block: sp.csr_matrix) -> sp.csr_matrix:
        return self._finish(block.astype(np.float32, copy=False) @ self._selector)

    def _read_columns(self, matrix: Any, n_rows: int) -> sp.csr_matrix:
        """CSC ``(n_obs, n_query)``, in memory or on disk -> the product with the selector, in pieces of columns."""
        n_obs, n_vars = matrix.shape
        step, total = max(1, n_rows * n_vars // n_obs), sp.csr_matrix(self.shape, dtype=np.float32)
        for start in range(0, n_vars, step):
            part = slice(start, start + step)
            total = total + as_csr(readable(matrix)[:, part]).astype(np.float32) @ self._selector[part]
        return total

    def _finish(self, aligned: sp.spmatrix) -> sp.csr_matrix:
        aligned = sp.csr_matrix(aligned)
        aligned.sum_duplicates()  # sorts indices, too
        aligned.eliminate_zeros()
        # A gene can have a placeholder and a column of its own beside it.
        is_placeholder = np.zeros(len(self.match.vocabulary), dtype=bool)
        is_placeholder[self.match.vocabulary_columns[self.match.is_placeholder]] = True
        check_unmeasured(aligned, is_placeholder & self.match.is_missing, self.match.vocabulary, name=self.name)
        return aligned if self.others is None else self.others.scale(aligned)


def selector(match: GeneMatch, dtype: np.dtype | type = np.float32) -> sp.csr_matrix:
    """-> 0/1 matrix ``(n_query, n_vocabulary)``: a product with it sums duplicates and leaves missing genes empty."""
    ones = np.ones(len(match.query_columns), dtype=dtype)
    shape = (match.n_query, len(match.vocabulary))
    return sp.csr_matrix((ones, (match.query_columns, match.vocabulary_columns)), shape=shape)


def align_counts(
    adata: AnnData,
    match: GeneMatch,
    *,
    layer: str | None = None,
    chunk_size: int = CELLS_PER_BLOCK,
    name: str = "query",
) -> sp.csr_matrix:
    """Counts of ``adata.X``, or a layer, in the order of a vocabulary ``(n_obs, n_vocabulary)``, in memory."""
    check_not_empty(adata, name=name)
    check_layer(adata, layer, name=name)
    if adata.n_vars != match.n_query:
        raise ValueError(
            f"{name} has {adata.n_vars} genes, but its genes were matched when there were {match.n_query}. "
            "Match the genes again after changing them."
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise no_x(name)
    aligned = AlignedCounts(MatrixCounts(matrix), match, name=name)
    return in_memory(aligned, aligned.blocks(chunk_size)).matrix


def check_unmeasured(counts: Any, is_missing: np.ndarray, genes: pd.Index, *, name: str) -> None:
    """Raise if values stand where nothing was measured: masking them would lose them without a word."""
    columns = np.flatnonzero(is_missing)
    if columns.size == 0:
        return
    is_filled = np.asarray((counts[:, columns] != 0).sum(axis=0)).ravel() > 0
    if is_filled.any():
        raise ValueError(
            f'{np.count_nonzero(is_filled)} gene(s) of {name} have counts, although var["{IS_MISSING_KEY}"] says that '
            f"they were not measured: {examples(genes[columns[is_filled]])}. Set it to False for genes that were "
            "measured, or delete the column if it describes other data."
        )
