"""What of a user's data holds raw counts: found, or restored as they are read. Nothing here changes the user's object.

What cannot be repaired without guessing is left as it is, for the checks after this to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno._constants import COUNTS_LAYER, IS_MISSING_KEY
from transanno.data._beside import counts_cure
from transanno.data._check_counts import Cure, checked_blocks, is_usable, judge_scale, static_cure
from transanno.data._counts import Counts, MatrixCounts
from transanno.data._raw_var import raw_var
from transanno.data._restore import NoCounts, RestoredCounts, WithoutLogs
from transanno.data._scale import Scale, detect_scale

if TYPE_CHECKING:
    from anndata import AnnData

_Result = TypeVar("_Result")

# Columns of obs in which scanpy, Seurat and others keep the number of counts of a cell.
TOTALS_KEYS = ("n_counts", "total_counts", "nCount_RNA", "n_umis", "nUMI")


@dataclass(frozen=True, eq=False)
class CountsSource:
    """Where the counts of some data are."""

    counts: Counts
    """``(n_obs, n_vars)``, read when they are asked for"""
    var: pd.DataFrame
    """of the columns, names as strings"""
    scale: Scale | None
    """what the values are that the user pointed at; None where they are no numbers"""
    where: str
    """what to call the values in messages"""
    cure: Cure = static_cure
    """says where else the user has counts"""
    found: str | None = None
    """what was found instead of counts, and done, for the user; None if nothing was"""
    used: Scale | None = None
    """what the values that are used are, where they are not those that the user pointed at, and not restored"""

    @property
    def restored(self) -> RestoredCounts | None:
        """If the counts were made from other values."""
        return self.counts if isinstance(self.counts, RestoredCounts) else None

    @property
    def note(self) -> str | None:
        """What was done, with the doubts that there are once all cells have been read."""
        if self.found is None or self.restored is None:
            return self.found
        return f"{self.found}{_doubts(self.restored)}."

    @property
    def _judged(self) -> Scale | None:
        """Scale of what is used; None where the note says all there is to say of it."""
        return (self.used or self.scale) if isinstance(self.counts, MatrixCounts) else None

    def judge(self) -> None:
        """Raise ``ValueError`` unless there are values whose scale models accept, or warn."""
        if isinstance(self.counts, MatrixCounts) and self.counts.matrix is None:
            raise ValueError(f"{self.where.removesuffix('.X')} has no X. {self.cure()}")
        if self._judged is not None:
            judge_scale(self._judged, name=self.where, cure=self.cure)

    def checked(self, counts: Counts | None = None, genes: pd.Index | None = None) -> Iterator[sp.csr_matrix]:
        """-> blocks of the counts, or of those of some ``genes``; what is wrong with the values is raised in the end."""
        counts, genes = (self.counts, self.var.index) if counts is None else (counts, genes)
        return checked_blocks(counts, name=self.where, genes=genes, cure=self.cure, scale=self._judged)


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
    itself, and from ``raw``; then what is like TPM in these places, or once a logarithm is undone. With a ``layer`` that the
    user named, nothing but that layer. The last one is the matrix as it is.
    """
    matrix, var = adata.X if layer is None else adata.layers[layer], adata.var.set_axis(adata.var_names.astype(str))
    where = f"{name}.X" if layer is None else f'{name}.layers["{layer}"]'
    cure = counts_cure(adata, layer, name=name)
    as_it_is = CountsSource(MatrixCounts(matrix), var, None, where, cure)
    if matrix is None and layer is not None:
        yield as_it_is
        return
    scale, base = None, _log_base(adata)
    if matrix is not None:
        if getattr(matrix, "dtype", np.dtype(object)).kind not in "biuf" or 0 in matrix.shape:
            yield as_it_is
            return
        scale = detect_scale(matrix, log_base=base)
        as_it_is = replace(as_it_is, scale=scale)
        if scale.kind in ("counts", "fractional counts", "empty"):
            yield as_it_is
            return
    found = f"{where} holds no raw counts ({scale})" if scale is not None else f"{where} is empty"
    beside = [] if layer is not None else list(_beside(adata, scale, found, name))
    yield from (source for source, is_like_tpm in beside if not is_like_tpm)
    totals = known_totals(adata.obs)
    if scale is not None and scale.is_restorable:
        restored = RestoredCounts.of(MatrixCounts(matrix), scale.bases, totals, scale.precision)
        text = f"{found}. The counts of {adata.n_obs} cells were restored from it"
        yield replace(as_it_is, counts=restored, found=text)
    if layer is None and adata.raw is not None:
        raw_scale = detect_scale(adata.raw.X, log_base=base)
        if raw_scale.is_restorable:
            restored = RestoredCounts.of(MatrixCounts(adata.raw.X), raw_scale.bases, totals, raw_scale.precision)
            text = (
                f"{found}. The counts of {adata.n_obs} cells and {adata.raw.n_vars} genes were restored from {name}.raw, which "
                f"is {raw_scale}"
            )
            yield CountsSource(restored, _marked(raw_var(adata), adata.var), scale, f"{name}.raw", cure, text)
    yield from (source for source, is_like_tpm in beside if is_like_tpm)
    if scale is not None and scale.bases and scale.target_sum is not None and not scale.is_restorable:
        text = (
            f"{found}. No whole counts follow from it, so the logarithm was undone and the values are used as they are, "
            "like TPM. If there are raw counts, pass these: probabilities are then more reliable."
        )
        yield replace(as_it_is, counts=WithoutLogs(MatrixCounts(matrix), scale.bases), found=text)
    yield as_it_is


def _beside(adata: AnnData, scale: Scale | None, found: str, name: str) -> Iterator[tuple[CountsSource, bool]]:
    """Counts in the usual places beside X, and whether they are like TPM, which will only do if there are none to restore."""
    cure = counts_cure(adata, None, name=name)
    if COUNTS_LAYER in adata.layers and adata.layers[COUNTS_LAYER].dtype.kind in "biuf":
        used = detect_scale(adata.layers[COUNTS_LAYER])
        if is_usable(used):
            where, var = f'{name}.layers["{COUNTS_LAYER}"]', adata.var.set_axis(adata.var_names.astype(str))
            text = f"{found}. The {_kind(used)} counts of {where} are used."
            counts = MatrixCounts(adata.layers[COUNTS_LAYER])
            yield CountsSource(counts, var, scale, where, cure, text, used), used.kind == "normalized"
    if adata.raw is not None and adata.raw.X.dtype.kind in "biuf":
        used = detect_scale(adata.raw.X)
        if is_usable(used):
            var = _marked(raw_var(adata), adata.var)
            names = "" if var.index.equals(adata.raw.var_names.astype(str)) else f", under the names of {name}.var"
            text = (
                f"{found}. The {_kind(used)} counts of {name}.raw are used, with its {adata.raw.n_vars} genes{names}."
            )
            is_like_tpm = used.kind not in ("counts", "fractional counts")
            yield CountsSource(MatrixCounts(adata.raw.X), var, scale, f"{name}.raw", cure, text, used), is_like_tpm


def _kind(scale: Scale) -> str:
    return {"counts": "raw", "normalized": "normalized"}.get(scale.kind, "fractional")


def _marked(raw: pd.DataFrame, var: pd.DataFrame) -> pd.DataFrame:
    """``raw.var`` -> the same with the mark of unmeasured genes that ``var`` has, where these are the same genes."""
    if IS_MISSING_KEY in var and IS_MISSING_KEY not in raw and raw.index.equals(var.index):
        raw[IS_MISSING_KEY] = var[IS_MISSING_KEY].to_numpy()
    return raw


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
