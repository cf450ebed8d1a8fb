"""Whether values can be counts, judged when all cells were seen, and which scales models take for such.

The verdict on the scale rests on the data as they are and not on the genes that a model happens to read of them, so that it
is the same wherever it is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno.checks._data import listing
from transanno.checks._warn import warn
from transanno.data._counts import CELLS_PER_BLOCK, Counts, MatrixCounts
from transanno.data._scale import Scale, detect_scale
from transanno.data._values import LOG_MAXIMUM, MOSTLY_FRACTIONAL, ROUNDING_TOLERANCE, ValueStats, is_few

_N_EXAMPLES = 5


class Cure(Protocol):
    """Says where the user has counts, and nothing if they are not needed and there are none."""

    def __call__(self, is_needed: bool = True) -> str:
        """-> a sentence."""


def static_cure(is_needed: bool = True) -> str:
    """Where counts may be, if nothing is known of the object that holds the values."""
    return (
        'Pass the raw counts instead: name the layer that holds them, for example layer="counts", '
        "or start from adata.raw.to_adata() if adata.raw holds them. transanno.pp.check(adata) says what the values are, and "
        "with fix=True restores the counts where that is possible."
    )


def check_counts(matrix: Any, *, name: str, genes: pd.Index | None = None, cure: Cure = static_cure) -> None:
    """Raise unless a matrix ``(n_obs, n_vars)`` in memory holds what models take as counts; ``name`` is what to call it.

    A TypeError if it holds no numbers; a ValueError if there are NaN, infinite or negative values, if all are zero, or if they
    look logged, or normalized where counts follow from them. Expected or ambient-corrected counts and TPM are accepted with a
    warning.
    """
    if not (isinstance(matrix, np.ndarray) or sp.issparse(matrix)):
        raise TypeError(
            f"{name} is a {type(matrix).__name__}; a numpy array or a scipy sparse matrix is needed. "
            "Convert it, or read a backed AnnData into memory with adata.to_memory()."
        )
    if matrix.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} has dtype {matrix.dtype}; real numbers (integer or float) are needed. "
            'Convert it, for example with .astype("float32").'
        )
    check = _Check(name, matrix.shape, genes, cure)
    for block in MatrixCounts(matrix).blocks():
        check.add(block)
    judge_scale(replace(detect_scale(matrix), stats=check.conclude()), name=name, cure=cure)


def checked_blocks(
    counts: Counts,
    *,
    name: str,
    genes: pd.Index | None = None,
    cure: Cure = static_cure,
    scale: Scale | None = None,
) -> Iterator[sp.csr_matrix]:
    """Blocks of all cells; after the last, what is wrong with their values is raised.

    ``scale``, if known, is that of the whole, which was judged before: of fractions in a few cells that were not in its sample
    there is a warning.
    """
    check = _Check(name, counts.shape, genes, cure)
    for block in counts.blocks():
        check.add(block)
        if not check.n_not_finite and not check.n_negative:  # nothing can be computed from these
            yield block
    stats = check.conclude()
    if scale is not None and scale.kind == "counts" and stats.n_fractional:
        judge_scale(Scale("fractional counts", stats=stats), name=name, cure=cure)


class NotFiniteError(ValueError):
    """Counts hold NaN or infinite values."""


@dataclass(frozen=True, eq=False)
class CheckedCounts:
    """Counts whose cells are checked when they are read: what is wrong with some is said as of all cells."""

    counts: Counts
    check: Callable[[], Iterator[sp.csr_matrix]]
    """reads all cells and raises what is wrong with their values"""

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_obs, n_vars)``"""
        return self.counts.shape

    def rows(self, positions: np.ndarray) -> sp.csr_matrix:
        """Positions of cells, in any order -> ``(n_cells, n_vars)``."""
        return self._look_at(self.counts.rows(positions))

    def blocks(self, n_rows: int = CELLS_PER_BLOCK) -> Iterator[sp.csr_matrix]:
        """All cells in their order, at most so many at a time."""
        return map(self._look_at, self.counts.blocks(n_rows))

    @property
    def is_on_disk(self) -> bool:
        """Whether rows are read from a file, or computed, whenever they are asked for."""
        return self.counts.is_on_disk

    def _look_at(self, block: sp.csr_matrix) -> sp.csr_matrix:
        values = block.data
        if not np.isfinite(values).all() or values.min(initial=0) < -ROUNDING_TOLERANCE or not values.any():
            for _ in self.check():
                pass
        return block


def judge_scale(scale: Scale, *, name: str, cure: Cure = static_cure) -> None:
    """Raise ``ValueError`` unless models take values of this scale as counts; warn if they are none."""
    stats = scale.stats
    if scale.kind == "mixed":
        # Their maximum is that of counts, so they would be taken for fractional counts.
        raise ValueError(
            f"{name} holds whole numbers in some cells and fractions in others, as if raw counts of some were put together "
            "with normalized values of others. Raw counts of all cells are needed: put the sources together again, from "
            f"their counts. {cure()}"
        )
    if stats.n_fractional == 0 or scale.kind in ("scaled", "negative counts", "not finite", "empty"):
        return  # what is wrong with these is said where their values are checked
    if stats.share >= MOSTLY_FRACTIONAL:
        total = scale.target_sum
        if scale.kind == "normalized" and total is not None:
            what = f"{name} looks normalized to {total:.7g} counts per cell, not logged: {stats}, and all cells sum to "
            if scale.is_restorable:
                raise ValueError(f"{what}about the same total. Raw counts are needed. {cure()}")
            warn(
                f"{what}about the same total. No whole counts follow from them, so they are accepted as they are, like TPM "
                f"(Smart-seq2). If there are raw counts, pass these: probabilities are then more reliable. {cure(False)}".rstrip()
            )
            return
        if scale.kind in ("log1p", "double log1p") or stats.maximum < LOG_MAXIMUM:
            raise ValueError(
                f"{name} looks log1p-normalized: {stats}, and the maximum is only {stats.maximum:.4g}. Raw counts are "
                f"needed. {_undo_hint(scale)}{cure()}"
            )
    warn(
        f"{name} holds fractional counts: {stats}. They are accepted as expected or ambient-corrected counts (RSEM, Alevin, "
        f"SoupX). If the data were normalized instead, results will be wrong. {cure(False)}".rstrip()
    )


def is_usable(scale: Scale) -> bool:
    """Whether :func:`judge_scale` and the checks of values accept it."""
    if scale.kind in ("counts", "fractional counts"):
        return True
    if scale.kind == "normalized":
        return scale.target_sum is not None and not scale.is_restorable
    return scale.kind == "unknown" and scale.stats.maximum >= LOG_MAXIMUM


def _undo_hint(scale: Scale) -> str:
    """How to undo a logarithm that is known to have been taken once, of values that no counts follow from."""
    if scale.kind != "log1p" or scale.target_sum is None or scale.is_restorable:
        return ""
    base = scale.bases[0]
    undone = "numpy.expm1(X)" if base == math.e else f"{base:g} ** X - 1"
    return f"Without the logarithm, {undone}, the values are accepted as TPM are. "


class _Check:
    """What was seen of the values so far."""

    def __init__(self, name: str, shape: tuple[int, int], genes: pd.Index | None, cure: Cure) -> None:
        self.name, self.shape, self.genes, self.cure = name, shape, genes, cure
        self.stats, self.minimum, self.n_rows = ValueStats(), np.inf, 0
        self.n_negative = self.n_negative_whole = self.n_not_finite = 0
        self.per_cell, self.per_gene = np.zeros(0, dtype=int), np.zeros(0, dtype=int)

    def add(self, block: sp.csr_matrix) -> None:
        """Look at the next cells."""
        start, self.n_rows, values = self.n_rows, self.n_rows + block.shape[0], block.data
        if values.size == 0:
            return
        if values.dtype.kind == "f" and not (is_finite := np.isfinite(values)).all():
            if not self.n_not_finite:
                self.per_cell, self.per_gene = (np.zeros(size, dtype=int) for size in self.shape)
            rows = np.repeat(np.arange(start, self.n_rows), np.diff(block.indptr))
            self.n_not_finite += int(np.count_nonzero(~is_finite))
            np.add.at(self.per_cell, rows[~is_finite], 1)
            np.add.at(self.per_gene, block.indices[~is_finite], 1)
            return
        self.stats, self.minimum = self.stats + ValueStats.of(values), min(self.minimum, float(values.min()))
        if self.minimum < -ROUNDING_TOLERANCE:
            negative = values[values < -ROUNDING_TOLERANCE]
            self.n_negative += negative.size
            self.n_negative_whole += int(np.count_nonzero(np.abs(negative - np.rint(negative)) <= ROUNDING_TOLERANCE))

    def conclude(self) -> ValueStats:
        """-> what the values are like; a ValueError says what is wrong with them."""
        if self.n_not_finite:
            raise NotFiniteError(self._what_is_not_finite())
        if self.minimum < -ROUNDING_TOLERANCE:
            raise ValueError(self._what_is_negative())
        if self.stats.maximum <= ROUNDING_TOLERANCE:
            raise ValueError(
                f"All {self.shape[0]} x {self.shape[1]} values of {self.name} are zero; raw counts with at least some "
                f"values above zero are needed. {self.cure()}"
            )
        return self.stats

    def _what_is_not_finite(self) -> str:
        """In which cells and genes they are, and which of these to remove."""
        n_obs, n_vars = self.shape
        cells, bad_genes = np.flatnonzero(self.per_cell), np.flatnonzero(self.per_gene)
        if self.genes is not None and len(self.genes) == n_vars:
            names = [str(name) for name in self.genes[bad_genes]]
        else:
            names = [f"column {i}" for i in bad_genes]
        text = (
            f"{self.name} holds {self.n_not_finite} NaN or infinite value(s) in {cells.size} of {n_obs} cells, first in row(s) "
            f"{listing(cells, _N_EXAMPLES)}. They are in {bad_genes.size} of {n_vars} genes, first "
            f"{listing(names, _N_EXAMPLES)}. Raw counts must be finite and not negative. "
        )
        owner = re.sub(r"\.(X|raw|layers\b.*)$", "", self.name)
        remove = f"remove them, {owner}[:, numpy.isfinite(numpy.ravel({self.name}.sum(axis=0)))].copy()"
        of_cells, of_genes = cells.size / n_obs, bad_genes.size / n_vars
        if of_genes < of_cells and (self.per_gene[bad_genes] == n_obs).all():
            return (
                f"{text}These genes hold nothing else, as a gene without variance does after scaling: {remove}, or redo the "
                "step that divided by zero."
            )
        if of_genes < of_cells:
            return (
                f"{text}Fewer genes than cells are concerned: {remove}, or, if they were not measured in some of the parts that "
                'were put together, do so again with anndata.concat(..., join="inner"), or with fill_value=0.'
            )
        if of_cells < 1:
            return (
                f"{text}Remove these cells, or find out which earlier step divided by zero or overflowed and redo it."
            )
        return f"{text}That is no single gene or cell: find out which earlier step divided by zero or overflowed and redo it."

    def _what_is_negative(self) -> str:
        """Scaled data, or a few among counts."""
        n_nonzero, is_whole = self.stats.n_nonzero, self.n_negative_whole == self.n_negative
        if is_whole and is_few(self.n_negative, n_nonzero) and self.stats.share < MOSTLY_FRACTIONAL:
            return (
                f"{self.n_negative} of {n_nonzero} non-zero values of {self.name} are negative, all of them whole numbers, the "
                f"smallest {self.minimum:.4g}; raw counts are never negative. This is a fault of the program that wrote them, "
                f"known of CellBender 0.3.1: run a later version, or set them to 0: {self.name}[{self.name} < 0] = 0"
            )
        return (
            f"{self.name} looks scaled (z-scored or batch-corrected): minimum found {self.minimum:.4g}, but raw counts are "
            f"never negative. {self.cure()}"
        )
