"""Scores of predicted types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from transanno._constants import UNASSIGNED_CATEGORY, UNLABELED_CATEGORY
from transanno.metrics._cells import paired_labels
from transanno.metrics._confusion import confusion_matrix
from transanno.metrics._evaluation import Evaluation
from transanno.metrics._roc_auc import roc_auc_per_class


def evaluate(
    truth: Any,
    predicted: Any,
    *,
    labels: Iterable[str] | None = None,
    probabilities: pd.DataFrame | None = None,
    unlabeled_category: str = UNLABELED_CATEGORY,
) -> Evaluation:
    """Compare predicted with true types.

    Parameters
    ----------
    truth, predicted
        Types ``(n_obs,)``, in the same order of cells. Cells without a true type (NaN or ``unlabeled_category``) or
        without a prediction (NaN) are left out and counted; ``"Unassigned"`` cells are wrong.
    labels
        Types of the reference, ``model.labels``: cells of other types are reported apart. Default: the columns of
        ``probabilities``; without these, all types are taken for known.
    probabilities
        Cells × types, in the same order of cells, for the AUC.
    unlabeled_category
        Value of ``truth`` that marks cells without a type.

    Returns
    -------
    Scores, in the sense of scikit-learn's; the macro mean is over the types that cells have.

    Raises
    ------
    ValueError
        If no cell has both a type and a prediction, or the arguments are not of the same cells.

    Examples
    --------
    >>> transanno.metrics.evaluate(["T", "B", "B"], ["T", "B", "Unassigned"]).summary["accuracy"]
    """
    cells = paired_labels(truth, predicted)
    is_labeled = cells["truth"].notna() & (cells["truth"] != unlabeled_category)
    is_scored = is_labeled & cells["predicted"].notna()
    if not is_scored.any():
        raise ValueError(
            f"No cell can be scored: of {len(cells)} cells, {is_labeled.sum()} have a true type other than "
            f"{unlabeled_category!r} and {cells['predicted'].notna().sum()} have a prediction, but none has both. "
            "Predict the labeled cells first, or name other columns."
        )
    if probabilities is not None:
        if len(probabilities) != len(cells):
            raise ValueError(
                f"probabilities has {len(probabilities)} rows, but there are {len(cells)} cells. Pass a row for every "
                "cell, in the same order."
            )
        labels = probabilities.columns if labels is None else labels
        probabilities = probabilities[is_scored.to_numpy()]
    found = cells[is_scored]
    known = set(found["truth"]) if labels is None else {str(name) for name in labels}
    return score_cells(
        found["truth"].to_numpy(),
        found["predicted"].to_numpy(),
        is_unseen=~found["truth"].isin(known).to_numpy(),
        has_unassigned=labels is None or UNASSIGNED_CATEGORY not in known,
        probabilities=probabilities,
        n_unlabeled=int((~is_labeled).sum()),
        n_not_predicted=int((is_labeled & ~is_scored).sum()),
    )


def score_cells(
    truth: np.ndarray,
    predicted: np.ndarray,
    *,
    is_unseen: np.ndarray,
    has_unassigned: bool = True,
    probabilities: pd.DataFrame | None = None,
    n_unlabeled: int = 0,
    n_not_predicted: int = 0,
) -> Evaluation:
    """True and predicted types ``(n_obs,)``, none missing -> scores.

    ``is_unseen (n_obs,)`` marks cells whose type the model of this cell had not seen; in a cross-validation that can
    hold for some cells of a type only. ``has_unassigned``: whether "Unassigned" is no type of the reference.
    """
    if has_unassigned and UNASSIGNED_CATEGORY in truth:
        raise ValueError(
            f"{np.count_nonzero(truth == UNASSIGNED_CATEGORY)} cells have the true type {UNASSIGNED_CATEGORY!r}, which "
            "is what predictions below the threshold are called. If they have no type, pass "
            f"unlabeled_category={UNASSIGNED_CATEGORY!r}; if it is a type of the reference, pass labels=model.labels; "
            "else rename it."
        )
    is_assigned = (predicted != UNASSIGNED_CATEGORY) if has_unassigned else np.ones(len(truth), dtype=bool)
    seen = ~is_unseen
    areas = None
    if probabilities is not None:
        _check_complete(probabilities[seen])
        areas = roc_auc_per_class(truth[seen], probabilities[seen])
    per_class = _per_class(truth[seen], predicted[seen], areas)
    summary = {
        "accuracy": _accuracy(truth[seen], predicted[seen]),
        "macro_f1": _f1(truth[seen], predicted[seen], "macro"),
        "weighted_f1": _f1(truth[seen], predicted[seen], "weighted"),
        "macro_auc": np.nan if areas is None else areas.mean(),
        "coverage": _mean(is_assigned[seen]),
        "accuracy_assigned": _accuracy(truth[seen & is_assigned], predicted[seen & is_assigned]),
        "n_cells": seen.sum(),
        "accuracy_with_unseen": float(((truth == predicted) & seen).mean()),
        "macro_f1_with_unseen": _f1(truth, predicted, "macro"),
        "coverage_unseen": _mean(is_assigned[is_unseen]),
        "n_cells_unseen": is_unseen.sum(),
    }
    unseen = pd.Series(truth[is_unseen], dtype=object).value_counts().rename("n_cells")
    return Evaluation(
        summary=pd.Series(summary, dtype=float, name="value"),
        per_class=per_class,
        confusion_matrix=confusion_matrix(truth, predicted, labels=per_class.index),
        unseen=unseen,
        n_unlabeled=n_unlabeled,
        n_not_predicted=n_not_predicted,
    )


def _per_class(truth: np.ndarray, predicted: np.ndarray, areas: pd.Series | None) -> pd.DataFrame:
    types = np.unique(truth.astype(str)).astype(object)
    columns: dict[str, Any] = dict.fromkeys(("precision", "recall", "f1"), np.zeros(0))
    support = np.zeros(0, dtype=int)
    if len(types):
        *scores, support = precision_recall_fscore_support(truth, predicted, labels=types, zero_division=0.0)
        columns = dict(zip(columns, scores, strict=True))
    if areas is not None:
        columns["auc"] = areas.to_numpy()
    columns["support"] = support
    columns["predicted"] = np.array([np.count_nonzero(predicted == name) for name in types], dtype=int)
    return pd.DataFrame(columns, index=types).sort_values("support", ascending=False, kind="stable")


def _accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(accuracy_score(truth, predicted)) if len(truth) else np.nan


def _f1(truth: np.ndarray, predicted: np.ndarray, average: str) -> float:
    """A type that is only predicted lowers the recall of others, and is no type with an F1 of zero of its own."""
    if not len(truth):
        return np.nan
    types = np.unique(truth.astype(str)).astype(object)
    return float(f1_score(truth, predicted, labels=types, average=average, zero_division=0.0))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _check_complete(probabilities: pd.DataFrame) -> None:
    n_missing = int(probabilities.isna().any(axis=1).sum())
    if n_missing:
        raise ValueError(
            f"{n_missing} of {len(probabilities)} cells that are scored have no probabilities. Pass those of all cells "
            "with a prediction, from predict(soft=True) on the same cells."
        )
