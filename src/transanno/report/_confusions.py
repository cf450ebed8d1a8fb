"""Which calls to doubt, from the cells of the reference that were held out from training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transanno.models import TransAnno
from transanno.report._contents import Confusion

_N_OTHERS = 3
_NO_MODEL = (
    "No model was given, so nothing is known of how often it is right. Pass model= to tl.report, or use --report when the "
    "cells are annotated."
)
_UNCALIBRATED = (
    "The model was not judged by cells that were held out from training, so nothing is known of its confusions."
)


def expected_confusions(model: TransAnno | None, called: Sequence[str]) -> tuple[list[Confusion], str]:
    """Model, types that cells were called -> what held-out cells were that got these calls, and what there is to say."""
    if model is None:
        return [], _NO_MODEL
    calibration = model.calibration_
    if calibration is None or calibration.confusion is None:
        return [], _UNCALIBRATED
    matrix, rows = calibration.confusion, []
    for name in called:
        column = matrix[:, np.flatnonzero(model.labels == name)[0]]
        right, n_cells = column[model.labels == name][0], int(column.sum())
        wrong = [i for i in np.argsort(-column, kind="stable") if column[i] and model.labels[i] != name]
        others = ", ".join(f"{model.labels[i]} ({column[i] / n_cells:.0%})" for i in wrong[:_N_OTHERS])
        rows.append(Confusion(name, n_cells, float(right / n_cells) if n_cells else None, others))
    whole = "of whole batches " if calibration.held_out == "batches" else ""
    note = (
        f"What the calls of this query turned out to be for {calibration.n_cells:,} labeled cells {whole}of the reference that "
        f"were held out from training: {calibration.accuracy:.0%} of them were called right, each cell by itself. "
        "Cells of another laboratory are harder than these."
    )
    return rows, note
