"""Whether an object that was read from a file can be written to one, asked before hours of work go into it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from transanno.checks._data import first_line
from transanno.data._files import write_whole

# anndata reads a column of this name, as SeuratDisk writes it, but writes the names of rows under it.
_RESERVED = "_index"


def rename_reserved(adata: AnnData) -> list[str]:
    """Give columns that h5ad files have no place for another name, in place -> what was renamed, for the user."""
    renamed = []
    for where, frame in _frames(adata):
        if _RESERVED in frame.columns:
            new = next(name for name in ("index", *(f"index_{i}" for i in range(1, 99))) if name not in frame.columns)
            names = [new if name == _RESERVED else name for name in frame.columns]
            frame.columns = pd.Index(names, name=frame.columns.name)
            renamed.append(
                f"{where} has a column {_RESERVED!r}, as SeuratDisk writes it, a name that h5ad files reserve. It is "
                f"called {new!r} in what is written; its values are kept."
            )
    return renamed


def _frames(adata: AnnData) -> Iterator[tuple[str, pd.DataFrame]]:
    """Tables of an object, each with where it is."""
    yield "obs", adata.obs
    yield "var", adata.var
    for name in ("obsm", "varm"):
        yield from _frames_in(name, getattr(adata, name))
    if adata.raw is not None:
        yield "raw.var", adata.raw.var
        yield from _frames_in("raw.varm", adata.raw.varm)
    yield from _frames_in("uns", adata.uns)


def _frames_in(where: str, mapping: Mapping) -> Iterator[tuple[str, pd.DataFrame]]:
    for key, value in mapping.items():
        if isinstance(value, pd.DataFrame):
            yield f"{where}[{key!r}]", value
        elif isinstance(value, Mapping):
            yield from _frames_in(f"{where}[{key!r}]", value)


def check_writable(adata: AnnData, path: Path, *, columns: tuple[str, ...] = ()) -> None:
    """Raise ``ValueError`` unless everything beside the matrices, and more columns of obs, can be written where ``path`` is.

    All of it is written, to a hidden file in that folder, or in the one that is to hold it, and removed again.
    """
    obs = adata.obs.assign(**dict.fromkeys(columns, 0.0))
    raw = None
    if adata.raw is not None:
        raw = {"X": _nothing(adata.n_obs, adata.raw.n_vars), "var": adata.raw.var, "varm": dict(adata.raw.varm)}
    whole = AnnData(
        _nothing(adata.n_obs, adata.n_vars),
        obs=obs,
        var=adata.var,
        uns=adata.uns,
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
        raw=raw,
    )
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists():
        folder = folder.parent
    temporary = folder / f".{path.name}.tmp-{os.getpid()}"
    try:
        write_whole(whole, temporary)
    except MemoryError:
        raise
    except Exception as error:  # anndata and h5py raise many classes, some of them private
        raise ValueError(
            f"The query could not be written to {path} after it was annotated ({type(error).__name__}: "
            f"{first_line(error)}). Rename or remove what it names in the query's file, or pick another place for the "
            "output if that is the cause."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _nothing(n_obs: int, n_vars: int) -> sp.csr_matrix:
    return sp.csr_matrix((n_obs, n_vars), dtype=np.float32)
