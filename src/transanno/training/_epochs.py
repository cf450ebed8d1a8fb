"""How long training lasts, where nobody says so."""

from __future__ import annotations

import numpy as np

# Cells, or minibatches, that a training run visits at least, small references many times over, and its bounds in epochs.
_MIN_EPOCHS = 5
N_VISITS, N_STEPS, MAX_EPOCHS = 30_000, 400, 20
N_PRETRAINING_VISITS, MAX_PRETRAINING_EPOCHS = 90_000, 120


def default_max_epochs(per_epoch: int, needed: int, most: int) -> int:
    """Number of cells, or of minibatches, in an epoch and in all -> epochs, so that small references are visited as often as it takes."""
    return int(np.clip(round(needed / max(per_epoch, 1)), _MIN_EPOCHS, most))
