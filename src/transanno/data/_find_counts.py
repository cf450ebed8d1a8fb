"""What of a user's data holds raw counts, and under which names of genes: found, or restored, in a copy of our own.

Nothing here changes the user's object. What cannot be repaired without guessing is left as it is, for the checks after
this to refuse.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from transanno._constants import COUNTS_LAYER, IS_MISSING_KEY
from transanno.checks._data import check_values
from transanno.data._beside import counts_cure
from transanno.data._check_counts import is_usable, judge_scale
from transanno.data._gene_ids import best_naming, gene_ids, named_like_protein, other_features
from transanno.data._raw_var import raw_var
from transanno.data._restore import RestoredCounts, restore_counts, without_logs
from transanno.data._scale import Scale, detect_scale

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

# Columns of obs in which scanpy, Seurat and others keep the number of counts of a cell.
TOTALS_KEYS = ("n_counts", "total_counts", "nCount_RNA", "n_umis", "nUMI")


@dataclass(frozen=True, eq=False)
class CountsSource:
    """Where the counts of some data are."""

    adata: AnnData
    """the user's object, or one of ours with its cells"""
    layer: str | None
    scale: Scale | None
    """what the values are that the user pointed at; None where they are no numbers"""
    note: str | None = None
    """what was done, for the user"""
    restored: RestoredCounts | None = None
    used: Scale | None = None
    """what the values that are used are, where they are not those that the user pointed at, and not restored"""
    is_told: bool = False
    """whether the note says all there is to say of the scale"""

    @property
    def matrix(self) -> Any:
        """Values ``(n_obs, n_vars)``."""
        return self.adata.X if self.layer is None else self.adata.layers[self.layer]


def find_counts(adata: AnnData, *, layer: str | None, name: str) -> CountsSource:
    """The matrix that the user points at if it may be counts; else counts beside it, or those it can be restored to.

    Looked for, in this order: ``layers["counts"]``, ``raw``, counts restored from the matrix itself, and from ``raw``. With
    a ``layer`` that the user named, nothing but that layer.

    Whether models accept what is found is judged by :func:`judge_source`.
    """
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None and layer is not None:
        return CountsSource(adata, layer, None)
    base = _log_base(adata)
    scale = None
    if matrix is not None:
        if getattr(matrix, "dtype", np.dtype(object)).kind not in "biuf" or 0 in matrix.shape:
            return CountsSource(adata, layer, None)
        scale = detect_scale(matrix, log_base=base)
        if scale.kind in ("counts", "fractional counts", "empty"):
            return CountsSource(adata, layer, scale)
    where = f"{name}.X" if layer is None else f'{name}.layers["{layer}"]'
    found = f"{where} holds no raw counts ({scale})" if scale is not None else f"{where} is empty"
    if layer is None:
        beside = _counts_beside(adata, scale, found, name)
        if beside is not None:
            return beside
    totals = known_totals(adata.obs)
    restored = _restored(matrix, scale, totals)
    if restored is not None:
        note = f"{found}. The counts of {adata.n_obs} cells were restored from it{_doubts(restored)}."
        return CountsSource(_own(adata, restored.counts, adata.var), None, scale, note, restored)
    if layer is None and adata.raw is not None:
        raw_scale = detect_scale(adata.raw.X, log_base=base)
        restored = _restored(adata.raw.X, raw_scale, totals)
        if restored is not None:
            note = (
                f"{found}. The counts of {adata.n_obs} cells and {adata.raw.n_vars} genes were restored from {name}.raw, which "
                f"is {raw_scale}{_doubts(restored)}."
            )
            return CountsSource(_own(adata, restored.counts, raw_var(adata)), None, scale, note, restored)
    if layer is None:
        beside = _counts_beside(adata, scale, found, name, is_last=True)
        if beside is not None:
            return beside
    if scale is not None and scale.bases and scale.target_sum is not None and not scale.is_restorable:
        undone = without_logs(matrix, scale.bases)
        if undone is not None:
            note = (
                f"{found}. No whole counts follow from it, so the logarithm was undone and the values are used as they are, "
                "like TPM. If there are raw counts, pass these: probabilities are then more reliable."
            )
            return CountsSource(_own(adata, undone, adata.var), None, scale, note, is_told=True)
    return CountsSource(adata, layer, scale)


def _restored(matrix: Any, scale: Scale | None, totals: np.ndarray | None) -> RestoredCounts | None:
    if scale is None or not scale.is_restorable:
        return None
    return restore_counts(matrix, scale.bases, totals=totals, precision=scale.precision)


def _counts_beside(
    adata: AnnData, scale: Scale | None, found: str, name: str, *, is_last: bool = False
) -> CountsSource | None:
    """Counts in the usual places beside X; ``is_last``: there are none to restore, and what is like TPM will do."""
    if COUNTS_LAYER in adata.layers and adata.layers[COUNTS_LAYER].dtype.kind in "biuf":
        used = detect_scale(adata.layers[COUNTS_LAYER])
        if is_usable(used) and (is_last or used.kind != "normalized"):
            note = f'{found}. The {_kind(used)} counts of {name}.layers["{COUNTS_LAYER}"] are used.'
            return CountsSource(adata, COUNTS_LAYER, scale, note, used=used)
    if adata.raw is not None and adata.raw.X.dtype.kind in "biuf":
        used = detect_scale(adata.raw.X)
        if is_usable(used) and (is_last or used.kind in ("counts", "fractional counts")):
            var = raw_var(adata)
            names = "" if var.index.equals(adata.raw.var_names.astype(str)) else f", under the names of {name}.var"
            note = f"{found}. The {_kind(used)} counts of {name}.raw are used, with its {adata.raw.n_vars} genes{names}."
            return CountsSource(_own(adata, adata.raw.X, var), None, scale, note, used=used)
    return None


def _kind(scale: Scale) -> str:
    return {"counts": "raw", "normalized": "normalized"}.get(scale.kind, "fractional")


def judge_source(source: CountsSource, adata: AnnData, layer: str | None, *, name: str) -> None:
    """Raise ``ValueError`` unless models accept the scale of what was found for ``adata``, or warn."""
    scale = source.used or source.scale
    if scale is not None and source.restored is None and not source.is_told:
        cure = counts_cure(adata, layer, name=name)
        judge_scale(scale, name=where_found(source, adata, name=name), cure=cure, stacklevel=3)


def check_found(
    counts: Any, source: CountsSource, adata: AnnData, layer: str | None, *, name: str, genes: pd.Index | None = None
) -> None:
    """Raise unless counts that were read of what was found for ``adata`` can be such; warn of fractions in few cells."""
    where, cure = where_found(source, adata, name=name), counts_cure(adata, layer, name=name)
    stats = check_values(counts, name=where, genes=genes, cure=cure)
    scale = source.used or source.scale
    if scale is not None and scale.kind == "counts" and stats.n_fractional and source.restored is None:
        judge_scale(Scale("fractional counts", stats=stats), name=where, cure=cure, stacklevel=3)


def where_found(source: CountsSource, adata: AnnData, *, name: str) -> str:
    """-> what to call the matrix in messages."""
    if source.adata is not adata:
        return f"{name}.X" if source.used is None else f"{name}.raw"
    return f"{name}.X" if source.layer is None else f'{name}.layers["{source.layer}"]'


def _own(adata: AnnData, matrix: Any, var: pd.DataFrame) -> AnnData:
    """-> object of ours with these values and the cells of ``adata``; neither obs nor uns are needed."""
    if not isinstance(matrix, np.ndarray) and hasattr(matrix, "to_memory"):
        matrix = matrix.to_memory()
    var = var.copy()
    if IS_MISSING_KEY in adata.var and IS_MISSING_KEY not in var and var.index.equals(adata.var.index):
        var[IS_MISSING_KEY] = adata.var[IS_MISSING_KEY]
    var.index = var.index.astype(str)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
        return AnnData(matrix, obs=pd.DataFrame(index=adata.obs_names.astype(str)), var=var)


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


def find_names(var: pd.DataFrame, vocabulary: Iterable[str], *, name: str) -> tuple[pd.Index, list[str], list[str]]:
    """Names of the columns as the vocabulary spells them ``(n_vars,)``, what the user has to know, and what they may."""
    vocabulary = pd.Index(vocabulary).astype(str)
    warn, tell = [], []
    naming = best_naming(var, vocabulary)
    names = naming.names
    if naming.how is not None:
        text = (
            f"The names of {name} are not those of the model: its genes were matched by {naming.how}, which gives "
            f"{naming.n_shared} of the model's {len(vocabulary)} genes"
        )
        if naming.by_case:
            pair = gene_ids(pd.Index(var.index)).species, gene_ids(vocabulary).species
            species = f" ({pair[0]} here, {pair[1]} there)" if all(pair) and pair[0] != pair[1] else ""
            text += (
                f". This is another species{species}, or symbols were changed to upper case. Genes of one symbol in human and "
                "mouse are mostly orthologs, but a model of the query's own species is better"
            )
        warn.append(f"{text}.")
    elif naming.n_shared:
        here, there = gene_ids(names), gene_ids(vocabulary)
        if here.species and there.species and here.species != there.species:
            warn.append(
                f"The genes of {name} look like {here.species} ({here}), those of the model like {there.species}. If this is "
                "so, a cell gets the most similar type of another species or tissue: use a model of the query's own species."
            )
    is_known = np.asarray(names.isin(vocabulary))
    # A model that was set up with ADT_CD4 means the protein; one that was set up with CD4 hardly does.
    is_other = other_features(var) & ~(is_known & named_like_protein(names))
    if is_other.any():
        clash = is_other & is_known
        # Their own names would be summed with a gene's: CD4 is both.
        names = pd.Index(np.where(is_other, names + " (no gene)", names), dtype=object)
        text = f"{np.count_nonzero(is_other)} features of {name} are antibodies, hashtags or others beside genes"
        if clash.any():
            shown = ", ".join(var.index[clash][:3].astype(str))
            warn.append(
                f"{text}; {np.count_nonzero(clash)} of them are called like a gene ({shown}). None of them is used."
            )
        else:
            tell.append(f"{text}; they are not used.")
    return names, warn, tell


def say(warn: Iterable[str | None], tell: Iterable[str] = ()) -> None:
    """What was repaired, as warnings of the caller's caller; what hardly matters, in the log."""
    for text in filter(None, warn):
        warnings.warn(f"{text} Your object is as it was.", UserWarning, stacklevel=3)
    for text in tell:
        logger.info("%s", text)
