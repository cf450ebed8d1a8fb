"""The counts of a cell outside the vocabulary, so that a cell is normalized by all of its counts.

A model reads some 2,000 highly variable genes. Their total alone is a noisy measure of a cell's size, and a few strong
genes dominate it. One more column, the last, therefore holds the counts of all other genes; the module reads nothing but
totals from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd


@dataclass(frozen=True, eq=False)
class OtherGenes:
    """Which columns of some data count as other genes, and how many more molecules there would be had all been measured."""

    is_outside: np.ndarray
    """``(n_query,)`` bool"""
    measured: float = 1.0
    """share of the reference's counts that the measured genes have there"""

    @classmethod
    def of(
        cls, names: pd.Index, is_missing: np.ndarray, vocabulary: pd.Index, shares: Mapping[str, float] | None
    ) -> OtherGenes:
        """Names of the columns as the vocabulary spells them and which are placeholders ``(n_query,)`` -> the others.

        ``shares`` are those of the genes in the counts of the reference: only its genes count. Where the query measured a part
        of them, a cell's total is that of the part, divided by the share that the part has in the reference. Without
        ``shares`` all genes outside the vocabulary count.
        """
        is_outside = np.asarray(~names.isin(vocabulary) & ~is_missing)
        if shares is None:
            return cls(is_outside)
        measured = sum(shares.get(name, 0.0) for name in set(names[~is_missing]))
        is_all = measured >= 1.0 - 1e-6 or measured <= 0.0
        return cls(is_outside & names.isin(shares), 1.0 if is_all else measured)

    def scale(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Counts ``(n_obs, n_vars)``, the others last -> the same, with as many others as had all genes been measured."""
        if self.measured == 1.0:
            return counts
        total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        genes = counts[:, :-1]
        inside = np.asarray(genes.sum(axis=1), dtype=np.float64).ravel()
        others = np.rint(total / self.measured - inside)
        with np.errstate(over="ignore"):  # sums that float32 does not hold are reported with all that is not finite
            return sp.hstack([genes, sp.csr_matrix(others[:, None])], format="csr", dtype=np.float32)
