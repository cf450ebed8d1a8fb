"""How well probabilities rank the cells of each type before all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score


def roc_auc_per_class(truth: Any, probabilities: pd.DataFrame) -> pd.Series:
    """Area under the ROC curve of each type against the rest; the mean of it is the macro one-vs-rest AUC.

    Parameters
    ----------
    truth
        True types ``(n_obs,)``, in the order of the rows of ``probabilities``.
    probabilities
        Cells × types, as ``predict(soft=True)`` returns them.

    Returns
    -------
    AUC in [0, 1] of every true type, in alphabetical order; NaN where all cells are of one type.

    Raises
    ------
    ValueError
        If a true type has no column of probabilities.

    Examples
    --------
    >>> probabilities = model.predict(query, soft=True)
    >>> transanno.metrics.roc_auc_per_class(query.obs["cell_type"], probabilities).mean()
    """
    labels = np.asarray(truth).astype(str)
    columns = probabilities.columns.astype(str)
    types = np.unique(labels).tolist()
    without = sorted(set(types) - set(columns))
    if without:
        raise ValueError(
            f"The true types {', '.join(map(repr, without[:5]))} have no column in probabilities, which has: "
            f"{', '.join(map(repr, columns[:5]))}{', …' if len(columns) > 5 else ''}. Leave the cells of types that "
            "the model does not know out, or pass the probabilities of the model that predicted these cells."
        )
    values = probabilities.to_numpy()
    areas = [
        roc_auc_score(labels == name, values[:, columns.get_loc(name)]) if len(types) > 1 else np.nan for name in types
    ]
    return pd.Series(areas, index=types, dtype=float, name="auc")
