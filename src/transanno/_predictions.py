"""What ``predict`` found, and how it is written into ``obs``."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, ImplicitModificationWarning
from mudata import MuData

from transanno._constants import CONFIDENCE_SUFFIX, UNASSIGNED_CATEGORY


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of some cells of a data set."""

    probabilities: np.ndarray
    """``(n_cells, n_labels)``, rows sum to 1"""
    classes: np.ndarray
    """``(n_labels,)`` str"""
    indices: np.ndarray
    """``(n_cells,)`` positions of the cells in the data set"""
    obs_names: pd.Index
    """``(n_obs,)`` names of all cells of the data set"""
    unassigned_threshold: float | None = None
    """cells whose highest probability is below are ``"Unassigned"``; None: no cell is"""

    @classmethod
    def from_frame(cls, probabilities: pd.DataFrame, unassigned_threshold: float | None) -> Predictions:
        """Cells × types, the probabilities of all cells of a data set -> predictions."""
        classes, indices = probabilities.columns.to_numpy(), np.arange(len(probabilities))
        return cls(probabilities.to_numpy(), classes, indices, probabilities.index, unassigned_threshold)

    @property
    def codes(self) -> np.ndarray:
        """``(n_cells,)`` position of the most probable type; the number of types where unassigned."""
        codes = self.probabilities.argmax(axis=1)
        if self.unassigned_threshold is None:
            return codes
        return np.where(self.confidence < self.unassigned_threshold, len(self.classes), codes)

    @property
    def confidence(self) -> np.ndarray:
        """``(n_cells,)`` probability of the most probable type, also where that is below the threshold."""
        return self.probabilities.max(axis=1)

    @property
    def categories(self) -> np.ndarray:
        """Names that codes stand for; ``"Unassigned"`` comes last."""
        unassigned = [] if self.unassigned_threshold is None else [UNASSIGNED_CATEGORY]
        return np.array([*self.classes.astype(str), *unassigned])

    @property
    def labels(self) -> np.ndarray:
        """``(n_cells,)`` str, the most probable type of every cell."""
        return self.categories[self.codes]

    def to_frame(self) -> pd.DataFrame:
        """Cells × types, the probabilities."""
        return pd.DataFrame(self.probabilities, index=self.obs_names[self.indices], columns=self.classes.astype(str))

    def write(self, data: AnnData | MuData, key_added: str) -> None:
        """Write ``obs[key_added]`` (categorical) and its confidence; cells not predicted are missing there."""
        codes = np.full(len(self.obs_names), -1, dtype=np.int64)
        codes[self.indices] = self.codes
        confidence = np.full(len(self.obs_names), np.nan)
        confidence[self.indices] = self.confidence
        labels = pd.Categorical.from_codes(codes, categories=pd.Index(self.categories)).remove_unused_categories()
        write_obs(data, {key_added: labels, f"{key_added}{CONFIDENCE_SUFFIX}": confidence})


def write_obs(data: AnnData | MuData, columns: Mapping[str, Any]) -> None:
    """Write columns ``(n_obs,)`` into ``obs``."""
    if getattr(data, "isbacked", False) and data.is_view:
        raise ValueError(
            "The data are a view of a file (backed mode), and nothing can be written to its obs. Read the cells into memory "
            "with to_memory(), or pass key_added=None and use what predict() returns."
        )
    with warnings.catch_warnings():
        # Writing to a view of the user's makes it an object of its own, which is what they asked for.
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        for key, values in columns.items():
            data.obs[key] = values


def check_unassigned_threshold(threshold: float | None, labels: Iterable[str]) -> None:
    """Raise `ValueError` unless it is a probability and no type is called like cells below it."""
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number) or not 0 <= threshold <= 1:
        raise ValueError(
            f"unassigned_threshold={threshold!r}. Allowed: a probability from 0 to 1, 0.5 in the paper, or None to give "
            "every cell a type."
        )
    if UNASSIGNED_CATEGORY in set(labels):
        raise ValueError(
            f"The reference has a type called {UNASSIGNED_CATEGORY!r}, which is what unassigned_threshold="
            f"{threshold:g} calls cells without a type. Rename it in the reference, name it as unlabeled_category if "
            "these cells have no type, or leave unassigned_threshold out."
        )
