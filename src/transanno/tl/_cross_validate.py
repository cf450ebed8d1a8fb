"""How good a model of these data would be on cells, or donors, that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.utils import track

from transanno._constants import CONFIDENCE_SUFFIX, UNLABELED_CATEGORY
from transanno.checks._warn import telling_once, warn
from transanno.metrics import CrossValidation
from transanno.metrics._evaluate import score_cells
from transanno.metrics._table import format_examples
from transanno.models import TransAnnoPretrain
from transanno.predictions._predict import Asked
from transanno.predictions._result import Predictions, check_unassigned_threshold, write_obs
from transanno.tl._folds import count_copies, make_folds, rare_types
from transanno.tl._labeled_cells import labeled_cells
from transanno.tl._map import map_and_predict
from transanno.tl._reference import fit_reference

_FOLD_SUFFIX = "_fold"


def cross_validate(
    adata: AnnData,
    labels_key: str,
    *,
    n_splits: int = 5,
    groups_key: str | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    unlabeled_category: str = UNLABELED_CATEGORY,
    n_top_genes: int = 2000,
    pretrained: TransAnnoPretrain | str | Path | None = None,
    refine: bool = True,
    unassigned_threshold: float | None = None,
    drop_duplicates: bool = False,
    key_added: str | None = None,
    seed: int | None = 0,
    progress: bool = True,
    **train_kwargs: Any,
) -> CrossValidation:
    """Train a model without each part of the labeled cells in turn, and predict that part.

    In every fold, genes are chosen, types balanced and weights trained on the training cells alone; the held-out cells
    come as a query would, without labels. Types are spread evenly over the folds; with ``groups_key``, all cells of a
    donor or batch are held out together, which is what a new data set is like: without it scores are higher than what
    to expect there. TransAnno-Net reports a stratified 5-fold :cite:p:`transannonet2025`.

    Parameters
    ----------
    adata
        Labeled cells with raw counts. Changed only with ``key_added``.
    labels_key
        Column of ``obs`` with the cell types.
    n_splits
        Number of folds, and of trainings.
    groups_key
        Column of ``obs`` with donors or batches that are held out as a whole. With as many folds as groups, or more,
        each group is held out once.
    batch_key
        Column of ``obs`` with technical batches; those of held-out cells may be new to the model.
    layer
        Layer of raw counts. Default: ``X``.
    unlabeled_category
        Label that marks unlabeled cells, which are left out; NaN does, too.
    n_top_genes, pretrained
        See :func:`transanno.tl.fit_reference`. A model that was pretrained on these cells has seen them, though not
        their labels.
    refine, unassigned_threshold
        See :meth:`transanno.TransAnno.predict`.
    drop_duplicates
        Keep one of the cells that have identical counts of all genes. Default: keep all, and warn if such cells are on
        both sides of a split.
    key_added
        Column of ``obs`` for the predictions; ``None`` writes nothing.
    seed
        Seed of all randomness; your session's generators are restored afterwards. ``None``: not seeded.
    progress
        Show a progress bar over the folds.
    **train_kwargs
        Arguments of :meth:`transanno.TransAnno.train`, such as ``max_epochs``.

    Returns
    -------
    Scores by fold, their mean and standard deviation, and the predictions.

    Writes
    ------
    ``obs[key_added]``
        Categorical, the type predicted by the model that was not trained on the cell.
    ``obs[key_added + "_confidence"]``
        Its probability in [0, 1].
    ``obs[key_added + "_fold"]``
        Categorical, the fold that the cell was held out in.

    Raises
    ------
    ValueError
        If the cells cannot be split so, the counts are not raw, or fewer than two types are labeled.
    KeyError
        If a column or the layer does not exist.

    Warns
    -----
    TransAnnoWarning
        If held-out cells have copies among the training cells, or types have too few cells to be in every fold.

    Examples
    --------
    >>> result = transanno.tl.cross_validate(adata, "cell_type", groups_key="donor")
    >>> print(result)
    >>> result.folds.query("metric == 'macro_f1'")
    """
    if key_added is not None and key_added in (labels_key, groups_key, batch_key):
        raise ValueError(
            f"key_added={key_added!r} is the column of the labels, groups or batches, which the predictions would "
            "replace. Name another column."
        )
    data = labeled_cells(adata, labels_key, groups_key, batch_key, layer, unlabeled_category)
    check_unassigned_threshold(unassigned_threshold, data.labels)
    n_labeled = len(data.labels)
    if drop_duplicates:
        data = data.without_copies()
    folds = make_folds(data.labels, data.groups, n_splits, seed)
    n_duplicates = pd.Series({fold.name: count_copies(data.copies, fold) for fold in folds})
    _warn_of_duplicates(int(n_duplicates.sum()), len(data.labels))
    rare = pd.Series(dtype=int) if groups_key is not None else rare_types(data.labels, n_splits)
    _warn_of_rare_types(rare, n_splits)

    truth, names = data.labels, [fold.name for fold in folds]
    found = pd.DataFrame(
        {"fold": "", "predicted": "", "confidence": np.nan, "is_unseen": False}, index=range(len(truth))
    )
    found = found.astype({"fold": object, "predicted": object})
    evaluations = {}
    with telling_once():  # rather than in every fold
        for fold in track(folds, description="Cross-validation", disable=not progress):
            predictions = _predict_held_out(
                data.cells[fold.train].copy(),
                data.cells[fold.test].copy(),
                labels_key,
                Asked(refine=refine, unassigned_threshold=unassigned_threshold),
                seed=seed,
                batch_key=batch_key,
                unlabeled_category=unlabeled_category,
                n_top_genes=n_top_genes,
                pretrained=pretrained,
                **{"enable_progress_bar": False, "calibrate": False, **train_kwargs},
            )
            is_unseen = ~np.isin(truth[fold.test], truth[fold.train])
            found.loc[fold.test, "fold"] = fold.name
            found.loc[fold.test, "predicted"] = predictions.labels
            found.loc[fold.test, "confidence"] = predictions.confidence
            found.loc[fold.test, "is_unseen"] = is_unseen
            evaluations[fold.name] = score_cells(
                truth[fold.test],
                predictions.labels.astype(object),
                is_unseen=is_unseen,
                has_unassigned=unassigned_threshold is not None,
                probabilities=predictions.to_frame(),
            )
    pooled = score_cells(
        truth,
        found["predicted"].to_numpy(),
        is_unseen=found["is_unseen"].to_numpy(),
        has_unassigned=unassigned_threshold is not None,
        n_unlabeled=adata.n_obs - n_labeled,
    )
    by_cell = _as_columns(found, data.positions, adata.obs_names, names)
    if key_added is not None:
        suffixes = {"predicted": "", "confidence": CONFIDENCE_SUFFIX, "fold": _FOLD_SUFFIX}
        write_obs(adata, {f"{key_added}{suffix}": by_cell[name].array for name, suffix in suffixes.items()})
    return CrossValidation(evaluations, pooled, by_cell, n_duplicates, n_labeled - len(truth), rare)


def _predict_held_out(
    train: AnnData, test: AnnData, labels_key: str, asked: Asked, *, seed: int | None, **fit_kwargs: Any
) -> Predictions:
    """Training and held-out cells -> predictions for the held-out cells."""
    del test.obs[labels_key]
    model = fit_reference(train, labels_key, seed=seed, **fit_kwargs)
    accelerator = fit_kwargs.get("accelerator", "auto")
    return map_and_predict(test, model, asked, seed=seed, accelerator=accelerator)[1]


def _as_columns(found: pd.DataFrame, positions: np.ndarray, obs_names: pd.Index, folds: list[str]) -> pd.DataFrame:
    """What was found of the cells at ``positions`` -> a row per cell of the data."""
    everywhere = found.set_axis(positions).reindex(range(len(obs_names)))
    return pd.DataFrame(
        {
            "fold": pd.Categorical(everywhere["fold"], categories=folds),
            "predicted": pd.Categorical(everywhere["predicted"]),
            "confidence": everywhere["confidence"].to_numpy(),
        },
        index=obs_names,
    )


def _warn_of_duplicates(n_copies: int, n_cells: int) -> None:
    if n_copies:
        warn(
            f"{n_copies} of {n_cells} held-out cells have the same counts as a training cell of their fold: the scores "
            "are too good for new cells. Find out why cells occur twice, or pass drop_duplicates=True to keep one of "
            "each."
        )


def _warn_of_rare_types(rare: pd.Series, n_splits: int) -> None:
    if len(rare):
        examples = format_examples([f"{name} ({n})" for name, n in rare.items()])
        warn(
            f"{len(rare)} type(s) have fewer cells than n_splits={n_splits}: {examples}. They are not among the held-out "
            "cells of every fold, and a type of one cell is unseen in training where it is held out. Their scores mean "
            "little; lower n_splits, merge types, or leave them out."
        )
