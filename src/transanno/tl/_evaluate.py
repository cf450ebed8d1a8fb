"""How good the predictions in ``obs`` are."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from anndata import AnnData
from mudata import MuData

from transanno import metrics
from transanno._constants import KEY_ADDED, UNLABELED_CATEGORY
from transanno.checks._data import check_obs_column


def evaluate(
    adata: AnnData | MuData,
    labels_key: str,
    *,
    key_added: str = KEY_ADDED,
    labels: Iterable[str] | None = None,
    probabilities: pd.DataFrame | None = None,
    unlabeled_category: str = UNLABELED_CATEGORY,
) -> metrics.Evaluation:
    """Compare predicted with known types of annotated cells.

    The cells should not have been trained on, nor their donors: see the user guide on evaluation.

    Parameters
    ----------
    adata
        Annotated cells; not changed.
    labels_key
        Column of ``obs`` with the true types. Cells without one are left out and counted.
    key_added
        Column of ``obs`` that the predictions were written to. ``"Unassigned"`` cells count as wrong.
    labels
        Types that the model knows, ``model.labels``: cells of other types, which are always wrong, are reported apart.
        Default: the columns of ``probabilities``; without these, all types are taken for known.
    probabilities
        What ``predict(soft=True)`` returned for these cells, for the AUC.
    unlabeled_category
        Value of ``labels_key`` that marks cells without a type; NaN does, too.

    Returns
    -------
    Scores, to print or to draw with :func:`transanno.pl.metrics` and :func:`transanno.pl.confusion_matrix`.

    Reads
    -----
    ``obs[labels_key]``, ``obs[key_added]``

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If no cell has both a label and a prediction, or ``probabilities`` are of other cells.

    Examples
    --------
    >>> model = transanno.tl.annotate(query, reference, labels_key="cell_type")
    >>> result = transanno.tl.evaluate(query, "cell_type", labels=model.labels)
    >>> print(result)
    >>> result.summary["macro_f1"], result.per_class, result.confusion_matrix
    """
    check_obs_column(adata, labels_key, argument="labels_key", name="adata")
    check_obs_column(adata, key_added, argument="key_added", name="adata")
    if probabilities is not None and not probabilities.index.equals(adata.obs_names):
        if not adata.obs_names.is_unique or not probabilities.index.isin(adata.obs_names).all():
            raise ValueError(
                f"probabilities are not of these cells: {int((~probabilities.index.isin(adata.obs_names)).sum())} of "
                f"{len(probabilities)} row names are not in adata.obs_names. Pass what predict(soft=True) returned for "
                "adata."
            )
        probabilities = probabilities.reindex(adata.obs_names)
    return metrics.evaluate(
        adata.obs[labels_key],
        adata.obs[key_added],
        labels=labels,
        probabilities=probabilities,
        unlabeled_category=unlabeled_category,
    )
