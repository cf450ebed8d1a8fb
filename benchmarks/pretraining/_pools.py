"""Unlabeled cells to pretrain on, none of them of a study that the task is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks._data import data_folder, read_studies, upper_symbols
from benchmarks.pretraining._config import Config

SOURCE = "source"
_SEED = 0  # of the draw of cells: part of the pool, not of a run


class Pool(NamedTuple):
    """Cells of one or more sources, which ``obs["source"]`` names."""

    cells: AnnData
    unmeasured: float
    """share of the values of the task's genes that are zero because a cell's source did not measure the gene"""


def at_hand(reference: AnnData, query: AnnData) -> Pool:
    """-> all cells of both sides."""
    sides = {"reference": reference, "query": query}
    return Pool(ad.concat(sides, label=SOURCE, index_unique="-"), 0.0)


def other_files(config: Config, of_task: Sequence[str], *, same_organ: bool) -> list[str]:
    """Files of a task's two sides -> those of all other studies, or of these those of the sides' organs."""
    studies = read_studies()
    left_out = {studies[file] for file in of_task}
    organs = {config.organs[file] for file in of_task}
    return [
        file
        for file, study in studies.items()
        if study not in left_out and (not same_organ or config.organs[file] in organs)
    ]


def pool_of(config: Config, files: Sequence[str], genes: pd.Index) -> Pool | None:
    """Files and the genes of a task, in upper case -> their cells on the genes of any; None where no file can be used.

    A gene that a file did not measure is zero there, which says that it is not expressed. A file that lacks most of the task's genes,
    a panel or a selection of genes, is left out. Of a study with too many cells, every file keeps the same share.
    """
    found = {file: _read(file) for file in files}
    measured = {file: float(genes.isin(adata.var_names).mean()) for file, adata in found.items()}
    used = [file for file in files if measured[file] >= config.min_measured]
    if not used:
        return None
    studies, n_cells = read_studies(), Counter[str]()
    for file in used:
        n_cells[studies[file]] += found[file].n_obs
    rng = np.random.default_rng(_SEED)
    parts = {}
    for file in used:
        share = min(1.0, config.max_cells / n_cells[studies[file]])
        drawn = rng.permutation(found[file].n_obs)[: round(share * found[file].n_obs)]
        parts[file] = found[file][np.sort(drawn)]
    unmeasured = np.average([1 - measured[file] for file in parts], weights=[part.n_obs for part in parts.values()])
    cells = ad.concat(parts, join="outer", fill_value=0, label=SOURCE, index_unique="-")
    return Pool(cells, float(unmeasured))


@cache
def _read(file: str) -> AnnData:
    """-> raw counts without labels, symbols in upper case, so that species have them in common."""
    adata = ad.read_h5ad(data_folder() / file)
    return upper_symbols(AnnData(adata.X, obs=adata.obs[[]], var=pd.DataFrame(index=adata.var_names)))
