"""An object whose tables were not read yet, as those of ``anndata.experimental.read_lazy``, as one that has them."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData


def with_tables(adata: AnnData) -> AnnData:
    """-> the same object if its ``obs`` and ``var`` are in memory, else another with the same matrices, of which nothing is read."""
    if isinstance(adata.obs, pd.DataFrame) and isinstance(adata.var, pd.DataFrame):
        return adata
    raw = None
    if adata.raw is not None:
        raw = {"X": adata.raw.X, "var": _read(adata.raw.var), "varm": {}}
    layers = {key: adata.layers[key] for key in adata.layers if key is not None}
    return AnnData(adata.X, obs=_read(adata.obs), var=_read(adata.var), uns=dict(adata.uns), layers=layers, raw=raw)


def _read(table: object) -> pd.DataFrame:
    return table if isinstance(table, pd.DataFrame) else table.to_memory()  # type: ignore[attr-defined]
