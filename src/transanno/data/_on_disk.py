"""Large h5ad files, whose matrices stay in them: opened without these, and copied with what was predicted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno._constants import SETS_SUFFIX
from transanno.data._counts import is_large
from transanno.data._files import as_they_are, atomic_path

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData

# How the versions of anndata that are supported write tables and matrices; what older ones wrote is read into memory.
_TABLE, _MATRICES = "dataframe", ("array", "csr_matrix", "csc_matrix")


def open_h5ad(path: Path, n_genes: int) -> AnnData:
    """-> the object of a file, as it is or, if its cells times so many genes are too much for that, with its matrices on disk.

    Then ``obsm``, but for label sets of an earlier prediction, and what else is not needed to annotate it is left out, and the file
    is open as long as the object is there.
    """
    import anndata
    import h5py
    from anndata.io import read_elem

    file = h5py.File(path)
    obs = read_elem(file["obs"]) if _is_readable(file) else None
    if obs is None or not is_large((len(obs), n_genes)):
        file.close()
        return anndata.read_h5ad(path)
    raw = None
    if "raw" in file:
        raw = {"X": _matrix(file["raw/X"]), "var": read_elem(file["raw/var"]), "varm": {}}
    return anndata.AnnData(
        _matrix(file["X"]) if "X" in file else None,
        obs=obs,
        var=read_elem(file["var"]),
        uns=read_elem(file["uns"]) if "uns" in file else {},
        obsm={key: item for key, item in file.get("obsm", {}).items() if key.endswith(SETS_SUFFIX)},
        layers={key: _matrix(item) for key, item in file.get("layers", {}).items()},
        raw=raw,
    )


def has_matrices_on_disk(adata: AnnData) -> bool:
    """Whether values of the object are in a file."""
    matrices = [adata.X, *(adata.layers[key] for key in adata.layers)]
    return any(not (matrix is None or isinstance(matrix, np.ndarray) or sp.issparse(matrix)) for matrix in matrices)


def write_copy(source: Path, path: Path, *, obs: pd.DataFrame, obsm: Mapping[str, Any], uns: Mapping[str, Any]) -> None:
    """Copy a file in one step, with another ``obs``, and with more in ``obsm`` and ``uns``, or less where that is None.

    No matrix is read.
    """
    import h5py
    from anndata.io import write_elem

    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file, as_they_are():
            del file["obs"]
            write_elem(file, "obs", obs)
            for name, added in (("obsm", obsm), ("uns", uns)):
                if name not in file:
                    write_elem(file, name, {})
                for key, value in added.items():
                    if key in file[name]:
                        del file[name][key]
                    if value is not None:
                        write_elem(file[name], key, value)


def _is_readable(file: h5py.File) -> bool:
    tables = [file[name] for name in ("obs", "var")]
    matrices = [file[name] for name in ("X", "raw/X") if name in file] + list(file.get("layers", {}).values())
    return all(item.attrs.get("encoding-type") == _TABLE for item in tables) and all(
        item.attrs.get("encoding-type") in _MATRICES for item in matrices
    )


def _matrix(item: h5py.Group | h5py.Dataset) -> Any:
    import h5py
    from anndata.io import sparse_dataset

    return item if isinstance(item, h5py.Dataset) else sparse_dataset(item)
