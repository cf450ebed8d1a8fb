"""Counts in any container to tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from transanno.nn import sparse_rows

Minibatch = dict[str, torch.Tensor]


def as_positions(indices: Sequence[int] | np.ndarray | None, n_obs: int) -> np.ndarray:
    """Positions, boolean mask or None -> integer positions."""
    if indices is None:
        return np.arange(n_obs)
    selection = np.asarray(indices)
    if selection.size == 0:
        return np.zeros(0, dtype=int)
    if selection.dtype == bool and len(selection) != n_obs:
        raise IndexError(
            f"indices is a mask of {len(selection)} cells, but there are {n_obs}. Give one value per cell."
        )
    return np.arange(n_obs)[selection]


def take_rows(counts: Any, rows: np.ndarray) -> Any:
    """Rows of a sparse, dense or backed matrix, in the order of ``rows``."""
    if isinstance(counts, np.ndarray) or sp.issparse(counts):
        is_range = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows) and bool((np.diff(rows) == 1).all())
        return counts[rows[0] : rows[-1] + 1] if is_range else counts[rows]  # a slice is four times as fast
    # h5py and anndata's backed matrices want sorted unique rows
    unique, inverse = np.unique(rows, return_inverse=True)
    return counts[unique][inverse]


def as_tensor(counts: Any, *, sparse: bool) -> torch.Tensor:
    """Matrix of counts -> float32 tensor, sparse CSR where both sides can be."""
    if not (sparse and sp.issparse(counts)):
        dense = counts.toarray() if sp.issparse(counts) else np.asarray(counts)
        # Row by row, whatever the container: sums in another order round differently.
        return torch.from_numpy(np.ascontiguousarray(dense, dtype=np.float32))
    counts = counts.tocsr()
    if not counts.has_canonical_format:  # the logarithm of a sum is not that of its parts
        counts = counts.copy()
        counts.sum_duplicates()
    # anndata reads files with 64-bit offsets beside 32-bit positions; torch wants one type.
    rows, genes = counts.indptr.astype(counts.indices.dtype, copy=False), counts.indices
    values = counts.data.astype(np.float32, copy=False)
    return sparse_rows(*map(torch.from_numpy, (rows, genes, values)), n_vars=counts.shape[1])


def first_rows(minibatches: Iterable[Minibatch], n_obs: int, *keys: str) -> Minibatch:
    """First cells of a loader -> tensors ``(≤ n_obs + one minibatch, ...)`` of these keys, dense."""
    parts: list[list[torch.Tensor]] = []
    n_found = 0
    for tensors in minibatches:
        parts.append(
            [tensors[key].to_dense() if tensors[key].layout != torch.strided else tensors[key] for key in keys]
        )
        n_found += len(parts[-1][0])
        if n_found >= n_obs:
            break
    return {key: torch.cat(found).float() for key, found in zip(keys, zip(*parts, strict=True), strict=True)}
