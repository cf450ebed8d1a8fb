"""Which types are taken for which."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from transanno._constants import UNASSIGNED_CATEGORY
from transanno.metrics._cells import paired_labels


def confusion_matrix(truth: Any, predicted: Any, labels: Iterable[str] | None = None) -> pd.DataFrame:
    """Numbers of cells, true types × predicted types.

    Parameters
    ----------
    truth, predicted
        Types ``(n_obs,)`` in the same order of cells; cells where one of them is missing are left out.
    labels
        Types of the reference. True types that it lacks are the last rows then, and have no column, since no cell can
        be called them. Default: all types are taken for known.

    Returns
    -------
    Rows from the most to the least frequent true type, columns in the same order, so that right predictions lie on
    the diagonal; then types that are only predicted, and ``"Unassigned"`` last.

    Raises
    ------
    ValueError
        If truth and prediction are not of the same cells.

    Examples
    --------
    >>> transanno.metrics.confusion_matrix(query.obs["cell_type"], query.obs["transanno"])
    """
    pairs = paired_labels(truth, predicted).dropna()
    known = set(pairs["truth"]) if labels is None else {str(name) for name in labels}
    n_true, n_predicted = pairs["truth"].value_counts(), pairs["predicted"].value_counts()
    rows = sorted(n_true.index, key=lambda name: (name not in known, -n_true[name], name))
    columns = [name for name in rows if name in known]
    only_predicted = set(n_predicted.index) - set(columns)
    columns += sorted(only_predicted, key=lambda name: (name == UNASSIGNED_CATEGORY, -n_predicted[name], name))
    table = pd.crosstab(pairs["truth"].to_numpy(), pairs["predicted"].to_numpy())
    return table.reindex(index=rows, columns=columns, fill_value=0)
