"""A reference's counts on the genes that a model will read, apart from the user's object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from transanno._constants import JUDGED_KEY, OTHER_GENES
from transanno.checks._quiet import repeated_names
from transanno.data._align_counts import AlignedCounts
from transanno.data._counts import in_memory
from transanno.data._find_counts import CountsSource, read_counts
from transanno.data._find_names import say
from transanno.data._match_genes import match_genes
from transanno.data._other_genes import OtherGenes
from transanno.data._restore import NoCounts
from transanno.data._select_genes import GeneSums, batch_codes, choose_genes, sum_genes


@dataclass(frozen=True, eq=False)
class WantedGenes:
    """Which genes are to be read."""

    measured: pd.Index
    """that count in a cell's total"""
    allowed: pd.Index
    """of these, that the model may read"""
    genes: Sequence[str] | pd.Index | None
    """that the user asked for"""
    n_top_genes: int
    """how many of the most variable ones otherwise"""
    adds_others: bool = True
    """whether the counts of all others get a column of their own"""

    def select(self, sums: GeneSums) -> pd.Index:
        """-> names of the genes that the model reads."""
        is_allowed = self.measured.isin(self.allowed)
        if self.genes is None:
            return self.measured[is_allowed][choose_genes(sums.of(is_allowed), self.n_top_genes)]
        asked = pd.Index(self.genes).astype(str)
        selected = asked[asked.isin(self.allowed)].unique()
        if len(selected) < least_shared(len(self.allowed), len(asked)):
            raise ValueError(
                f"Of the {len(asked)} names in genes=, {len(selected)} are genes that can be used here, such as "
                f"{', '.join(self.allowed[:3])}. Name genes that the reference, and the query where it is given, have measured."
            )
        return selected


def read_reference(
    adata: AnnData, wanted: WantedGenes, labels_key: str | None, batch_key: str | None, layer: str | None, *, name: str
) -> tuple[AnnData, dict[str, float] | None]:
    """-> counts of the chosen genes and columns that training reads, apart from the user's object; and the share of every gene.

    All genes of a block of cells are held at a time, twice: to choose genes by, and to read these.
    """
    obs = pd.DataFrame(index=adata.obs_names.astype(str))
    for key in (key for key in (labels_key, batch_key) if key is not None):
        obs[key] = adata.obs[key].to_numpy()

    def read(source: CountsSource) -> tuple[AnnData, dict[str, float] | None]:
        if not wanted.measured.isin(source.var.index).all():
            raise NoCounts  # raw, where counts may be found, usually has more genes
        match = match_genes(source.var.index, wanted.measured, name=name, min_shared=1)
        source.judge()
        blocks = source.checked(AlignedCounts(source.counts, match, name=name), wanted.measured)
        sums = sum_genes(blocks, batch_codes(adata, batch_key), wanted.measured.isin(wanted.allowed))
        say([source.note])
        selected = wanted.select(sums)
        match = match_genes(source.var.index, selected, name=name, min_shared=1)
        of_gene = sums.counts.sum(axis=0)
        others, shares = None, None
        if wanted.adds_others and of_gene[~wanted.measured.isin(selected)].any():
            others = OtherGenes(np.asarray(source.var.index.isin(wanted.measured.difference(selected))))
            shares = dict(zip(wanted.measured, (of_gene / of_gene.sum()).tolist(), strict=True))
        counts = in_memory(AlignedCounts(source.counts, match, others, name)).matrix
        names = [*selected, OTHER_GENES] if others is not None else list(selected)
        with repeated_names():
            return AnnData(counts, obs=obs, var=pd.DataFrame(index=names), uns={JUDGED_KEY: True}), shares

    return read_counts(adata, read, layer=layer, name=name)


def least_shared(n_reference: int, n_query: int) -> int:
    """A query measured with a small panel shares few of a whole transcriptome's genes, and that is fine."""
    return max(1, min(20, n_reference, n_query))
