"""A reference under the names of genes that its query has."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from transanno.checks._quiet import repeated_names
from transanno.checks._warn import warn
from transanno.data._gene_ids import MIN_SHARED_FRACTION, best_naming, name_sources, spell_as, spellings
from transanno.data._match_genes import MIN_SHARED_GENES
from transanno.data._raw_var import raw_var


def named_as_query(reference: AnnData, query_var: pd.DataFrame) -> AnnData:
    """-> the reference, or the same values under names that are in a column of its ``var``, if these are the query's.

    As with CELLxGENE: Ensembl ids in ``var_names``, symbols in ``var["feature_name"]``. The user's object is not changed.

    Warns
    -----
    TransAnnoWarning
        If it is under other names.
    """
    own, theirs = pd.Index(reference.var_names).astype(str), pd.Index(query_var.index).astype(str)
    n_shared = best_naming(query_var, own).n_shared
    if 2 * n_shared >= min(len(own), len(theirs)):  # nothing can double that
        return reference
    best = _best_column(reference.var, query_var)
    n_needed = max(min(MIN_SHARED_GENES, len(own)), MIN_SHARED_FRACTION * min(len(own), len(theirs)))
    if best is None or best[0] <= 2 * n_shared or best[0] < n_needed:
        return reference
    n, source, names = best
    if reference.isbacked:
        raise ValueError(
            f"The genes of the reference are named otherwise than those of the query ({own[0]} here, {theirs[0]} there), and "
            f"its column var[{source!r}] holds {n} names of the query, but a file cannot be renamed. Read it into memory: "
            f"reference = reference.to_memory(); reference.var_names = reference.var[{source!r}].astype(str)"
        )
    warn(
        f"The genes of the reference are named otherwise than those of the query; they were matched by its column "
        f"var[{source!r}], which holds {n} names of the query. The reference is as it was."
    )
    # A name that two genes share would be refused; they keep the one that tells them apart.
    is_clear = ~(names.duplicated(keep=False) | reference.var[source].isna().to_numpy())
    return _renamed(reference, pd.Index(np.where(is_clear, names, own), dtype=object))


def _best_column(var: pd.DataFrame, query_var: pd.DataFrame) -> tuple[int, str, pd.Index] | None:
    """-> how many names a column of the reference shares with the query's or a column of that, which column, and its names."""
    best = None
    for _, theirs in name_sources(query_var):
        theirs = theirs.unique()
        for source, names in name_sources(var):
            if source is None:
                continue
            for key in spellings(names).values():
                spelled = spell_as(names, theirs, key)
                n = int(spelled[~spelled.duplicated(keep=False)].isin(theirs).sum())
                # What changes less comes first, and something of more change has to be worth it.
                if best is None or n > 1.05 * best[0]:
                    best = n, source, spelled
    return best


def _renamed(reference: AnnData, names: pd.Index) -> AnnData:
    """-> object with the same values, which are not copied."""
    raw = None
    if reference.raw is not None:
        var = raw_var(reference)
        new = dict(zip(reference.var_names.astype(str), names, strict=True))
        var.index = pd.Index([new.get(name, name) for name in var.index], dtype=object)
        raw = {"X": reference.raw.X, "var": var, "varm": {}}
    with repeated_names():
        return AnnData(
            reference.X,
            obs=reference.obs,
            var=reference.var.set_axis(names),
            uns=reference.uns,
            layers={key: reference.layers[key] for key in reference.layers if key is not None},
            raw=raw,
        )
