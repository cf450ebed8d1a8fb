"""From a network's outputs to what the user gets, whichever backend computed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from transanno._constants import UNASSIGNED_CATEGORY
from transanno.checks._warn import warn
from transanno.predictions._calibration import MIN_HELD_OUT, Calibration
from transanno.predictions._groups import find_groups
from transanno.predictions._neighbors import MIN_CELLS, Surroundings
from transanno.predictions._novelty import NoveltySpace
from transanno.predictions._refine import refine_probabilities
from transanno.predictions._result import Predictions, check_coverage, check_fdr, check_unassigned_threshold
from transanno.predictions._run import Cells, Outputs
from transanno.predictions._studies import NOVELTY_LIMITS, novelty_limit, probability_limit, what_to_expect
from transanno.predictions._temperature import as_probabilities

_CELLS_PER_BLOCK = 100_000


class Asked(NamedTuple):
    """Arguments of :meth:`transanno.TransAnno.predict`."""

    refine: bool = False
    unassigned_threshold: float | None = None
    fdr: float | None = None
    sets: bool = False
    coverage: float = 0.9
    keep_known: bool = False

    def check(self, labels: np.ndarray) -> None:
        """Raise `ValueError` unless all is in its range, and no type ``(n_labels,)`` is called like cells without one."""
        check_unassigned_threshold(self.unassigned_threshold, labels)
        check_fdr(self.fdr, labels)
        check_coverage(self.coverage)


@dataclass(frozen=True, eq=False)
class Judge:
    """What a trained model knows beside its network."""

    labels: np.ndarray
    """``(n_labels,)`` str"""
    is_gene: np.ndarray
    """``(n_vars,)`` bool, all columns but that of other genes, which is the last"""
    genes: np.ndarray
    """``(n_genes,)`` str"""
    calibration: Calibration | None = None
    space: NoveltySpace | None = None
    """where novelty is measured"""
    table: np.ndarray | None = None
    """``(n_genes, width)`` gene embeddings that take the place of cell states there"""
    colors: Mapping[str, str] = field(default_factory=dict)
    """color of every type in the reference's plots, if it had any"""

    @property
    def axes(self) -> np.ndarray | None:
        """What log-expression is to be projected on ``(n_vars, width)``, so that distances can be measured; None if they cannot."""
        if self.space is None:
            return None
        axes = self.space.axes(self.table)
        whole = np.zeros((len(self.is_gene), axes.shape[1]))
        whole[self.is_gene] = axes
        return whole

    def check_is_calibrated(self, asked: Asked) -> None:
        """Raise `ValueError` unless held-out cells have said what is needed: what probabilities are worth, and distances for ``fdr``."""
        if self.calibration is None:
            raise ValueError(
                "fdr and sets rest on reference cells that were held out from training, but this model has none: "
                f"it was trained with calibrate=False or train_size=1, fewer than {MIN_HELD_OUT} labeled cells were held "
                "out, or it was adapted to labels of the query. Train it again with tl.fit_reference, on more cells if there "
                "were too few, or leave fdr and sets out."
            )
        if asked.fdr is not None and (self.calibration.scale is None or self.space is None):
            raise ValueError(
                "fdr needs distances from the types of the reference, which this model has none of: the cells that it was "
                "trained on do not differ in two genes or more. Leave fdr out."
            )

    def distances(self, outputs: Outputs, is_missing: np.ndarray) -> np.ndarray | None:
        """-> how far cells are from the known types ``(n_cells,)``; None if that was not projected."""
        if self.space is None or not outputs.projected.shape[1]:
            return None
        found = np.empty(len(outputs.z))
        for start in range(0, len(found), _CELLS_PER_BLOCK):  # since all of these in float64 take more than all outputs
            block = slice(start, start + _CELLS_PER_BLOCK)
            z, projected = outputs.z[block], outputs.projected[block]
            found[block] = self.space.distances(z, projected, is_missing[self.is_gene], self.table)
        return found

    def _novelty(
        self, probabilities: np.ndarray, outputs: Outputs, is_missing: np.ndarray, surroundings: Surroundings | None
    ) -> np.ndarray:
        """Probabilities ``(n_cells, n_labels)`` and outputs of the same cells -> novelty ``(n_cells,)``."""
        distance = self.distances(outputs, is_missing)
        assert distance is not None and self.calibration is not None and self.calibration.scale is not None
        neighbors = None if surroundings is None else surroundings.neighbors
        return self.calibration.scale.novelty(distance, probabilities, neighbors, outputs.is_empty)

    def predictions(
        self,
        outputs: Outputs,
        cells: Cells | None,
        positions: np.ndarray,
        obs_names: pd.Index,
        known: np.ndarray | None,
        asked: Asked,
    ) -> Predictions:
        """Outputs of the cells at ``positions`` -> predictions.

        ``cells`` is None for minibatches of the user's, of which nothing else is known; ``known (n_cells,)`` are positions of
        the types that cells keep, -1 for none, or None if none is to be kept.
        """
        surroundings = None
        if asked.refine or asked.fdr is not None:
            assert cells is not None  # which predict checks
            surroundings = Surroundings.of(cells.counts, positions, ~self.is_gene)
        own = as_probabilities(outputs.logits)
        is_refined = asked.refine and surroundings is not None
        probabilities = refine_probabilities(own, surroundings) if is_refined else own
        is_empty = outputs.is_empty
        if is_empty.any():
            warn(
                f"{np.count_nonzero(is_empty)} of {len(is_empty)} cells have no count in any gene of the model, so nothing is "
                f"known of them: they are called {UNASSIGNED_CATEGORY!r}, and all types are equally probable. Remove empty cells "
                "first, for example with scanpy.pp.filter_cells(adata, min_counts=1)."
            )
            probabilities, own = (np.where(is_empty[:, None], 1 / len(self.labels), p) for p in (probabilities, own))
        if self.calibration is not None:
            # After the refinement, so that no label depends on the temperature.
            own = self.calibration.temper(own)
            probabilities = self.calibration.temper(probabilities, refined=True) if is_refined else own
        sets = own >= probability_limit(asked.coverage) if asked.sets else None
        is_known = np.zeros(len(own), dtype=bool) if known is None else known >= 0
        if known is not None:
            certain = np.eye(len(self.labels))[known[is_known]]
            probabilities = probabilities.copy()
            probabilities[is_known] = certain
            is_empty = is_empty & ~is_known
            if sets is not None:
                sets[is_known] = certain.astype(bool)
        novelty = is_novel = groups = None
        if asked.fdr is not None:
            assert cells is not None
            novelty = self._novelty(own, outputs, cells.is_missing, surroundings)
            _warn_of_rate(asked.fdr, len(novelty))
            is_novel = (novelty > novelty_limit(asked.fdr)) & ~is_known
            if surroundings is not None:
                counts = cells.counts
                called = np.where(is_empty, UNASSIGNED_CATEGORY, self.labels[probabilities.argmax(axis=1)])
                groups = find_groups(
                    is_novel,
                    novelty,
                    called,
                    surroundings.neighbors,
                    lambda chosen: counts.rows(positions[chosen]),
                    self.genes,
                )
        return Predictions(
            probabilities,
            self.labels,
            positions,
            obs_names,
            unassigned_threshold=asked.unassigned_threshold,
            novelty=novelty,
            is_novel=is_novel,
            groups=groups,
            sets=sets,
            is_empty=is_empty,
            z=outputs.z,
            colors=self.colors,
        )


def _warn_of_rate(fdr: float, n_cells: int) -> None:
    """Say how far the rate held on other studies, and warn where nothing is known of that."""
    lowest, highest = min(NOVELTY_LIMITS), max(NOVELTY_LIMITS)
    warn(what_to_expect(min(max(fdr, lowest), highest)))
    if not lowest <= fdr <= highest:
        nearest = lowest if fdr < lowest else highest
        warn(
            f"fdr={fdr:g} is outside of what was measured on other studies, {lowest:g} to {highest:g}. Cells are called as with "
            f"fdr={nearest:g}."
        )
    if 0 < n_cells < MIN_CELLS:
        warn(
            f"fdr={fdr:g} was asked for {n_cells} cells. Fewer than {MIN_CELLS} have no neighborhoods that novelty could be "
            'averaged over, so that more known cells than that may be called "Unknown". Predict the whole query at once.'
        )
