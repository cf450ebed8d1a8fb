"""Whether training went well enough for the model to be used at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from transanno.checks._warn import warn

# Cells of the reference that are looked at, and how many of them make a type that ought to be predicted.
_N_CELLS, _MIN_CELLS = 1000, 10
# Fewer types say little: a short run may merge two of three.
_MIN_TYPES = 5


def warn_if_collapsed(codes: np.ndarray, labels: np.ndarray, predict: Callable[[np.ndarray], np.ndarray]) -> None:
    """Warn if a model predicts but a few of its types, even for cells that it was trained on.

    Such a model looks trained, and writes plausible labels with high confidence into any query. ``codes (n_obs,)`` are the
    positions among the ``labels`` of the reference's cells, -1 without one; ``predict`` gives those of cells at some positions.
    """
    labeled = np.flatnonzero(codes >= 0)
    sample = labeled[np.linspace(0, len(labeled) - 1, min(len(labeled), _N_CELLS)).astype(int)]
    is_expected = np.bincount(codes[sample], minlength=len(labels)) >= _MIN_CELLS
    if is_expected.sum() < _MIN_TYPES:
        return
    is_predicted = np.bincount(predict(sample), minlength=len(labels)) > 0
    n_found, n_expected = int((is_expected & is_predicted).sum()), int(is_expected.sum())
    if n_found > n_expected / 2:
        return
    never = labels[is_expected & ~is_predicted]
    warn(
        f"Training went wrong: only {n_found} of {n_expected} types are ever predicted for {len(sample)} of the reference's own "
        f"cells; never: {', '.join(map(repr, never[:5].tolist()))}{', …' if len(never) > 5 else ''}. Do not use the model as it is. "
        "Train for longer (max_epochs), look at model.history, and check that labels_key names the cell types and that the counts "
        "are raw."
    )
