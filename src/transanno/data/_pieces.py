"""Cells that come in pieces, such as those of an AnnCollection, as one object whose counts are in a temporary file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from transanno.checks._data import did_you_mean
from transanno.checks._progress import cells_bar
from transanno.data._counts import CELLS_PER_BLOCK, as_csr

Piece = tuple[sp.csr_matrix, pd.DataFrame]
"""Counts ``(n_cells, n_vars)`` and their ``obs``"""


@contextmanager
def one_file(pieces: Iterable[Piece], genes: Iterable[str], *, layer: str | None, n_obs: int) -> Iterator[AnnData]:
    """-> object with the counts of all pieces, in ``X`` or a layer, which lies in a file as long as the context lasts."""
    import h5py
    from anndata.io import sparse_dataset, write_elem

    tables = []
    with TemporaryDirectory(prefix="transanno-") as folder, h5py.File(Path(folder) / "counts.h5", "w") as file:
        with cells_bar("Reading", n_obs, is_long=n_obs > CELLS_PER_BLOCK) as bar:
            for counts, obs in pieces:
                counts = counts.astype(np.float32, copy=False)  # the first piece decides on what all are stored as
                if "X" not in file:
                    counts.indptr = counts.indptr.astype(np.int64)  # there may be more than 2³¹ values in the end
                    write_elem(file, "X", counts)
                else:
                    sparse_dataset(file["X"]).append(counts)
                tables.append(obs)
                bar.update(len(obs))
        var = pd.DataFrame(index=pd.Index(genes).astype(str))
        obs = pd.concat(tables) if tables else pd.DataFrame()
        obs.index = (obs.index if obs.index.is_unique else pd.RangeIndex(len(obs))).astype(str)
        matrix = sparse_dataset(file["X"]) if tables else sp.csr_matrix((0, len(var)), dtype=np.float32)
        matrices = {"X": matrix} if layer is None else {"layers": {layer: matrix}}
        yield AnnData(obs=obs, var=var, **matrices)


@contextmanager
def collection_in_one_file(collection: Any, *, layer: str | None, name: str) -> Iterator[AnnData]:
    """AnnCollection of files or objects -> its cells with all columns of ``obs`` that they have in common."""
    collection = getattr(collection, "collection", collection)
    layers = [key for key in (collection[:1].layers or {}).keys() if key is not None]
    if layer is not None and layer not in layers:
        raise KeyError(
            f"layer={layer!r} is not a layer of all objects in {name}. {did_you_mean(layer, layers, what='Layers')}"
        )
    pieces = _pieces(collection, layer)
    with one_file(pieces, collection.var_names, layer=layer, n_obs=len(collection)) as adata:
        yield adata


def _pieces(collection: Any, layer: str | None) -> Iterator[Piece]:
    for start in range(0, len(collection), CELLS_PER_BLOCK):
        rows = slice(start, min(start + CELLS_PER_BLOCK, len(collection)))
        part = collection[rows]
        obs = {key: np.asarray(part.obs[key]) for key in part.obs.keys()}
        if isinstance(collection.obs, pd.DataFrame):  # has a label of the objects that they do not have themselves
            obs |= {key: collection.obs[key].to_numpy()[rows] for key in collection.obs.columns.difference(list(obs))}
        counts = part.X if layer is None else part.layers[layer]
        if not sp.issparse(counts):
            counts = np.asarray(counts)  # the user may have it converted to tensors
        yield as_csr(counts), pd.DataFrame(obs, index=pd.Index(part.obs_names).astype(str))
