"""Held-out cells of the reference -> what a model's probabilities are worth, and which cells are unlike all of them."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from transanno.data._log_normalize import log_normalize
from transanno.models._base import TransAnnoBase
from transanno.predictions._conformal import p_values_by_type
from transanno.predictions._novelty import MAX_CELLS, distances, fit_space, with_table
from transanno.predictions._refine import refine_probabilities
from transanno.predictions._temperature import calibration_error, fit_temperature, temper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transanno.data._cells import AlignedData

logger = logging.getLogger(__name__)

MIN_HELD_OUT = 30
"""Fewer held-out cells say nothing about probabilities."""

# More held-out cells would only make a saved model larger.
_MAX_HELD_OUT = 10_000
_DECIMALS = 6


class CalibrationMixin(TransAnnoBase):
    """Temperature, conformal scores and novelty of a classifier."""

    # What held-out cells of the reference taught: temperature, calibration error before and after, and for each of the
    # cells its type, call, probability of the type and distance from the known types. None: there were too few.
    calibration_: dict[str, Any] | None = None
    # Where the types are in the spaces in which novelty is measured.
    novelty_space_: dict[str, Any] | None = None

    def _card(self) -> dict[str, Any]:
        shown = ("temperature", "n_cells", "held_out", "ece_before", "ece_after")
        found = self.calibration_
        return {**super()._card(), "calibration": None if found is None else {key: found[key] for key in shown}}

    def _temper(self, probabilities: np.ndarray, *, refined: bool = False) -> np.ndarray:
        """Probabilities ``(n_cells, n_labels)`` -> the same, calibrated if the model is."""
        if self.calibration_ is None:
            return probabilities
        return temper(probabilities, self.calibration_["temperature_refined" if refined else "temperature"])

    def _forget_calibration(self) -> None:
        self.calibration_ = self.novelty_space_ = None

    def _calibrate(self, training: np.ndarray, held_out: np.ndarray) -> None:
        """Positions of registered cells that were trained on, and that were not -> ``calibration_``, ``novelty_space_``.

        Held-out cells of types without training cells take no part.
        """
        codes = self._label_codes()
        training, held_out = (np.sort(np.asarray(cells, dtype=int)) for cells in (training, held_out))
        held_out = held_out[(codes[held_out] >= 0) & np.isin(codes[held_out], codes[training])]
        if len(held_out) < MIN_HELD_OUT:
            logger.info(
                f"Probabilities are not calibrated: {len(held_out)} labeled cells were held out from training, and "
                f"{MIN_HELD_OUT} are needed."
            )
            return
        rng = np.random.default_rng(0)  # of its own: what is drawn later must not depend on this
        held_out = np.sort(rng.permutation(held_out)[:_MAX_HELD_OUT])
        with self._unknown_where_untrained(training):
            self._fit_novelty_space(training)
            # As a query of its own.
            logits, z, projected = self._infer_judged(None, held_out, None, center=self._center(None, held_out))
            scores = self._distances(None, z, projected)
        what = "batches" if not np.isin(self._batch_codes()[held_out], self._batch_codes()[training]).any() else "cells"
        truth, rows = codes[held_out], np.arange(len(held_out))
        # Other cells of the same batches are easier than any query: they may show that the model is too sure of itself, and
        # cannot show that it is not sure enough.
        lowest = 1.0 if what == "cells" else 0.0
        temperature = max(fit_temperature(logits.astype(np.float64), truth), lowest)
        before = torch.from_numpy(logits).double().softmax(dim=1).numpy()
        after = temper(before, temperature)
        # Averages of neighbors are less sure of themselves than single cells are, and more often right.
        refined = refine_probabilities(before, self._counts(None, held_out), ~self._is_gene)
        self.calibration_ = {
            "temperature": temperature,
            "temperature_refined": max(fit_temperature(np.log(np.maximum(refined, 1e-300)), truth), lowest),
            "n_cells": len(held_out),
            "held_out": what,
            "ece_before": calibration_error(before, truth),
            "ece_after": calibration_error(after, truth),
            "codes": truth,
            "called": before.argmax(axis=1),
            "probability": after[rows, truth].round(_DECIMALS),
            "distance": None if scores is None else scores.round(_DECIMALS),
        }
        logger.info(
            f"Probabilities are calibrated on {len(held_out)} held-out cells{' of whole batches' * (what == 'batches')}: temperature {temperature:.2f}, "
            f"expected calibration error {self.calibration_['ece_before']:.3f} before and "
            f"{self.calibration_['ece_after']:.3f} after."
        )

    def _take_calibration(self, twin: CalibrationMixin) -> None:
        """Use what a model that was trained in the same way on a part of the cells found out on the others."""
        self.calibration_ = twin.calibration_
        if self.calibration_ is not None:
            self._fit_novelty_space(np.arange(self.adata.n_obs))

    def _fit_novelty_space(self, training: np.ndarray) -> None:
        codes = self._label_codes()
        labeled = training[codes[training] >= 0]
        labeled = np.sort(np.random.default_rng(0).permutation(labeled)[:MAX_CELLS])
        expression = log_normalize(self._counts(None, labeled), ~self._is_gene)
        table = self._novelty_table()
        states = self._infer("z", None, labeled, None) if table is None else None
        self.novelty_space_ = fit_space(states, expression, codes[labeled], table=table)

    def _novelty_table(self) -> np.ndarray | None:
        """-> gene embeddings ``(n_genes, width)``, or None where cell states do not depend on other cells."""
        encoder = self.module.encoder
        return None if encoder.has_gene_tokens else encoder.gene_embedding.detach().cpu().numpy()[self._is_gene]

    def _novelty(
        self, aligned: AlignedData | None, z: np.ndarray, projected: np.ndarray, called: np.ndarray
    ) -> np.ndarray | None:
        """States, components of expression and calls of some cells -> p-values ``(n_cells,)``; None: the model cannot tell."""
        if self.calibration_ is None or self.calibration_["distance"] is None:
            return None
        if len(z) == 0:
            return np.zeros(0)
        scores = self._distances(aligned, z, projected)
        if scores is None:
            return None
        return p_values_by_type(scores, called, self.calibration_["distance"], self.calibration_["called"])

    def _infer_judged(
        self,
        aligned: AlignedData | None,
        positions: np.ndarray,
        batch_size: int | None,
        *,
        center: torch.Tensor | None = None,
    ) -> list[np.ndarray]:
        """-> logits, states and components of expression ``(n_cells, ...)``, in one pass over the cells."""
        if self.novelty_space_ is None:
            logits, z = self._infer_all(("logits", "z"), aligned, positions, batch_size, center=center)
            return [logits, z, np.zeros((len(z), 0))]
        axes = with_table(self.novelty_space_, self._novelty_table())
        projection = torch.zeros(self.module.n_input, axes.shape[1], dtype=torch.float32)
        projection[torch.from_numpy(self._is_gene)] = torch.from_numpy(axes).float()
        return self._infer_all(
            ("logits", "z", "projected"),
            aligned,
            positions,
            batch_size,
            projection=projection.to(self.module.device),
            center=center,
        )

    def _distances(self, aligned: AlignedData | None, z: np.ndarray, projected: np.ndarray) -> np.ndarray | None:
        if self.novelty_space_ is None:
            return None
        is_missing = self.module.is_missing.cpu().numpy() if aligned is None else aligned.is_missing
        table = self._novelty_table()
        states = z if table is None else None
        return distances(self.novelty_space_, states, projected, is_missing[self._is_gene], table=table)

    def _label_codes(self) -> np.ndarray:
        """-> position among the types of every registered cell's label ``(n_obs,)``, -1 for cells without one."""
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel().astype(np.int64)
        return np.where(codes < self.module.n_classes, codes, -1)

    def _batch_codes(self) -> np.ndarray:
        return np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()

    @contextmanager
    def _unknown_where_untrained(self, training: np.ndarray) -> Iterator[None]:
        """Batches without training cells are unknown meanwhile, as those of a query will be."""
        weight = self.module.batch_embedding.weight
        is_unseen = ~np.isin(np.arange(len(weight)), self._batch_codes()[training])
        kept = weight.detach().clone()
        try:
            with torch.no_grad():
                weight[torch.from_numpy(is_unseen).to(weight.device)] = self.module.unknown_batch
            yield
        finally:
            with torch.no_grad():
                weight.copy_(kept)
