"""Which cells the user asks for."""

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
