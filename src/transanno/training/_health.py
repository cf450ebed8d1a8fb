"""Whether training went well enough for the model to be used at all."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from scvi import REGISTRY_KEYS

if TYPE_CHECKING:
    from transanno.models._transanno import TransAnno

# Cells of the reference that are looked at, and how many of them make a type that ought to be predicted.
_N_CELLS, _MIN_CELLS = 1000, 10
# Fewer types say little: a short run may merge two of three.
_MIN_TYPES = 5


def warn_if_collapsed(model: TransAnno) -> None:
    """Warn if the model predicts but a few of its types, even for cells that it was trained on.

    Such a model looks trained, and writes plausible labels with high confidence into any query.
    """
    labels = np.asarray(model.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
    labeled = np.flatnonzero(labels < model.module.n_classes)
    sample = labeled[np.linspace(0, len(labeled) - 1, min(len(labeled), _N_CELLS)).astype(int)]
    n_cells = np.bincount(labels[sample], minlength=model.module.n_classes)
    is_expected = n_cells >= _MIN_CELLS
    if is_expected.sum() < _MIN_TYPES:
        return
    predicted = model._infer("logits", None, sample, None).argmax(axis=1)
    is_predicted = np.bincount(predicted, minlength=model.module.n_classes) > 0
    n_found, n_expected = int((is_expected & is_predicted).sum()), int(is_expected.sum())
    if n_found > n_expected / 2:
        return
    never = model.labels[is_expected & ~is_predicted]
    warnings.warn(
        f"Training went wrong: only {n_found} of {n_expected} types are ever predicted for {len(sample)} of the reference's own "
        f"cells; never: {', '.join(map(repr, never[:5].tolist()))}{', …' if len(never) > 5 else ''}. Do not use the model as it is. "
        "Train for longer (max_epochs), look at model.history, and check that labels_key names the cell types and that the counts "
        "are raw.",
        UserWarning,
        stacklevel=3,
    )
