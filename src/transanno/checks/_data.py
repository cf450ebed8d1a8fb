"""Checks on what users pass in. Every error says what was found, what is allowed and what to do."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from anndata import AnnData

# Float formats and (de)compression leave counts such as 2.9999998; real fractions are much further away.
ROUNDING_TOLERANCE = 1e-4
# log1p of counts per million reaches 13.8 and log2 of it 19.9; raw counts of a whole data set go far beyond.
LOG_MAXIMUM = 20
# Normalising or logging turns nearly every value into a fraction; expected counts (RSEM) stay mostly whole.
MOSTLY_FRACTIONAL = 0.5
# Cells count as scaled to one total when their 5th and 95th percentile differ by less than this share of the median.
EQUAL_TOTALS = 0.01

# Of negative counts there are few; of z-scores, most are negative.
_FEW_NEGATIVE = 0.1

_VALUES_PER_BLOCK = 2**18
_N_EXAMPLES = 5
_N_LISTED = 10

RAW_COUNTS_CURE = (
    'Pass the raw counts instead: name the layer that holds them, for example layer="counts", '
    "or start from adata.raw.to_adata() if adata.raw holds them. transanno.pp.check(adata) says what the values are, and "
    "with fix=True restores the counts where that is possible."
)


class Cure(Protocol):
    """Says where the user has counts, and nothing if they are not needed and there are none."""

    def __call__(self, is_needed: bool = True) -> str: ...


def static_cure(is_needed: bool = True) -> str:
    """Where counts may be, if nothing is known of the object that holds the values."""
    return RAW_COUNTS_CURE


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


@dataclass(frozen=True)
class ValueStats:
    """What the values of a matrix are like that may be counts."""

    n_nonzero: int = 0
    n_fractional: int = 0
    """values that are no whole numbers"""
    example: float = math.nan
    """one of these"""
    maximum: float = 0.0

    @property
    def share(self) -> float:
        """Of the values that are not zero, those that are no whole numbers."""
        return self.n_fractional / self.n_nonzero if self.n_nonzero else 0.0

    def __str__(self) -> str:
        return (
            f"{self.n_fractional} of {self.n_nonzero} non-zero values ({self.share:.1%}) are not whole numbers, "
            f"for example {self.example:.6g}"
        )


def value_stats(values: np.ndarray) -> ValueStats:
    """Finite values of any real type -> what they are like."""
    maximum = float(values.max()) if values.size else 0.0
    n_nonzero = int(np.count_nonzero(values))
    if values.dtype.kind != "f":
        return ValueStats(n_nonzero, maximum=maximum)
    is_fractional = np.abs(values - np.rint(values)) > ROUNDING_TOLERANCE
    example = float(values[is_fractional.argmax()]) if is_fractional.any() else math.nan
    return ValueStats(n_nonzero, int(np.count_nonzero(is_fractional)), example, maximum)


def _added(one: ValueStats, other: ValueStats) -> ValueStats:
    example = other.example if math.isnan(one.example) else one.example
    n_nonzero, n_fractional = one.n_nonzero + other.n_nonzero, one.n_fractional + other.n_fractional
    return ValueStats(n_nonzero, n_fractional, example, max(one.maximum, other.maximum))


def check_values(
    matrix: np.ndarray | sp.spmatrix | sp.sparray,
    *,
    name: str,
    genes: pd.Index | None = None,
    cure: Cure = static_cure,
) -> ValueStats:
    """Check that every value of a matrix can be a count, whatever it was scaled by.

    All values are read, block by block; implicit zeros of sparse matrices are not.

    Parameters
    ----------
    matrix
        Cells x genes, shape `(n_obs, n_vars)`; any real number type. Never modified.
    name
        What to call the matrix in messages, for example `'adata.layers["counts"]'`.
    genes
        Names of the columns, for messages.
    cure
        -> where the user has counts.

    Returns
    -------
    What the values are like.

    Raises
    ------
    TypeError
        If `matrix` is neither a numpy array nor a scipy sparse matrix, or does not hold numbers.
    ValueError
        If there are NaN, infinite or negative values, or if all values are zero.
    """
    matrix = _as_compressed_or_dense(matrix, name=name)
    minimum, stats, is_finite = np.inf, ValueStats(), True
    for values, _ in _blocks(matrix):
        if values.size == 0:
            continue
        low = float(values.min())
        if not np.isfinite(low + float(values.max())):  # NaN spreads
            is_finite = False
            break
        minimum, stats = min(minimum, low), _added(stats, value_stats(values))
    if not is_finite:
        raise ValueError(_what_is_not_finite(matrix, name, genes))
    if minimum < -ROUNDING_TOLERANCE:
        raise ValueError(_what_is_negative(matrix, name, minimum, cure))
    if stats.maximum <= ROUNDING_TOLERANCE:
        raise ValueError(
            f"All {matrix.shape[0]} x {matrix.shape[1]} values of {name} are zero; raw counts with at least some "
            f"values above zero are needed. {cure()}"
        )
    return stats


def _what_is_not_finite(matrix, name: str, genes: pd.Index | None) -> str:
    """Message on NaN and infinite values: in which cells and genes they are, and which of these to remove."""
    n_obs, n_vars = matrix.shape
    per_cell, per_gene = np.zeros(n_obs, dtype=int), np.zeros(n_vars, dtype=int)
    for values, rows in _blocks(matrix):
        is_bad = ~np.isfinite(values)
        if is_bad.any():
            np.add.at(per_cell, rows()[is_bad], 1)
    for values, columns in _blocks(matrix, columns=True):
        is_bad = ~np.isfinite(values)
        if is_bad.any():
            np.add.at(per_gene, columns()[is_bad], 1)
    cells, bad_genes = np.flatnonzero(per_cell), np.flatnonzero(per_gene)
    names = [str(genes[int(i)]) if genes is not None else f"column {i}" for i in bad_genes]
    text = (
        f"{name} holds {per_cell.sum()} NaN or infinite value(s) in {cells.size} of {n_obs} cells, first in row(s) "
        f"{_listing(cells, _N_EXAMPLES)}. They are in {bad_genes.size} of {n_vars} genes, first {_listing(names, _N_EXAMPLES)}. "
        "Raw counts must be finite and not negative. "
    )
    of_cells, of_genes = cells.size / n_obs, bad_genes.size / n_vars
    if of_genes < of_cells and (per_gene[bad_genes] == n_obs).all():
        return (
            f"{text}These genes hold nothing else, as a gene without variance does after scaling: "
            f"{_finite_genes(name)}, or redo the step that divided by zero."
        )
    if of_genes < of_cells:
        return (
            f"{text}Fewer genes than cells are concerned: {_finite_genes(name)}, or, if they were not measured in some of the "
            'parts that were put together, do so again with anndata.concat(..., join="inner"), or with fill_value=0.'
        )
    if of_cells < 1:
        return f"{text}Remove these cells, or find out which earlier step divided by zero or overflowed and redo it."
    return (
        f"{text}That is no single gene or cell: find out which earlier step divided by zero or overflowed and redo it."
    )


def _finite_genes(name: str) -> str:
    owner = re.sub(r"\.(X|raw|layers\b.*)$", "", name)
    return f"remove them, {owner}[:, numpy.isfinite(numpy.ravel({name}.sum(axis=0)))].copy()"


def _what_is_negative(matrix, name: str, minimum: float, cure: Cure) -> str:
    """Message on negative values: those of scaled data, or a few among counts."""
    n_negative = n_whole = n_nonzero = n_fractional = 0
    for values, _ in _blocks(matrix):
        is_negative = values < -ROUNDING_TOLERANCE
        is_whole = np.abs(values - np.rint(values)) <= ROUNDING_TOLERANCE
        n_nonzero += int(np.count_nonzero(values))
        n_negative += int(np.count_nonzero(is_negative))
        n_whole += int(np.count_nonzero(is_negative & is_whole))
        n_fractional += int(np.count_nonzero(~is_whole))
    if n_whole == n_negative and is_few(n_negative, n_nonzero) and n_fractional < MOSTLY_FRACTIONAL * n_nonzero:
        return (
            f"{n_negative} of {n_nonzero} non-zero values of {name} are negative, all of them whole numbers, the smallest "
            f"{minimum:.4g}; raw counts are never negative. This is a fault of the program that wrote them, known of CellBender "
            f"0.3.1: run a later version, or set them to 0: {name}[{name} < 0] = 0"
        )
    return (
        f"{name} looks scaled (z-scored or batch-corrected): minimum found {minimum:.4g}, but raw counts are never negative. "
        f"{cure()}"
    )


def is_few(n_negative: int, n_nonzero: int) -> bool:
    """Whether so few values are negative that the others may be counts."""
    return n_negative <= _FEW_NEGATIVE * n_nonzero


def common_total(matrix) -> float | None:
    """Median total per cell if (nearly) all non-empty cells share it; one cell alone cannot tell."""
    totals = np.zeros(matrix.shape[0])
    for values, rows in _blocks(matrix):
        np.add.at(totals, rows(), values.astype(np.float64))  # of equal dtypes it is much faster
    totals = totals[totals > 0]
    if totals.size < 2:
        return None
    low, median, high = np.percentile(totals, [5, 50, 95])
    return float(median) if high - low <= EQUAL_TOTALS * median else None


def _as_compressed_or_dense(matrix, *, name: str):
    """Array, CSR or CSC, without a copy where the matrix already is one of them."""
    if sp.issparse(matrix):
        if matrix.format not in ("csr", "csc"):
            matrix = matrix.tocsr()
    elif isinstance(matrix, np.ndarray):
        matrix = np.asarray(matrix)  # np.matrix and anndata's views keep 2 dimensions where arrays drop one
    else:
        raise TypeError(
            f"{name} is a {type(matrix).__name__}; a numpy array or a scipy sparse matrix is needed. "
            "Convert it, or read a backed AnnData into memory with adata.to_memory()."
        )
    if matrix.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} has dtype {matrix.dtype}; real numbers (integer or float) are needed. "
            'Convert it, for example with .astype("float32").'
        )
    return matrix


def _blocks(matrix, *, columns: bool = False) -> Iterator[tuple[np.ndarray, Callable[[], np.ndarray]]]:
    """Stored values in pieces of bounded size, each with a way to the row (cell), or the column, of every value."""
    is_sparse = sp.issparse(matrix)
    n_major = matrix.shape[1] if is_sparse and matrix.format == "csc" else matrix.shape[0]
    n_stored = matrix.data.size if is_sparse else matrix.size
    step = max(1, n_major * _VALUES_PER_BLOCK // max(n_stored, 1))
    for start in range(0, n_major, step):
        stop = min(start + step, n_major)
        majors = np.arange(start, stop)
        if not is_sparse:
            of_row = partial(np.tile, np.arange(matrix.shape[1]), stop - start)
            yield matrix[start:stop].ravel(), of_row if columns else partial(np.repeat, majors, matrix.shape[1])
            continue
        stored = slice(matrix.indptr[start], matrix.indptr[stop])
        if (matrix.format == "csc") != columns:
            yield matrix.data[stored], partial(np.array, matrix.indices[stored])
        else:
            yield matrix.data[stored], partial(np.repeat, majors, np.diff(matrix.indptr[start : stop + 1]))


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
        return
    columns = [str(column) for column in adata.obs.columns]
    raise KeyError(
        Message(f"{argument}={key!r} is not a column of {name}.obs. {did_you_mean(key, columns, what='Columns')}")
    )


def check_not_lazy(adata: AnnData, *, name: str) -> None:
    """Raise `TypeError` if values or tables of an AnnData are lazy, as those of `anndata.experimental.read_lazy` are."""
    matrices = {f"{name}.X": adata.X, **{f"{name}.layers[{key!r}]": adata.layers[key] for key in adata.layers}}
    if getattr(adata, "raw", None) is not None:
        matrices[f"{name}.raw"] = adata.raw.X
    lazy = [what for what, matrix in matrices.items() if _is_lazy(matrix)]
    lazy += [f"{name}.{what}" for what in ("obs", "var") if not isinstance(getattr(adata, what), pd.DataFrame)]
    if lazy:
        raise TypeError(
            f"{lazy[0]} is lazy (dask or xarray): its values are not read yet. Read them with {name} = {name}.to_memory(), or "
            'open the file with anndata.read_h5ad(path, backed="r"), which is read in chunks.'
        )


def _is_lazy(matrix: object) -> bool:
    return type(matrix).__module__.split(".")[0] == "dask" or hasattr(matrix, "__dask_graph__")


def check_layer(adata: AnnData, layer: str | None, *, name: str) -> None:
    """Raise `KeyError` if there is no such layer, None means `X`; or `TypeError` if values are lazy."""
    check_not_lazy(adata, name=name)
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
        f"{name} has {len(repeated)} gene name(s) that occur more than once: {_listing(repeated, _N_EXAMPLES)}. "
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
    return f"{suggestion}{what} available: {_listing(available, _N_LISTED)}."


def _listing(items: Iterable, limit: int) -> str:
    """`a, b, c and 4 more`."""
    items = [repr(item) if isinstance(item, str) else str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def first_line(error: BaseException) -> str:
    """What an error of a library says, cut to one line."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.splitlines() or [""])[0][:200]
