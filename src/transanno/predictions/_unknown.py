"""How much a cell is unlike the reference, on one scale for every query.

A cell of another laboratory is far from every type, whatever it is. Three things keep that apart from a new type
(docs/decisions/0013). The distance and the doubt of a cell are measured in units of what held-out cells of the reference that got the same
call show, so that they mean the same for every type and every model. They are averaged over neighborhoods of the query, because a new type is
a group of cells and an odd cell is not. And they count only as far as the cell is unlike the query's other cells of its call, too: what
all of them share is a difference between laboratories. What is left is a number of standard deviations, high where a cell is
unlike the reference; :mod:`transanno.predictions._studies` says from where on it is called "Unknown".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from transanno.predictions._neighbors import MIN_CELLS, neighbor_average

# Standard deviations beyond which a cell counts no more: one broken cell must not decide for its neighbors.
_MAX = 8.0
# Cells that the scale of all cells weighs as much as, where a type has its own.
_N_PRIOR = 20
# Standard deviations of held-out cells that a query's cells of a call differ by at least: of equals, none is new.
_LEAST_UNIT = 0.25
# A surer cell is as sure as this.
_LEAST_DOUBT = 1e-4
_LEAST_SPREAD = 1e-3
# More digits would only make a saved model larger.
_DECIMALS = 5


@dataclass(frozen=True, eq=False)
class NoveltyScale:
    """Distance and doubt of held-out cells of the reference, by what these are called."""

    center: np.ndarray
    """``(n_labels, 2)``, medians"""
    spread: np.ndarray
    """``(n_labels, 2)``, median absolute deviations, as standard deviations"""

    @classmethod
    def fit(cls, distance: np.ndarray, probabilities: np.ndarray) -> NoveltyScale:
        """Distances ``(n_cells,)``, tempered probabilities ``(n_cells, n_labels)`` of held-out cells -> scale.

        Types that few of them are called are drawn towards all of them.
        """
        values, called = _measured(distance, probabilities), probabilities.argmax(axis=1)
        center, spread = (np.tile(found, (probabilities.shape[1], 1)) for found in _robust(values))
        for code, n_cells in zip(*np.unique(called, return_counts=True), strict=True):
            for whole, own in zip((center, spread), _robust(values[called == code]), strict=True):
                whole[code] = _drawn(own, whole[code], n_cells)
        return cls(center.round(_DECIMALS), spread.round(_DECIMALS))

    def novelty(
        self, distance: np.ndarray, probabilities: np.ndarray, neighbors: np.ndarray | None, is_empty: np.ndarray
    ) -> np.ndarray:
        """Distances ``(n_cells,)``, tempered probabilities, neighbors ``(n_cells, k)`` or None -> novelty ``(n_cells,)``.

        Fewer than 50 cells are compared with held-out cells only. Cells that are empty are no yardstick, and get NaN.
        """
        called = probabilities.argmax(axis=1)
        units = (_measured(distance, probabilities) - self.center[called]) / self.spread[called]
        novelty = np.where(is_empty, 0.0, units.clip(-_MAX, _MAX).mean(axis=1))
        if neighbors is not None:
            novelty = neighbor_average((novelty + neighbor_average(novelty, neighbors)) / 2, neighbors)
        novelty[is_empty] = np.nan
        if np.count_nonzero(~is_empty) >= MIN_CELLS:
            novelty[~is_empty] = np.minimum(novelty, _among_its_like(novelty, called, ~is_empty))[~is_empty]
        return novelty


def _measured(distance: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """-> distance and doubt ``(n_cells, 2)``, both logarithms and high where a cell is unlike."""
    return np.column_stack([distance, np.log(np.clip(1.0 - probabilities.max(axis=1), _LEAST_DOUBT, 1.0))])


def _robust(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values ``(n_cells, 2)`` -> their center and their spread ``(2,)``."""
    center = np.median(values, axis=0)
    deviation = np.median(np.abs(values - center), axis=0) / norm.ppf(0.75)
    return center, np.maximum(deviation, _LEAST_SPREAD)


def _among_its_like(novelty: np.ndarray, called: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Novelty and calls ``(n_cells,)``, which cells to use -> the same in units of the query's own cells of that call.

    Their lower half is taken to be of known types. The fewer there are, the more the cells of all calls count, and for the
    spread of these the unit itself, that of the held-out cells.
    """
    center, spread = _lower_half(novelty[is_used])
    overall = np.array([center, _drawn(spread, 1.0, int(is_used.sum()))])
    found = np.full(len(novelty), np.nan)
    for code in np.unique(called[is_used]):
        own = is_used & (called == code)
        center, spread = _drawn(_lower_half(novelty[own]), overall, int(own.sum()))
        found[own] = (novelty[own] - center) / max(spread, _LEAST_UNIT)
    return found


def _lower_half(novelty: np.ndarray) -> np.ndarray:
    """-> center and spread ``(2,)``."""
    lower, center = np.quantile(novelty, [0.1, 0.5])
    return np.array([center, (center - lower) / -norm.ppf(0.1)])


def _drawn(own: Any, prior: Any, n_cells: int) -> Any:
    """-> what so many cells say, drawn towards the prior."""
    return (n_cells * own + _N_PRIOR * prior) / (n_cells + _N_PRIOR)
