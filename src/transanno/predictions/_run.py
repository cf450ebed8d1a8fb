"""Cells through a network, once: what it takes and what it gives, whichever library computes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno._constants import N_CENTER_CELLS
from transanno.checks._progress import cells_bar
from transanno.data._counts import CELLS_PER_BLOCK, Counts, is_streamed
from transanno.data._positions import evenly_spread
from transanno.predictions._cluster import active_client, run_on_cluster


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of one data set as a model reads them."""

    counts: Counts
    """``(n_obs, n_vars)``, genes in the order of the model"""
    batch: np.ndarray
    """``(n_obs,)`` codes of the batches that the model knows"""
    is_missing: np.ndarray
    """``(n_vars,)`` bool, True for genes that the data lack"""
    obs: pd.DataFrame
    """names of the cells, and their batches and labels as the user wrote them"""


class Outputs(NamedTuple):
    """What a network gives for some cells."""

    logits: np.ndarray
    """``(n_cells, n_labels)``"""
    z: np.ndarray
    """``(n_cells, n_latent)``, the cell states"""
    projected: np.ndarray
    """``(n_cells, width)``, log-expression times what the backend was told to project it on; of no width if nothing"""
    is_empty: np.ndarray
    """``(n_cells,)`` bool, cells without a count in any gene that is read"""


class Backend(Protocol):
    """A network that is ready to predict."""

    is_stateless: bool
    """whether the workers of a cluster may be sent it and share it"""

    def __call__(self, counts: sp.csr_matrix, batch: np.ndarray, is_missing: np.ndarray) -> Outputs:
        """Counts ``(n_cells, n_vars)``, batch codes ``(n_cells,)``, genes that the data lack ``(n_vars,)`` -> outputs."""


def run(backend: Backend, cells: Cells, positions: np.ndarray, *, batch_size: int) -> Outputs:
    """Cells at ``positions`` -> outputs in that order, one pass over the cells in minibatches.

    Where the counts are a dask array and the session computes with a client of ``dask.distributed``, on its workers.
    """
    client = active_client(cells.counts) if backend.is_stateless and len(positions) else None
    if client is not None:
        return run_on_cluster(client, run, backend, cells, positions, batch_size)
    whole: Outputs | None = None
    start = 0
    with cells_bar("Predicting", len(positions), is_long=is_streamed(cells.counts)) as bar:
        for counts, batch in _minibatches(cells, positions, batch_size):
            part = backend(counts, batch, cells.is_missing)
            if whole is None:  # filled step by step: parts and the whole beside each other would take twice the memory
                whole = Outputs(*(np.empty((len(positions), *values.shape[1:]), values.dtype) for values in part))
            for values, filled in zip(part, whole, strict=True):
                filled[start : start + len(values)] = values
            start += len(batch)
            bar.update(len(batch))
    assert whole is not None  # of no cells, outputs of no rows
    return whole


def _minibatches(cells: Cells, positions: np.ndarray, size: int) -> Iterator[tuple[sp.csr_matrix, np.ndarray]]:
    """-> counts and batch codes of so many cells at a time, at least once."""
    step = max(CELLS_PER_BLOCK // size, 1) * size  # files are read in larger pieces than networks are
    for first in range(0, max(len(positions), 1), step):
        block = positions[first : first + step]
        counts = cells.counts.rows(block)
        for start in range(0, max(len(block), 1), size):
            part = slice(start, start + size)
            yield counts[part], cells.batch[block[part]]


def center_cells(positions: np.ndarray) -> np.ndarray:
    """Positions of the cells of a data set -> those whose mean stands for all, evenly spread."""
    return positions[evenly_spread(len(positions), N_CENTER_CELLS)]
