"""What ``predict`` found, and how it is written into ``obs``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData, ImplicitModificationWarning
from mudata import MuData

from transanno._constants import CONFIDENCE_SUFFIX


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

    @property
    def labels(self) -> np.ndarray:
        """``(n_cells,)`` str, the most probable type of every cell."""
        return self.classes[self.probabilities.argmax(axis=1)].astype(str)

    def to_frame(self) -> pd.DataFrame:
        """Cells × types, the probabilities."""
        return pd.DataFrame(self.probabilities, index=self.obs_names[self.indices], columns=self.classes.astype(str))

    def write(self, data: AnnData | MuData, key_added: str) -> None:
        """Write ``obs[key_added]`` (categorical) and its confidence; cells not predicted are missing there."""
        codes = np.full(len(self.obs_names), -1, dtype=np.int64)
        codes[self.indices] = self.probabilities.argmax(axis=1)
        confidence = np.full(len(self.obs_names), np.nan)
        confidence[self.indices] = self.probabilities.max(axis=1)
        labels = pd.Categorical.from_codes(
            codes, categories=pd.Index(self.classes.astype(str))
        ).remove_unused_categories()
        with warnings.catch_warnings():
            # Writing to a view of the user's makes it an object of its own, which is what they asked for.
            warnings.simplefilter("ignore", ImplicitModificationWarning)
            data.obs[key_added] = labels
            data.obs[f"{key_added}{CONFIDENCE_SUFFIX}"] = confidence
