"""Where in an object counts are, beside the matrix that was looked at, and how to say so."""

from __future__ import annotations

from typing import Any

from anndata import AnnData

from transanno.data._check_counts import Cure, is_usable
from transanno.data._scale import Scale, detect_scale

_N_NAMED = 5

# "layer" and its name, or "X" or "raw" and None
_Place = tuple[str, str | None]
# Layers of RNA velocity, which hold some of a cell's molecules each.
_PARTS = {"spliced", "unspliced", "ambiguous", "mature", "nascent"}


def counts_cure(adata: AnnData, layer: str | None, *, name: str) -> Cure:
    """-> function that says what to pass instead of X, or of this layer; the object is only looked through when it is called."""

    def cure(is_needed: bool = True) -> str:
        scales = _scales(adata, layer)
        places = [key for key, scale in scales.items() if scale.kind == "counts"]
        what = "raw counts" if places else "fractional counts or TPM"
        places = places or [key for key, scale in scales.items() if is_usable(scale)]
        places.sort(key=lambda place: place[1] in _PARTS)
        if places:
            return _advice(places, what, name)
        if not is_needed:
            return ""
        places = [key for key, scale in scales.items() if scale.is_restorable and key[0] == "layer"]
        if places:
            return _advice(places, "values that counts can be restored from", name)
        looked = f"Neither the other layers ({_layers(adata, layer)}) nor raw hold raw counts" if scales else (
            f"{name} has no other layer and no raw that could hold raw counts"
        )  # fmt: skip
        return (
            f"{looked}: take them from where the data came from, and put them into X or a layer. transanno.pp.check(adata) "
            "says what the values are, and with fix=True restores the counts where that is possible."
        )

    return cure


def _scales(adata: AnnData, layer: str | None) -> dict[_Place, Scale]:
    """-> scale of all matrices but the one that was looked at, by place."""
    matrices: dict[_Place, Any] = {
        ("layer", key): adata.layers[key] for key in adata.layers if key is not None and key != layer
    }
    if layer is not None and adata.X is not None:
        matrices["X", None] = adata.X
    if adata.raw is not None:
        matrices["raw", None] = adata.raw.X
    found = {}
    for place, matrix in matrices.items():
        if getattr(matrix, "dtype", None) is not None and matrix.dtype.kind in "biuf" and 0 not in matrix.shape:
            found[place] = detect_scale(matrix)
    return found


def _advice(places: list[_Place], what: str, name: str) -> str:
    return f"{_listing(places, name)} {'hold' if len(places) > 1 else 'holds'} {what}: {_how(places[0], name)}."


def _listing(places: list[_Place], name: str) -> str:
    texts = [f'{name}.layers["{key}"]' if kind == "layer" else f"{name}.{kind}" for kind, key in places[:_N_NAMED]]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _how(place: _Place, name: str) -> str:
    kind, key = place
    if kind == "layer":
        return f'pass layer="{key}"'
    return "leave layer out" if kind == "X" else f"start from {name}.raw.to_adata()"


def _layers(adata: AnnData, layer: str | None) -> str:
    return ", ".join(repr(str(key)) for key in adata.layers if key is not None and key != layer) or "none"
