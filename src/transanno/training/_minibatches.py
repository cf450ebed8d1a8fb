"""Cells by position, and the first cells of a loader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

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
