"""Checks on what users pass in. Every error says what was found, what is allowed and what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from anndata import AnnData

_N_EXAMPLES = 5
_N_LISTED = 10


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise ValueError unless the argument is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known. Allowed: {', '.join(map(repr, allowed))}.")


def check_interval(name: str, value: float, low: float, high: float = math.inf, *, open_at: str = "") -> None:
    """Raise ValueError unless ``low <= value <= high``; the end that ``open_at`` names ("low" or "high") is excluded."""
    is_inside = low < value if open_at == "low" else low <= value
    is_inside &= value < high if open_at == "high" or high == math.inf else value <= high
    if not is_inside:
        interval = f"{'(' if open_at == 'low' else '['}{low:g}, {high:g}{')' if open_at == 'high' or high == math.inf else ']'}"
        raise ValueError(f"{name}={value} is outside {interval}. Choose a value inside.")


class Message(str):
    """Text of a KeyError: `str(KeyError(text))` shows the repr of its argument, quotes and escapes included."""

    def __repr__(self) -> str:
        return str(self)


def check_not_empty(adata: AnnData, *, name: str) -> None:
    """Raise `ValueError` if there are no cells or no genes."""
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(
            f"{name} has {adata.n_obs} cells and {adata.n_vars} genes; at least one of each is needed. "
            "Check the filter that made it."
        )


def check_in_memory(adata: AnnData, *, name: str) -> None:
    """Raise unless `adata` is an AnnData that is in memory."""
    if not hasattr(adata, "var_names") or hasattr(adata, "mod"):
        raise TypeError(
            f"{name} is a {type(adata).__name__}, but an AnnData is needed. Of a MuData, pass the modality that holds "
            'the counts, for example mdata["rna"].'
        )
    if adata.isbacked:
        raise ValueError(
            f"{name} is backed by a file, but a new object is made of it in memory. Read it with {name}.to_memory(). The "
            "models themselves need no preparation: they read backed data in chunks and match genes by name."
        )
    check_not_lazy(adata, name=name)


def check_obs_column(adata: AnnData, key: str, *, argument: str, name: str) -> None:
    """Raise `KeyError` if `adata.obs` has no column `key`, which the user passed as `argument`."""
    if isinstance(key, list | dict | set | np.ndarray):
        raise TypeError(
            f"{argument}={key!r} is a {type(key).__name__}. Allowed: the name of one column of {name}.obs. Make one of "
            'several: adata.obs["both"] = adata.obs["a"].astype(str) + "_" + adata.obs["b"].astype(str)'
        )
    if key in adata.obs.columns:
        check_not_repeated(adata.obs, key, name=name)
        return
    columns = [str(column) for column in adata.obs.columns]
    raise KeyError(
        Message(f"{argument}={key!r} is not a column of {name}.obs. {did_you_mean(key, columns, what='Columns')}")
    )


def check_types(types: Sequence[str] | np.ndarray) -> None:
    """Raise `ValueError` unless a classifier has types of the reference to tell apart."""
    if len(types) < 2:
        raise ValueError(
            f"The reference has {len(types)} cell type{'' if len(types) == 1 else 's'}"
            f"{': ' + repr(str(types[0])) if len(types) else ' (every cell is unlabeled)'}. A classifier needs "
            "at least two types with labeled cells; check `labels_key` and `unlabeled_category`."
        )


def is_collection(value: object) -> bool:
    """Whether it is an AnnCollection of anndata, which has no X, a part of one, or scvi-tools' adapter, which says that it is an AnnData."""
    return type(value).__name__ in {"AnnCollection", "AnnCollectionView", "CollectionAdapter"}


def check_not_repeated(obs: pd.DataFrame, key: str | None, *, name: str) -> None:
    """Raise `ValueError` if a column that is needed is there more than once."""
    n = int((obs.columns == key).sum())
    if n > 1:
        raise ValueError(
            f"{name}.obs has {n} columns called {key!r}. Keep one of them, for example the first: "
            f"{name}.obs = {name}.obs.loc[:, ~{name}.obs.columns.duplicated()]"
        )


def no_x(name: str) -> ValueError:
    """-> error of data that have neither X nor a layer that was named."""
    return ValueError(f'{name} has no X. Name the layer that holds the counts, for example layer="counts".')


def check_not_lazy(adata: AnnData, *, name: str, may_be_read: bool = False) -> None:
    """Raise `TypeError` if values or tables of an AnnData are lazy, as those of `anndata.experimental.read_lazy` are.

    With `may_be_read`, only if there is no dask that they could be read by.
    """
    matrices = {f"{name}.X": adata.X, **{f"{name}.layers[{key!r}]": adata.layers[key] for key in adata.layers}}
    if getattr(adata, "raw", None) is not None:
        matrices[f"{name}.raw"] = adata.raw.X
    lazy = [what for what, matrix in matrices.items() if is_lazy(matrix)]
    lazy += [f"{name}.{what}" for what in ("obs", "var") if not isinstance(getattr(adata, what), pd.DataFrame)]
    if lazy and (not may_be_read or find_spec("dask") is None):
        without = (
            " and dask, which would read them, is not installed: pip install 'transanno[dask]'" if may_be_read else ""
        )
        raise TypeError(
            f"{lazy[0]} is lazy (dask or xarray): its values are not read yet{without}. Read them with {name} = "
            f'{name}.to_memory(), or open the file with anndata.read_h5ad(path, backed="r"), which is read in chunks.'
        )


def is_lazy(matrix: object) -> bool:
    """Whether values are computed by dask when they are asked for."""
    return type(matrix).__module__.split(".")[0] == "dask" or hasattr(matrix, "__dask_graph__")


def check_layer(adata: AnnData, layer: str | None, *, name: str, may_be_lazy: bool = False) -> None:
    """Raise `KeyError` if there is no such layer, None means `X`; or `TypeError` if values are lazy and must not, or cannot, be."""
    check_not_lazy(adata, name=name, may_be_read=may_be_lazy)
    # anndata 0.13 lists X among the layers, under the key None
    layers = [str(key) for key in adata.layers if key is not None]
    if layer is None or layer in layers:
        return
    raise KeyError(
        Message(
            f"layer={layer!r} is not a layer of {name}. {did_you_mean(layer, layers, what='Layers')} "
            "Leave layer out where X holds the counts."
        )
    )


def check_unique_genes(var_names: Iterable[str], *, name: str) -> None:
    """Raise `ValueError` if gene names repeat."""
    names = pd.Index(var_names)
    if names.is_unique:
        return
    repeated = names[names.duplicated()].unique()
    raise ValueError(
        f"{name} has {len(repeated)} gene name(s) that occur more than once: {listing(repeated, _N_EXAMPLES)}. "
        "Gene names must be unique. Sum the columns of each gene, or call adata.var_names_make_unique() to keep "
        "them apart as different genes."
    )


def did_you_mean(key: str, available: list[str], *, what: str) -> str:
    """Closest name if there is one, then what is available."""
    if not available:
        return f"{what} available: none."
    close = difflib.get_close_matches(str(key), available, n=1)
    if not close:  # difflib gives up on a difference in case alone ("CELLTYPE")
        close = [candidate for candidate in available if candidate.lower() == str(key).lower()][:1]
    suggestion = f"Did you mean {close[0]!r}? " if close else ""
    return f"{suggestion}{what} available: {listing(available, _N_LISTED)}."


def listing(items: Iterable, limit: int) -> str:
    """`a, b, c and 4 more`."""
    items = [repr(item) if isinstance(item, str) else str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def first_line(error: BaseException) -> str:
    """What an error of a library says, cut to one line."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.splitlines() or [""])[0][:200]
