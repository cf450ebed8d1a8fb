"""What cells that were held out from training teach about predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix

from transanno.predictions._temperature import calibration_error, fit_temperature, temper
from transanno.predictions._unknown import NoveltyScale

MIN_HELD_OUT = 30
"""Fewer held-out cells say nothing about probabilities."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Held-out cells of the reference, and the temperatures that they ask for."""

    temperature: float
    """of a cell's own probabilities"""
    temperature_refined: float
    """of refined ones: averages of neighbors are less sure of themselves than single cells are, and more often right"""
    n_cells: int
    """number of held-out cells"""
    held_out: str
    """what was held out, ``"cells"`` or whole ``"batches"``"""
    ece_before: float
    """expected calibration error without the temperature"""
    ece_after: float
    """and with it"""
    scale: NoveltyScale | None
    """what these cells say about novelty; None where distances cannot be measured"""
    confusion: np.ndarray | None = None
    """number of these cells, true × called types ``(n_labels, n_labels)``; None in models of before"""

    @classmethod
    def fit(
        cls,
        own: np.ndarray,
        refined: np.ndarray,
        codes: np.ndarray,
        distance: np.ndarray | None,
        *,
        logits: np.ndarray,
        held_out: str,
    ) -> Calibration:
        """Probabilities, own and refined, and logits ``(n_cells, n_labels)``, types and distances ``(n_cells,)`` -> calibration."""
        # Other cells of the same batches are easier than any query: they may show that the model is too sure of itself, and
        # cannot show that it is not sure enough.
        lowest = 1.0 if held_out == "cells" else 0.0
        temperature = max(fit_temperature(logits.astype(np.float64), codes), lowest)
        after = temper(own, temperature)
        return cls(
            temperature=temperature,
            temperature_refined=max(fit_temperature(np.log(np.maximum(refined, 1e-300)), codes), lowest),
            n_cells=len(codes),
            held_out=held_out,
            ece_before=calibration_error(own, codes),
            ece_after=calibration_error(after, codes),
            scale=None if distance is None else NoveltyScale.fit(distance, after),
            confusion=confusion_matrix(codes, own.argmax(axis=1), labels=np.arange(own.shape[1])),
        )

    @property
    def accuracy(self) -> float | None:
        """Share of these cells that were called right, each by itself; None in models of before."""
        return None if self.confusion is None else float(np.trace(self.confusion) / self.confusion.sum())

    def temper(self, probabilities: np.ndarray, *, refined: bool = False) -> np.ndarray:
        """Probabilities ``(n_cells, n_labels)`` -> the same, as sure as they should be."""
        return temper(probabilities, self.temperature_refined if refined else self.temperature)
