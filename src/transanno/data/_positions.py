"""Which cells: those that the user asks for, and some that stand for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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


def evenly_spread(n_obs: int, at_most: int) -> np.ndarray:
    """-> positions of so many of the cells at most, evenly spread."""
    return np.linspace(0, n_obs - 1, min(n_obs, at_most)).round().astype(int)
