"""Cells of a dask array through a network on the cluster that has them: partition by partition, the network sent once.

Nothing is transferred but what the network gives. Schedulers, transfers and retries are those of ``dask.distributed``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno.checks._data import is_lazy
from transanno.checks._progress import cells_bar
from transanno.data._counts import Counts, MatrixCounts


def active_client(counts: Counts) -> Any | None:
    """-> the client of ``dask.distributed`` that the session computes with; None if there is none, or these are not of a dask array."""
    # Whoever has a client has imported the library.
    distributed = sys.modules.get("distributed")
    if distributed is None or not is_lazy(_matrix_of(counts)):
        return None
    try:
        client = distributed.default_client()
    except ValueError:  # there is none
        return None
    return None if client.asynchronous else client


def run_on_cluster(
    client: Any, run: Callable[..., Any], backend: Any, cells: Any, positions: np.ndarray, batch_size: int
) -> Any:
    """``run`` of the cells at ``positions``, in tasks of a partition each -> outputs of all of them."""
    from dask import delayed
    from distributed import as_completed

    matrix = _matrix_of(cells.counts)
    ends = np.cumsum(matrix.chunks[0])
    job = replace(cells, counts=_with_matrix(cells.counts, None), obs=pd.DataFrame())
    # Not sent with every task, but once to every worker.
    shared = client.scatter(_Shared(run, backend, job, matrix.shape, batch_size), broadcast=True, hash=False)
    partition = np.searchsorted(ends, positions, side="right")
    tasks, where = [], []
    for number in np.unique(partition):
        where.append(np.flatnonzero(partition == number))
        start = int(ends[number] - matrix.chunks[0][number])
        tasks.append(delayed(_run_part)(matrix.blocks[int(number)], start, positions[where[-1]], shared))
    futures = client.compute(tasks)
    numbers = {future.key: number for number, future in enumerate(futures)}
    whole = None
    try:
        with cells_bar("Predicting", len(positions), is_long=True) as bar:
            for future, part in as_completed(futures, with_results=True):
                if whole is None:
                    whole = type(part)(*(np.empty((len(positions), *each.shape[1:]), each.dtype) for each in part))
                rows = where[numbers[future.key]]
                for values, filled in zip(part, whole, strict=True):
                    filled[rows] = values
                future.release()  # which the workers would keep
                bar.update(len(rows))
    except BaseException:
        client.cancel(futures)
        raise
    return whole


@dataclass(frozen=True, eq=False)
class _Shared:
    """What all tasks need."""

    run: Callable[..., Any]
    backend: Any
    cells: Any
    """whose counts have no matrix"""
    shape: tuple[int, int]
    """of the matrix"""
    batch_size: int


def _run_part(matrix: Any, start: int, positions: np.ndarray, shared: _Shared) -> Any:
    """Rows of the matrix from ``start`` on -> outputs of those at ``positions`` of the whole."""
    # A copy, because what a worker was sent is read-only, and counts that are restored note down which were no multiples.
    counts = _with_matrix(deepcopy(shared.cells.counts), _Part(MatrixCounts(matrix), start, shared.shape))
    return shared.run(shared.backend, replace(shared.cells, counts=counts), positions, batch_size=shared.batch_size)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows in the place of all: counts above ask for rows by their position among all."""

    counts: MatrixCounts
    start: int
    shape: tuple[int, int]
    is_on_disk: bool = False

    def rows(self, positions: np.ndarray) -> sp.csr_matrix:
        """Positions of cells -> ``(n_cells, n_vars)``."""
        return self.counts.rows(positions - self.start)


def _matrix_of(counts: Any) -> Any:
    """-> the matrix under counts that are restored and aligned as they are read."""
    inner = _inner(counts)
    return getattr(counts, "matrix", None) if inner is None else _matrix_of(getattr(counts, inner))


def _with_matrix(counts: Any, part: Any) -> Any:
    """-> the same counts of another matrix."""
    inner = _inner(counts)
    return part if inner is None else replace(counts, **{inner: _with_matrix(getattr(counts, inner), part)})


def _inner(counts: Any) -> str | None:
    """-> name of the counts that others are made of."""
    return next((name for name in ("counts", "values") if hasattr(counts, name)), None)
