"""A twin of the model that has not seen some cells of the reference: it says what probabilities are worth on unseen cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from anndata import AnnData
from lightning.pytorch.callbacks import ProgressBar
from sklearn.model_selection import StratifiedShuffleSplit

from transanno._constants import JUDGED_KEY
from transanno.checks._quiet import repeated_names
from transanno.checks._warn import telling_nothing
from transanno.models import TransAnno
from transanno.models._calibrate import calibrate, fit_novelty_space
from transanno.predictions._calibration import MIN_HELD_OUT
from transanno.training._progress import stage
from transanno.training._seed import seeded

# Share of the cells that are held out, and how many at most where whole batches are.
_HELD_OUT, _MAX_HELD_OUT = 0.2, 0.5
# Of what a training run may be told, the twin must not repeat what writes or remembers.
_ONLY_ONCE = ("callbacks", "logger", "train_size", "validation_size", "shuffle_set_split")


def calibrate_by_twin(
    model: TransAnno, make: Callable[[AnnData], TransAnno], *, seed: int | None, **train_kwargs: Any
) -> None:
    """Train what ``make`` makes of a copy of the data on a part of the cells, and calibrate ``model`` by the others.

    A reference with too few cells is left uncalibrated.
    """
    batch = model._registered_cells().batch
    held_out = choose_held_out(model._label_codes(), batch, np.random.default_rng(seed))
    if len(held_out) < MIN_HELD_OUT:
        calibrate(model, np.arange(len(batch)), held_out)  # which says why not
        return
    training = np.setdiff1d(np.arange(len(batch)), held_out)
    kept = {name: value for name, value in train_kwargs.items() if name not in _ONLY_ONCE}
    bars = [callback for callback in train_kwargs.get("callbacks") or [] if isinstance(callback, ProgressBar)]
    kept["datasplitter_kwargs"] = {**(kept.get("datasplitter_kwargs") or {}), "external_indexing": [training, held_out]}
    with telling_nothing(), seeded(seed):  # the model itself has warned of the same
        # The same matrix: it is read only.
        with repeated_names():
            adata = AnnData(
                model.adata.X, obs=model.adata.obs.copy(), var=model.adata.var.copy(), uns={JUDGED_KEY: True}
            )
        twin = make(adata)
        with stage("calibration 2/2"):
            twin.train(callbacks=bars, **kept)
    model.calibration_ = twin.calibration_
    if twin.calibration_ is not None:
        fit_novelty_space(model, np.arange(len(batch)))


def can_have_twin(model: TransAnno) -> bool:
    """Whether there are enough cells to leave some out."""
    batch = model._registered_cells().batch
    return len(choose_held_out(model._label_codes(), batch, np.random.default_rng(0))) >= MIN_HELD_OUT


def choose_held_out(codes: np.ndarray, batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Types ``(n_obs,)``, -1 where unlabeled, and batches ``(n_obs,)`` -> positions of a fifth of the labeled cells.

    Whole batches, the smallest first, where these are at most half of the cells and the types in them are in other batches,
    too; otherwise a fifth of every type.
    """
    labeled = np.flatnonzero(codes >= 0)
    batches, n_cells = np.unique(batch[labeled], return_counts=True)
    n_total = np.cumsum(np.sort(n_cells))
    n_batches = int(np.searchsorted(n_total, _HELD_OUT * len(labeled))) + 1
    if len(batches) > n_batches and n_total[n_batches - 1] <= _MAX_HELD_OUT * len(labeled):
        is_held_out = np.isin(batch[labeled], batches[np.argsort(n_cells, kind="stable")[:n_batches]])
        types, remaining = np.unique(codes[labeled]), np.unique(codes[labeled][~is_held_out])
        if len(types) == len(remaining):
            return labeled[is_held_out]
    is_common = np.bincount(codes[labeled])[codes[labeled]] > 1  # the only cell of a type stays in training
    common = labeled[is_common]
    n_held_out = int(_HELD_OUT * len(common))
    if n_held_out < max(MIN_HELD_OUT, len(np.unique(codes[common]))):
        return common[:0]
    split = StratifiedShuffleSplit(1, test_size=n_held_out, random_state=int(rng.integers(2**31)))
    return np.sort(common[next(split.split(common, codes[common]))[1]])
