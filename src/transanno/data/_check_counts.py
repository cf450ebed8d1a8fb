"""The verdict on the scale of values: which of them models take as counts, with or without a warning, and which not.

It rests on the data as they are and not on the genes that a model happens to read of them, so that it is the same
wherever it is asked for.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from transanno.checks._data import LOG_MAXIMUM, MOSTLY_FRACTIONAL, Cure, check_values, static_cure
from transanno.data._scale import Scale, detect_scale


def check_counts(
    matrix: Any,
    *,
    name: str,
    genes: pd.Index | None = None,
    scale: Scale | None = None,
    cure: Cure = static_cure,
) -> None:
    """Check that a matrix ``(n_obs, n_vars)`` in memory holds what models take as counts.

    Parameters
    ----------
    matrix
        Array or sparse matrix of any real number type; all values are read, and none is changed.
    name
        What to call the matrix in messages, for example ``'adata.layers["counts"]'``.
    genes
        Names of the columns, for messages.
    scale
        What is known of the whole that the matrix is a part of. Default: found out from the matrix.
    cure
        -> what to do about values of another scale.

    Raises
    ------
    TypeError
        If the matrix is neither an array nor sparse, or does not hold numbers.
    ValueError
        If there are NaN, infinite or negative values, if all values are zero, or if the values look logged, or
        normalized where the counts follow from them.

    Warns
    -----
    UserWarning
        If the values look like expected or ambient-corrected counts, or TPM. These are accepted.
    """
    stats = check_values(matrix, name=name, genes=genes, cure=cure)
    if scale is None:
        scale = detect_scale(matrix)
        scale = replace(scale, stats=stats)
    elif scale.kind == "counts" and stats.n_fractional:  # in a few cells that are not in its sample
        scale = Scale("fractional counts", stats=stats)
    judge_scale(scale, name=name, cure=cure, stacklevel=3)


def judge_scale(scale: Scale, *, name: str, cure: Cure = static_cure, stacklevel: int = 2) -> None:
    """Raise ``ValueError`` unless models take values of this scale as counts; warn if they are none."""
    stats = scale.stats
    if scale.kind == "mixed":
        # Their maximum is that of counts, so they would be taken for fractional counts.
        raise ValueError(
            f"{name} holds whole numbers in some cells and fractions in others, as if raw counts of some were put together "
            "with normalized values of others. Raw counts of all cells are needed: put the sources together again, from "
            f"their counts. {cure()}"
        )
    if stats.n_fractional == 0 or scale.kind in ("scaled", "negative counts", "not finite", "empty"):
        return  # what is wrong with these is said where their values are checked
    if stats.share >= MOSTLY_FRACTIONAL:
        total = scale.target_sum
        if scale.kind == "normalized" and total is not None:
            what = f"{name} looks normalized to {total:.7g} counts per cell, not logged: {stats}, and all cells sum to "
            if scale.is_restorable:
                raise ValueError(f"{what}about the same total. Raw counts are needed. {cure()}")
            _warn(
                f"{what}about the same total. No whole counts follow from them, so they are accepted as they are, like TPM "
                f"(Smart-seq2). If there are raw counts, pass these: probabilities are then more reliable. {cure(False)}",
                stacklevel,
            )
            return
        if scale.kind in ("log1p", "double log1p") or stats.maximum < LOG_MAXIMUM:
            raise ValueError(
                f"{name} looks log1p-normalized: {stats}, and the maximum is only {stats.maximum:.4g}. Raw counts are "
                f"needed. {undo_hint(scale)}{cure()}"
            )
    _warn(
        f"{name} holds fractional counts: {stats}. They are accepted as expected or ambient-corrected counts (RSEM, Alevin, "
        f"SoupX). If the data were normalized instead, results will be wrong. {cure(False)}",
        stacklevel,
    )


def undo_hint(scale: Scale) -> str:
    """How to undo a logarithm that is known to have been taken once, of values that no counts follow from."""
    if scale.kind != "log1p" or scale.target_sum is None or scale.is_restorable:
        return ""
    base = scale.bases[0]
    undone = "numpy.expm1(X)" if base == np.e else f"{base:g} ** X - 1"
    return f"Without the logarithm, {undone}, the values are accepted as TPM are. "


def _warn(text: str, stacklevel: int) -> None:
    warnings.warn(text.rstrip(), UserWarning, stacklevel=stacklevel + 1)


def is_usable(scale: Scale) -> bool:
    """Whether :func:`judge_scale` and the checks of values accept it."""
    if scale.kind in ("counts", "fractional counts"):
        return True
    if scale.kind == "normalized":
        return scale.target_sum is not None and not scale.is_restorable
    return scale.kind == "unknown" and scale.stats.maximum >= LOG_MAXIMUM
