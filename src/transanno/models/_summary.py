"""What a model is, in a few lines, for notebooks and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transanno.models._base import TransAnnoBase

_N_SHOWN = 10


def facts(model: TransAnnoBase) -> dict[str, str]:
    """-> what the model reads and knows, how far it was trained, and what is known of how good it is."""
    found: dict[str, Any] = {}
    labels = getattr(model, "labels", None)
    if labels is not None:
        shown = ", ".join(labels[:_N_SHOWN]) + (", …" if len(labels) > _N_SHOWN else "")
        found["cell types"] = f"{len(labels)} ({shown})"
    n_reference = getattr(model, "n_reference_batches_", None)
    found["genes"] = f"{len(model.genes):,}"
    found["batches"] = f"{len(model._batches)}" + (
        "" if n_reference is None else f", {n_reference} of them of the reference"
    )
    found["cells"] = _cells(model)
    found["trained"] = "yes" if model.is_trained else "no"
    if labels is not None:
        found |= evaluation(model)
    return found


def evaluation(model: Any) -> dict[str, str]:
    """-> whether probabilities are calibrated, and how many held-out cells of the reference were called right."""
    calibration = model.calibration_
    if calibration is None:
        return {"calibrated": "no"}
    whole = " of whole batches" if calibration.held_out == "batches" else ""
    found = {
        "calibrated": f"by {calibration.n_cells:,} cells{whole} that were held out from training; expected calibration error "
        f"{calibration.ece_before:.3f} before, {calibration.ece_after:.3f} after"
    }
    if calibration.accuracy is not None:
        found["held-out cells called right"] = f"{calibration.accuracy:.1%}, each by itself"
    return found


def _cells(model: Any) -> str:
    if model.adata is None:
        return "none in memory"
    attached = model._attachment
    n_cells = model.adata.n_obs if attached is None or attached.cells is None else len(attached.cells.obs)
    whose = "a query" if getattr(model, "n_reference_batches_", None) is not None else "training"
    return f"{n_cells:,}, of {whose}"
