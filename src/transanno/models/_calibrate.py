"""Held-out cells of the reference -> what a model's probabilities are worth, and which cells are unlike all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from transanno.data._log_normalize import log_normalize
from transanno.models._predict import judge_of, novelty_table
from transanno.predictions._calibration import MIN_HELD_OUT, Calibration
from transanno.predictions._neighbors import Surroundings
from transanno.predictions._novelty import MAX_CELLS, fit_space
from transanno.predictions._refine import refine_probabilities
from transanno.predictions._temperature import as_probabilities
from transanno.predictions._torch import center_of

if TYPE_CHECKING:
    from transanno.models._transanno import TransAnno

logger = logging.getLogger(__name__)

# More held-out cells would only make a saved model larger.
_MAX_HELD_OUT = 10_000


def calibrate(model: TransAnno, training: np.ndarray, held_out: np.ndarray) -> None:
    """Positions of registered cells that were trained on, and that were not -> the model's calibration and novelty space.

    Held-out cells of types without training cells take no part. With too few, the model is left uncalibrated.
    """
    cells, codes = model._registered_cells(), model._label_codes()
    training, held_out = (np.sort(np.asarray(positions, dtype=int)) for positions in (training, held_out))
    held_out = held_out[(codes[held_out] >= 0) & np.isin(codes[held_out], codes[training])]
    if len(held_out) < MIN_HELD_OUT:
        logger.info(
            f"Probabilities are not calibrated: {len(held_out)} labeled cells were held out from training, and "
            f"{MIN_HELD_OUT} are needed."
        )
        return
    rng = np.random.default_rng(0)  # of its own: what is drawn later must not depend on this
    held_out = np.sort(rng.permutation(held_out)[:_MAX_HELD_OUT])
    is_unseen = ~np.isin(cells.batch[held_out], cells.batch[training])
    with _unknown_where_untrained(model, cells.batch[training]):
        fit_novelty_space(model, training)
        judge = judge_of(model)
        # As a query of its own.
        center = center_of(model.module, cells, held_out)
        outputs = model._run(cells, held_out, axes=judge.axes, center=center)
    own = as_probabilities(outputs.logits)
    model.calibration_ = found = Calibration.fit(
        own,
        refine_probabilities(own, Surroundings.of(cells.counts, held_out, ~model._is_gene)),
        codes[held_out],
        judge.distances(outputs, cells.is_missing),
        logits=outputs.logits,
        held_out="batches" if is_unseen.all() else "cells",
    )
    logger.info(
        f"Probabilities are calibrated on {len(held_out)} held-out cells{' of whole batches' * (found.held_out == 'batches')}: "
        f"temperature {found.temperature:.2f}, expected calibration error {found.ece_before:.3f} before and "
        f"{found.ece_after:.3f} after."
    )


def fit_novelty_space(model: TransAnno, training: np.ndarray) -> None:
    """Positions of registered cells -> where the types are in the spaces in which novelty is measured."""
    cells, codes = model._registered_cells(), model._label_codes()
    labeled = training[codes[training] >= 0]
    labeled = np.sort(np.random.default_rng(0).permutation(labeled)[:MAX_CELLS])
    expression = log_normalize(cells.counts.rows(labeled), ~model._is_gene)
    table = novelty_table(model)
    states = model._run(cells, labeled).z if table is None else None
    model.novelty_space_ = fit_space(states, expression, codes[labeled], table=table)


@contextmanager
def _unknown_where_untrained(model: TransAnno, trained: np.ndarray) -> Iterator[None]:
    """Batches without training cells are unknown meanwhile, as those of a query will be."""
    weight = model.module.batch_embedding.weight
    is_unseen = ~np.isin(np.arange(len(weight)), trained)
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[torch.from_numpy(is_unseen).to(weight.device)] = model.module.unknown_batch
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)
