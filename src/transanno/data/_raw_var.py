"""What is known of the genes of `raw`, which may be named otherwise than those of the object, or have lost their columns."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from anndata import AnnData

from transanno.data._scale import sampled_rows

# Cells by which it is decided whether columns are the same genes, and the correlation that columns of one gene have.
_N_SAMPLED, _MIN_CORRELATION = 64, 0.5
_RAW_NAMES = "names in raw"


def raw_var(adata: AnnData) -> pd.DataFrame:
    """-> ``var`` of ``raw``, with names and columns of ``adata.var`` where its genes are found there.

    That is where both have the same names, or a column of one holds the names of the other, or there are as many genes
    with the same values in the same order. Genes of ``raw`` alone keep their names.
    """
    raw, var = adata.raw.var.copy(), adata.var
    raw.index = raw.index.astype(str)
    rows = _rows(adata, raw, var)
    if rows is None:
        return raw
    is_found = rows >= 0
    known = {str(key): (i, var.iloc[:, i]) for i, key in enumerate(var.columns) if str(key) not in raw.columns}
    for key, (_, column) in known.items():
        if (
            isinstance(column.dtype, pd.CategoricalDtype)
            or column.dtype == object
            or pd.api.types.is_string_dtype(column)
        ):
            values = raw.index.to_numpy(dtype=object).copy()
            values[is_found] = column.astype(object).to_numpy()[rows[is_found]]
            raw[key] = values
    new = raw.index.to_numpy(dtype=object).copy()
    new[is_found] = var.index.astype(str).to_numpy(dtype=object)[rows[is_found]]
    if not (new == raw.index.to_numpy(dtype=object)).all():
        raw[_RAW_NAMES] = raw.index.to_numpy(dtype=object)
        raw.index = pd.Index(new, dtype=object)
    return raw


def _rows(adata: AnnData, raw: pd.DataFrame, var: pd.DataFrame) -> np.ndarray | None:
    """-> row of ``var`` of every gene of ``raw`` ``(n_raw,)``, -1 where there is none; None if they cannot be compared."""
    candidates: list[pd.Series | pd.Index] = [var.index, *(var.iloc[:, i] for i in range(var.shape[1]))]
    for names in candidates:
        found = _positions(raw.index, names)
        if found is not None and np.count_nonzero(found >= 0) > len(var) / 2:
            return found
    for i in range(raw.shape[1]):
        column = _as_names(raw.iloc[:, i])
        found = None if column is None else _positions(column, var.index)
        if found is not None and np.count_nonzero(found >= 0) > len(var) / 2:
            return found
    return np.arange(len(raw)) if len(raw) == len(var) and _are_same_genes(adata) else None


def _as_names(column: pd.Series | pd.Index) -> pd.Index | None:
    if pd.api.types.is_numeric_dtype(column) or not all(isinstance(value, str) for value in column):
        return None
    return pd.Index(column.astype(str).to_numpy(dtype=object))


def _positions(names: pd.Index, available: pd.Series | pd.Index) -> np.ndarray | None:
    index = _as_names(available)
    if index is None:
        return None
    positions = pd.Series(np.arange(len(index)), index=index)
    positions = positions[~index.duplicated(keep=False)]
    return names.astype(str).map(positions.to_dict()).fillna(-1).to_numpy(dtype=int)


def _are_same_genes(adata: AnnData) -> bool:
    """Whether the columns of X go up and down with those of ``raw``, over some cells."""
    if adata.X is None:
        return True
    here, there = (sampled_rows(matrix, _N_SAMPLED).toarray().astype(np.float64) for matrix in (adata.X, adata.raw.X))
    if here.shape != there.shape or not np.isfinite(here).all():
        return False
    there = np.log1p(np.maximum(there, 0))
    here, there = here - here.mean(axis=0), there - there.mean(axis=0)
    spread = np.sqrt((here**2).sum(axis=0) * (there**2).sum(axis=0))
    varies = spread > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        correlation = (here * there).sum(axis=0)[varies] / spread[varies]
    return bool(varies.any() and np.median(correlation) > _MIN_CORRELATION)
