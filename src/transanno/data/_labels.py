"""Columns of labels as strings, however pandas stores them."""

from __future__ import annotations

import numpy as np
import pandas as pd


def as_strings(column: pd.Series, *, missing: str) -> np.ndarray:
    """obs column -> array of str; NaN, None and NA -> ``missing``."""
    is_missing = column.isna().to_numpy()
    values = column.astype(object).to_numpy(copy=True)
    values[is_missing] = missing
    if pd.api.types.infer_dtype(values, skipna=False) == "string":
        return values
    return np.array([_as_string(value) for value in values], dtype=object)


def _as_string(value: object) -> str:
    # pandas turns a column of integers into floats as soon as one is missing: 1.0 is the label 1.
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
