"""True and predicted types of the same cells, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from transanno.data._labels import as_strings


def paired_labels(truth: Any, predicted: Any) -> pd.DataFrame:
    """Two columns of types ``(n_obs,)`` -> frame with ``truth`` and ``predicted`` as str; missing ones are NaN.

    Raises
    ------
    ValueError
        If the columns are not of the same cells.
    """
    columns = {"truth": _as_series(truth), "predicted": _as_series(predicted)}
    n_true, n_predicted = map(len, columns.values())
    if n_true != n_predicted:
        raise ValueError(
            f"There are {n_true} true types, but {n_predicted} predicted ones. Pass one of each for every cell, in the "
            "same order of cells."
        )
    given = [values for values in (truth, predicted) if isinstance(values, pd.Series)]
    if len(given) == 2 and not given[0].index.equals(given[1].index):
        raise ValueError(
            "The true and the predicted types are Series of different cells, or of the same cells in another order: "
            "their indices differ. Align them, for example with predicted.reindex(truth.index)."
        )
    # Not NaN as a string: a type may be called "nan".
    return pd.DataFrame(
        {
            name: pd.Series(as_strings(column, missing=""), dtype=object).mask(column.isna().to_numpy(), np.nan)
            for name, column in columns.items()
        }
    )


def _as_series(values: Any) -> pd.Series:
    return values if isinstance(values, pd.Series) else pd.Series(np.asarray(values, dtype=object), dtype=object)
