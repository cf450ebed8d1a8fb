"""Which references and queries: every pair, and pairs of two studies once more without a type or two in the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks._data import LABEL, load_pair, read_pairs, read_studies

# Cells that a type has at least to be left out: in the query, and in the reference.
MIN_IN_QUERY, MIN_IN_REFERENCE = 30, 20
# Share of the query beyond which a type is no longer the exception.
MAX_SHARE = 0.4
MIN_TYPES = 4


class Task(NamedTuple):
    """A reference and a query of other cells."""

    name: str
    pair: str
    left_out: str | None
    """type that the reference is deprived of"""
    reference_study: str
    query_study: str
    reference: AnnData
    query: AnnData


def tasks(max_cells: int, seed: int) -> Iterator[Task]:
    """Cells of a side at most -> all tasks, whole pairs first."""
    pairs, studies = read_pairs(), read_studies()
    for is_whole in (True, False):
        for name, pair in pairs.items():
            between = [studies[pair[side]["file"]] for side in ("ref", "query")]
            if not is_whole and between[0] == between[1]:
                continue
            reference, query = (thinned(side, max_cells, seed) for side in load_pair(pair))
            if is_whole:
                yield Task(name, name, None, *between, reference, query)
                continue
            for left_out in to_leave_out(reference.obs[LABEL], query.obs[LABEL]):
                kept = reference[(reference.obs[LABEL] != left_out).to_numpy()].copy()
                yield Task(f"{name} without {left_out}", name, left_out, *between, kept, query.copy())


def to_leave_out(reference: pd.Series, query: pd.Series) -> list[str]:
    """Labels of both sides -> the commonest type that is at most 40 % of the query, and one of middling size."""
    n_reference, n_query = reference.value_counts(), query.value_counts()
    shared = [
        name for name in n_query.index if n_query[name] >= MIN_IN_QUERY and n_reference.get(name, 0) >= MIN_IN_REFERENCE
    ]
    if len(n_reference) < MIN_TYPES or not shared:
        return []
    common = [name for name in shared if n_query[name] <= MAX_SHARE * len(query)][:1]
    middle = shared[len(shared) // 2]
    return common if middle in common else [*common, middle]


def thinned(cells: AnnData, n_cells: int, seed: int) -> AnnData:
    """-> at most so many of the cells, chosen at random."""
    return cells[np.sort(np.random.default_rng(seed).permutation(cells.n_obs)[:n_cells])].copy()
