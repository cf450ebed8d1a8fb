"""A layer that is named for two data sets, of which one may keep its counts elsewhere."""

from __future__ import annotations

import warnings

from anndata import AnnData

from transanno.checks._data import check_layer


def layer_of_each(reference: AnnData, query: AnnData, layer: str | None) -> tuple[str | None, str | None]:
    """-> layers of reference and query; None, which is X and what is found beside it, for the one that lacks the layer.

    Raises
    ------
    KeyError
        If both lack it.

    Warns
    -----
    UserWarning
        If one lacks it.
    """
    has = {name: layer is None or layer in adata.layers for name, adata in (("reference", reference), ("query", query))}
    if not any(has.values()):
        check_layer(query, layer, name="query")
    for name, has_layer in has.items():
        if not has_layer:
            warnings.warn(lacks_layer(layer, name), UserWarning, stacklevel=2)
    return layer if has["reference"] else None, layer if has["query"] else None


def lacks_layer(layer: str | None, name: str) -> str:
    """-> what to know where one of two data sets lacks a layer."""
    return f"layer={layer!r} is not a layer of {name}: of {name}, X is used, or the counts that are found beside it."
