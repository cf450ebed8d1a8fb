"""From a network's outputs to what the user gets, whichever backend computed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from transanno._constants import UNASSIGNED_CATEGORY
from transanno.checks._warn import warn
from transanno.predictions._calibration import MIN_HELD_OUT, Calibration
from transanno.predictions._conformal import is_discovery, warn_if_shifted
from transanno.predictions._novelty import NoveltySpace
from transanno.predictions._refine import refine_probabilities
from transanno.predictions._result import Predictions
from transanno.predictions._run import Cells, Outputs


class Asked(NamedTuple):
    """Arguments of :meth:`transanno.TransAnno.predict`."""

    refine: bool = False
    unassigned_threshold: float | None = None
    fdr: float | None = None
    sets: bool = False
    coverage: float = 0.9
    keep_known: bool = False


@dataclass(frozen=True, eq=False)
class Judge:
    """What a trained model knows beside its network."""

    labels: np.ndarray
    """``(n_labels,)`` str"""
    is_gene: np.ndarray
    """``(n_vars,)`` bool, all columns but that of other genes"""
    calibration: Calibration | None = None
    space: NoveltySpace | None = None
    """where novelty is measured"""
    table: np.ndarray | None = None
    """``(n_genes, width)`` gene embeddings that take the place of cell states there"""

    @property
    def axes(self) -> np.ndarray | None:
        """What log-expression is to be projected on ``(n_vars, width)``, so that distances can be measured; None if they cannot."""
        if self.space is None:
            return None
        axes = self.space.axes(self.table)
        whole = np.zeros((len(self.is_gene), axes.shape[1]))
        whole[self.is_gene] = axes
        return whole

    def check_is_calibrated(self) -> None:
        """Raise `ValueError` unless cells can be compared with held-out cells of the reference."""
        if self.calibration is None or self.calibration.distance is None:
            raise ValueError(
                "fdr and sets compare cells with reference cells that were held out from training, but this model has none: "
                f"it was trained with calibrate=False or train_size=1, fewer than {MIN_HELD_OUT} labeled cells were held "
                "out, or it was adapted to labels of the query. Train it again with tl.fit_reference, on more cells if there "
                "were too few, or leave fdr and sets out."
            )

    def distances(self, outputs: Outputs, is_missing: np.ndarray) -> np.ndarray | None:
        """-> how far cells are from the known types ``(n_cells,)``; None if that was not projected."""
        if self.space is None or not outputs.projected.shape[1]:
            return None
        if len(outputs.z) == 0:
            return np.zeros(0)
        return self.space.distances(outputs.z, outputs.projected, is_missing[self.is_gene], self.table)

    def predictions(
        self,
        own: np.ndarray,
        outputs: Outputs,
        cells: Cells | None,
        positions: np.ndarray,
        obs_names: pd.Index,
        known: np.ndarray | None,
        asked: Asked,
    ) -> Predictions:
        """Softmax of the logits ``(n_cells, n_labels)``, outputs of the cells at ``positions`` -> predictions.

        ``cells`` is None for minibatches of the user's, of which nothing else is known; ``known (n_cells,)`` are positions of
        the types that cells keep, -1 for none, or None if none is to be kept.
        """
        probabilities = own
        if asked.refine:
            assert cells is not None  # which predict checks
            probabilities = refine_probabilities(probabilities, cells.counts.rows(positions), ~self.is_gene)
        is_empty = outputs.is_empty
        if is_empty.any():
            warn(
                f"{np.count_nonzero(is_empty)} of {len(is_empty)} cells have no count in any gene of the model, so nothing is "
                f"known of them: they are called {UNASSIGNED_CATEGORY!r}, and all types are equally probable. Remove empty cells "
                "first, for example with scanpy.pp.filter_cells(adata, min_counts=1)."
            )
            probabilities, own = (np.where(is_empty[:, None], 1 / len(self.labels), p) for p in (probabilities, own))
        distance = None if cells is None else self.distances(outputs, cells.is_missing)
        novelty = is_novel = found = None
        if self.calibration is not None:
            # After the refinement, so that no label depends on the temperature.
            probabilities = self.calibration.temper(probabilities, refined=asked.refine)
            if distance is not None and self.calibration.distance is not None:
                novelty = self.calibration.novelty(distance, own.argmax(axis=1))
            if asked.sets:
                found = self.calibration.sets(self.calibration.temper(own), asked.coverage)
            if novelty is not None and (asked.sets or asked.fdr is not None):
                warn_if_shifted(novelty, self.calibration.n_cells)
        if asked.fdr is not None and novelty is not None:
            is_novel = is_discovery(novelty, asked.fdr)
        if known is not None:
            is_known = known >= 0
            certain = np.eye(len(self.labels))[known[is_known]]
            probabilities = probabilities.copy()
            probabilities[is_known] = certain
            is_empty = is_empty & ~is_known
            is_novel = None if is_novel is None else is_novel & ~is_known
            if found is not None:
                found[is_known] = certain.astype(bool)
        threshold = asked.unassigned_threshold
        return Predictions(
            probabilities, self.labels, positions, obs_names, threshold, novelty, is_novel, found, is_empty, outputs.z
        )
