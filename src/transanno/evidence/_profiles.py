"""What groups of cells express."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno.data._counts import CELLS_PER_BLOCK
from transanno.data._log_normalize import log_normalize
from transanno.predictions._run import Cells

# Fewer cells say little about what a type expresses.
_MIN_CELLS = 3


@dataclass(frozen=True, eq=False)
class Profiles:
    """Expression of the model's genes in some groups of cells."""

    mean: pd.DataFrame
    """groups × genes, mean log1p of counts per 10,000; NaN where there are too few cells"""
    share: pd.DataFrame
    """groups × genes, share of cells that express the gene"""


def profiles(
    cells: Cells,
    positions: np.ndarray,
    codes: np.ndarray,
    groups: list[str],
    genes: pd.Index,
    is_gene: np.ndarray,
    *,
    min_cells: int = _MIN_CELLS,
) -> Profiles:
    """Cells at ``positions``, the code of each one's group ``(n_cells,)`` -> profiles; no other cell is read.

    ``is_gene (n_vars,)`` are the columns that ``genes`` names; the other one counts in a cell's total.
    """
    total, n_expressing = np.zeros((2, len(groups), len(genes)))
    for start in range(0, len(positions), CELLS_PER_BLOCK):
        part = slice(start, start + CELLS_PER_BLOCK)
        code = codes[part]
        is_member = sp.csr_matrix((np.ones(len(code)), (code, np.arange(len(code)))), (len(groups), len(code)))
        expression = log_normalize(cells.counts.rows(positions[part]), ~is_gene)
        total += is_member @ expression
        n_expressing += is_member @ (expression > 0)
    n_cells = np.bincount(codes, minlength=len(groups))[:, None].astype(float)
    n_cells[n_cells < min_cells] = np.nan
    mean, share = (pd.DataFrame(values / n_cells, index=groups, columns=genes) for values in (total, n_expressing))
    return Profiles(mean, share)
