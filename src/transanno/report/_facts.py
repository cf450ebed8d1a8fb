"""What was annotated by what, in a few lines and at a glance."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from transanno._constants import NOVEL_CATEGORY
from transanno.models import TransAnno
from transanno.models._summary import evaluation
from transanno.predictions._run import Cells
from transanno.report._calls import LOW_CONFIDENCE, NO_TYPE, Calls
from transanno.report._contents import Origin


def facts(
    adata: Any,
    model: TransAnno | None,
    cells: Cells | None,
    calls: Calls,
    key_added: str,
    origin: Origin,
) -> dict[str, str]:
    """-> what was annotated by what; ``cells`` are those of ``adata`` as the model reads them, if it can."""
    n_not = int((calls.names == "").sum())
    found = {
        "Cells": f"{adata.n_obs:,} cells × {adata.n_vars:,} features, {origin.cells or 'an object in memory'}",
        "Predictions": f"obs[{key_added!r}]" + (f"; {n_not:,} cells have none" if n_not else ""),
    }
    if model is not None:
        found["Model"] = (
            f"{type(model).__name__}, {len(model.labels)} cell types, {len(model.genes):,} genes, "
            f"{origin.model or origin.reference or 'an object in memory'}"
        )
        if cells is not None:
            n_shared, n_genes = int((~cells.is_missing & model._is_gene).sum()), len(model.genes)
            found["Genes matched"] = f"{n_shared:,} of the {n_genes:,} of the model ({n_shared / n_genes:.0%})"
        found |= {name.capitalize(): value for name, value in evaluation(model).items()}
    else:
        found["Model"] = "not given, so that this report only says what the annotated cells themselves tell"
    found["Report"] = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, transanno {version('transanno')}"
    return found


def numbers(calls: Calls) -> dict[str, str]:
    """-> the same at a glance."""
    n_cells = calls.n_cells
    found = {"cells": f"{len(calls.names):,}", "types": f"{len(calls.types)}"}
    if calls.confidence is not None:
        found["mean confidence"] = f"{np.nanmean(calls.confidence):.2f}"
        found[f"cells with a confidence below {LOW_CONFIDENCE}"] = f"{np.mean(calls.confidence < LOW_CONFIDENCE):.1%}"
    for name in NO_TYPE:
        if name in n_cells or (name == NOVEL_CATEGORY and calls.novelty is not None):
            found[name] = f"{n_cells.get(name, 0):,}"
    return found
