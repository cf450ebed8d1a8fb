"""Files that are either whole or not there: reading h5ad with clear errors, writing without half-written results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from transanno.checks._data import first_line
from transanno.data._hdf5 import UnreadableFilterError, is_locked, missing_filters

if TYPE_CHECKING:
    from anndata import AnnData

MODEL_FILE = "model.pt"
"""The one file of a model that was saved without its data."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Path to write to instead of ``path``, which is replaced in one step once the block ends without an error.

    A process that dies in between leaves ``path`` as it was and, at worst, a hidden temporary file next to it.
    """
    target = Path(os.path.realpath(path))  # of a symbolic link, the file it points to is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: a file can only be moved in one step within a file system.
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        sync(temporary)  # else a power cut could leave the new name with old, empty contents
        os.replace(temporary, target)
        if os.name == "posix":
            sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until what was written to a file, or into a folder, is on the disk."""
    # Windows flushes only what is open for writing, and opens no folders.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_h5ad(path: str | Path, *, name: str, read: Callable[[Path], AnnData] | None = None) -> AnnData:
    """Read an h5ad file, into memory unless ``read`` does it otherwise; ``name`` is what to call it in errors, such as "query".

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a complete h5ad file.
    """
    import anndata
    import h5py

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"The {name} file {path} does not exist. Check the path.")
    if path.is_dir():
        raise ValueError(f"The {name} {path} is a folder. Pass an .h5ad file, as written by adata.write_h5ad().")
    with suppress(ImportError):  # its filters, such as zstd, can be read once it is imported
        import hdf5plugin  # noqa: F401
    try:
        with h5py.File(path) as file:
            found = sorted(file)
            missing = missing_filters(file)
        if missing:
            raise UnreadableFilterError(
                f"The {name} file {path} is compressed with {', '.join(missing)}, which HDF5 cannot read here. Install the "
                'filters, pip install hdf5plugin, or write the file again with compression="gzip" where it can be read.'
            )
        if "obs" in found and "var" in found and "mod" not in found:
            return (read or anndata.read_h5ad)(path)
    except (MemoryError, UnreadableFilterError, PermissionError):
        raise
    except Exception as error:  # h5py and anndata raise many classes, some of them private
        if is_locked(error):
            raise ValueError(
                f"The {name} file {path} is open in another program, which has locked it ({first_line(error)}). Close it "
                "there, as with adata.file.close(), or, if nothing is writing to it, set the environment variable "
                "HDF5_USE_FILE_LOCKING=FALSE."
            ) from error
        raise ValueError(
            f"The {name} file {path} cannot be read as h5ad ({type(error).__name__}: {first_line(error)}). It may be "
            "incomplete or of another format. Pass a complete .h5ad file, as written by adata.write_h5ad()."
        ) from error
    is_mudata = "mod" in found
    what = "a MuData" if is_mudata else f"HDF5, but not h5ad: it holds {', '.join(found[:5]) or 'nothing'}"
    cure = 'Write the modality with the counts to a file: mdata["rna"].write_h5ad(path).' if is_mudata else (
        "Read it with the function for its format, such as scanpy.read_10x_h5, and write it with adata.write_h5ad()."
    )  # fmt: skip
    raise ValueError(f"The {name} file {path} is {what}; obs and var of an AnnData are needed. {cure}")


def write_h5ad(adata: AnnData, path: str | Path, *, compression: str | None = None) -> None:
    """Write an h5ad file in one step, with columns as they are."""
    with atomic_path(path) as temporary:
        write_whole(adata, temporary, compression=compression)


def write_whole(adata: AnnData, path: Path, *, compression: str | None = None) -> None:
    """Write an h5ad file, with columns as they are; one that is cut short by an error stays."""
    with as_they_are():
        # Its default would turn the user's columns of strings into categories.
        adata.write_h5ad(path, compression=compression, convert_strings_to_categoricals=False)


@contextmanager
def as_they_are() -> Iterator[None]:
    """Columns of strings that were read from a file are written back as such in every version of anndata."""
    import anndata

    settings = (
        {"allow_write_nullable_strings": True} if hasattr(anndata.settings, "allow_write_nullable_strings") else {}
    )
    with anndata.settings.override(**settings):
        yield


def compression_of(path: str | Path) -> str | None:
    """Compression of the values of an h5ad file, so that what is made of it does not grow: gzip, lzf or None."""
    import h5py

    with h5py.File(path) as file:
        values = file.get("X")
        if isinstance(values, h5py.Group):
            values = values.get("data")
        found = getattr(values, "compression", None)
    return found if found in ("gzip", "lzf") else None
