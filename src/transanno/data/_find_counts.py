"""What of a user's data holds raw counts: found, or restored as they are read. Nothing here changes the user's object.

What cannot be repaired without guessing is left as it is, for the checks after this to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from transanno._constants import COUNTS_LAYER, IS_MISSING_KEY
from transanno.data._counts import Counts, MatrixCounts
from transanno.data._restore import NoCounts, RestoredCounts
from transanno.data._scale import Scale, detect_scale

if TYPE_CHECKING:
    from anndata import AnnData

_Result = TypeVar("_Result")

# Columns of obs in which scanpy, Seurat and others keep the number of counts of a cell.
TOTALS_KEYS = ("n_counts", "total_counts", "nCount_RNA", "n_umis", "nUMI")


@dataclass(frozen=True, eq=False)
class CountsSource:
    """Where the counts of some data are."""

    matrix: Any
    """``(n_obs, n_vars)``, what they are read from, of the user's"""
    var: pd.DataFrame
    """of its columns, names as strings"""
    scale: Scale | None
    """what the values are that the user pointed at; None where they are no numbers"""
    layer: str | None = None
    """where ``matrix`` is; None: ``X``, or ``raw``"""
    restored: RestoredCounts | None = None
    """if ``matrix`` does not hold counts itself"""
    found: str | None = None
    """what was found instead of counts, and done, for the user; None if nothing was"""

    @property
    def counts(self) -> Counts:
        """Cells × columns."""
        return MatrixCounts(self.matrix) if self.restored is None else self.restored

    @property
    def note(self) -> str | None:
        """What was done, with the doubts that there are once all cells have been read."""
        if self.found is None or self.restored is None:
            return self.found
        return f"{self.found}{_doubts(self.restored)}."


def read_counts(adata: AnnData, read: Callable[[CountsSource], _Result], *, layer: str | None, name: str) -> _Result:
    """-> what ``read`` makes of the first place that holds counts; it may raise :class:`NoCounts` to be given the next one.

    Whether values can be restored is only known for sure when all of them have been read.
    """
    for source in count_sources(adata, layer=layer, name=name):
        try:
            return read(source)
        except NoCounts:
            continue
    raise AssertionError("the last source is the matrix as it is")


def count_sources(adata: AnnData, *, layer: str | None, name: str) -> Iterator[CountsSource]:
    """Places where counts may be, the likely first.

    The matrix that the user points at if it may be counts; else ``layers["counts"]``, ``raw``, counts restored from the matrix
    itself, and from ``raw``; with a ``layer`` that the user named, nothing but that layer. The last one is the matrix as it is.

    Raises
    ------
    ValueError
        If some cells hold counts and others fractions.
    """
    matrix = adata.X if layer is None else adata.layers[layer]
    var = adata.var.set_axis(adata.var_names.astype(str))
    as_it_is = CountsSource(matrix, var, None, layer)
    if matrix is None and layer is not None:
        yield as_it_is
        return
    base = _log_base(adata)
    scale = None
    if matrix is not None:
        if getattr(matrix, "dtype", np.dtype(object)).kind not in "biuf" or 0 in matrix.shape:
            yield as_it_is
            return
        scale = detect_scale(matrix, log_base=base)
        as_it_is = CountsSource(matrix, var, scale, layer)
        if scale.kind in ("counts", "fractional counts", "empty"):
            yield as_it_is
            return
    where = f"{name}.X" if layer is None else f'{name}.layers["{layer}"]'
    found = f"{where} holds no raw counts ({scale})" if scale is not None else f"{where} is empty"
    raw = adata.raw if layer is None else None
    if layer is None and COUNTS_LAYER in adata.layers and detect_scale(adata.layers[COUNTS_LAYER]).kind == "counts":
        text = f'{found}. The raw counts of {name}.layers["{COUNTS_LAYER}"] are used.'
        yield CountsSource(adata.layers[COUNTS_LAYER], var, scale, COUNTS_LAYER, found=text)
    if raw is not None and detect_scale(raw.X).kind == "counts":
        text = f"{found}. The raw counts of {name}.raw are used, with its {raw.n_vars} genes."
        yield CountsSource(raw.X, _var_of(raw.var, adata.var), scale, found=text)
    totals = known_totals(adata.obs)
    if scale is not None and scale.is_restorable:
        restored = RestoredCounts.of(MatrixCounts(matrix), scale.bases, totals)
        text = f"{found}. The counts of {adata.n_obs} cells were restored from it"
        yield CountsSource(matrix, var, scale, layer, restored, text)
    if raw is not None and (raw_scale := detect_scale(raw.X, log_base=base)).is_restorable:
        restored = RestoredCounts.of(MatrixCounts(raw.X), raw_scale.bases, totals)
        text = (
            f"{found}. The counts of {adata.n_obs} cells and {raw.n_vars} genes were restored from {name}.raw, which is "
            f"{raw_scale}"
        )
        yield CountsSource(raw.X, _var_of(raw.var, adata.var), scale, None, restored, text)
    if scale is not None and scale.kind == "mixed":
        # Their maximum is that of counts, so the check of values alone would take them for fractional counts.
        raise ValueError(
            f"{where} holds whole numbers in some cells and fractions in others, as if raw counts of some were put together "
            "with normalized values of others. Raw counts of all cells are needed: put the sources together again, from "
            'their counts, or name the layer that holds them, for example layer="counts".'
        )
    yield as_it_is


def _var_of(var: pd.DataFrame, of_matrix: pd.DataFrame) -> pd.DataFrame:
    """``raw.var`` -> the same with the mark of unmeasured genes that ``var`` has, where these are the same genes."""
    marked = var.set_axis(var.index.astype(str))
    if IS_MISSING_KEY in of_matrix and IS_MISSING_KEY not in var and var.index.equals(of_matrix.index):
        marked[IS_MISSING_KEY] = of_matrix[IS_MISSING_KEY].to_numpy()
    return marked


def known_totals(obs: pd.DataFrame) -> np.ndarray | None:
    """-> numbers of counts of the cells as another program wrote them ``(n_obs,)``, if they are whole numbers."""
    for key in TOTALS_KEYS:
        if key in obs and pd.api.types.is_numeric_dtype(obs[key]):
            totals = obs[key].to_numpy(dtype=np.float64, na_value=np.nan)
            if np.isfinite(totals).all() and (totals == np.rint(totals)).all() and (totals > 0).any():
                return totals
    return None


def _log_base(adata: AnnData) -> float | None:
    """Base that scanpy noted down."""
    noted = adata.uns.get("log1p")
    base = noted.get("base") if isinstance(noted, dict) else None
    return float(base) if isinstance(base, int | float | np.number) else None


def _doubts(restored: RestoredCounts) -> str:
    n_inexact, n_ambiguous = np.count_nonzero(restored.is_inexact), np.count_nonzero(restored.is_ambiguous)
    doubts = []
    if n_inexact:
        doubts.append(f"{n_inexact} of them rounded, because their values are not whole multiples of one unit")
    if n_ambiguous:
        doubts.append(f"{n_ambiguous} of them up to a factor, because all of their values are the same")
    return f" ({'; '.join(doubts)})" if doubts else ", all of them whole numbers"
