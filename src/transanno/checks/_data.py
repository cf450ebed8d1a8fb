"""Checks on what users pass in. Every error says what was found, what is allowed and what to do."""

from __future__ import annotations

import difflib
import math
import warnings
from functools import partial
from typing import TYPE_CHECKING

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

_VALUES_PER_BLOCK = 2**18
_N_EXAMPLES = 5
_N_LISTED = 10

_RAW_COUNTS_CURE = (
    'Pass the raw counts instead: name the layer that holds them, for example layer="counts", '
    "or start from adata.raw.to_adata() if adata.raw holds them. transanno.pp.check(adata) says what the values are, and "
    "with fix=True restores the counts where that is possible."
)


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


def check_counts(matrix: np.ndarray | sp.spmatrix | sp.sparray, *, name: str) -> None:
    """Check that every value of a matrix can be a raw count.

    All values are read, block by block; implicit zeros of sparse matrices are not.

    Parameters
    ----------
    matrix
        Cells x genes, shape `(n_obs, n_vars)`; any real number type. Never modified.
    name
        What to call the matrix in messages, for example `'adata.layers["counts"]'`.

    Raises
    ------
    TypeError
        If `matrix` is neither a numpy array nor a scipy sparse matrix, or does not hold numbers.
    ValueError
        If there are NaN, infinite or negative values, if all values are zero, or if the values look normalized
        or log-normalized.

    Warns
    -----
    UserWarning
        If there are fractional values that look like expected or ambient-corrected counts. These are accepted.
    """
    matrix = _as_compressed_or_dense(matrix, name=name)
    minimum, maximum = np.inf, -np.inf
    n_nonzero = n_fractional = n_not_finite = 0
    is_bad_row = np.zeros(matrix.shape[0], dtype=bool)
    example = np.nan
    for values, rows in _blocks(matrix):
        if values.size == 0:
            continue
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low + high):  # NaN spreads
            is_finite = np.isfinite(values)
            n_not_finite += int(np.count_nonzero(~is_finite))
            is_bad_row[rows()[~is_finite]] = True
            continue
        minimum, maximum = min(minimum, low), max(maximum, high)
        if values.dtype.kind == "f":
            is_fractional = np.abs(values - np.rint(values)) > ROUNDING_TOLERANCE
            if n_fractional == 0 and is_fractional.any():
                example = float(values[is_fractional.argmax()])
            n_fractional += int(np.count_nonzero(is_fractional))
            n_nonzero += int(np.count_nonzero(values))

    if n_not_finite:
        bad_rows = np.flatnonzero(is_bad_row)
        raise ValueError(
            f"{name} holds {n_not_finite} NaN or infinite value(s) in {bad_rows.size} of {matrix.shape[0]} cells, "
            f"first in row(s) {_listing(bad_rows, _N_EXAMPLES)}. Raw counts must be finite and not negative. "
            "Remove these cells, or find out which earlier step divided by zero or overflowed and redo it."
        )
    if minimum < -ROUNDING_TOLERANCE:
        raise ValueError(
            f"{name} looks scaled (z-scored or batch-corrected): minimum found {minimum:.4g}, but raw counts are "
            f"never negative. {_RAW_COUNTS_CURE}"
        )
    if maximum <= ROUNDING_TOLERANCE:
        raise ValueError(
            f"All {matrix.shape[0]} x {matrix.shape[1]} values of {name} are zero; raw counts with at least some "
            f"values above zero are needed. {_RAW_COUNTS_CURE}"
        )
    if n_fractional:
        share = n_fractional / n_nonzero
        found = (
            f"{n_fractional} of {n_nonzero} non-zero values ({share:.1%}) are not whole numbers, "
            f"for example {example:.6g}"
        )
        _check_fractional(matrix, share=share, maximum=maximum, found=found, name=name)


def _check_fractional(matrix, *, share: float, maximum: float, found: str, name: str) -> None:
    """Tell normalized values (error) from expected or ambient-corrected counts (warning)."""
    if share >= MOSTLY_FRACTIONAL:
        total = common_total(matrix)
        if total is not None:
            raise ValueError(
                f"{name} looks normalized to {total:.7g} counts per cell, not logged: {found}, and all cells sum to "
                f"about the same total. Raw counts are needed. {_RAW_COUNTS_CURE}"
            )
        if maximum < LOG_MAXIMUM:
            raise ValueError(
                f"{name} looks log1p-normalized: {found}, and the maximum is only {maximum:.4g}. "
                f"Raw counts are needed. {_RAW_COUNTS_CURE}"
            )
    warnings.warn(
        f"{name} holds fractional counts: {found}. They are accepted as expected or ambient-corrected counts "
        "(RSEM, Alevin, SoupX). If the data were normalized instead, results will be wrong. "
        f"{_RAW_COUNTS_CURE}",
        UserWarning,
        stacklevel=3,
    )


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


def _blocks(matrix) -> Iterator[tuple[np.ndarray, Callable[[], np.ndarray]]]:
    """Stored values in pieces of bounded size, each with a way to the row (cell) of every value."""
    is_sparse = sp.issparse(matrix)
    n_major = matrix.shape[1] if is_sparse and matrix.format == "csc" else matrix.shape[0]
    n_stored = matrix.data.size if is_sparse else matrix.size
    step = max(1, n_major * _VALUES_PER_BLOCK // max(n_stored, 1))
    for start in range(0, n_major, step):
        stop = min(start + step, n_major)
        majors = np.arange(start, stop)
        if not is_sparse:
            yield matrix[start:stop].ravel(), partial(np.repeat, majors, matrix.shape[1])
            continue
        stored = slice(matrix.indptr[start], matrix.indptr[stop])
        if matrix.format == "csc":
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


def check_layer(adata: AnnData, layer: str | None, *, name: str) -> None:
    """Raise `KeyError` if there is no such layer; None means `X` and always passes."""
    # anndata 0.13 lists X among the layers, under the key None
    layers = [str(key) for key in adata.layers if key is not None]
    if layer is None or layer in layers:
        return
    raise KeyError(Message(f"layer={layer!r} is not a layer of {name}. {did_you_mean(layer, layers, what='Layers')}"))


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
