"""Which column of a query holds which gene of a vocabulary, by name alone; :func:`align_counts` reads in that order.

Genes a query lacks are reported as missing, so that a model can treat them as unknown; zero would claim that they were
measured and not expressed.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from transanno._constants import IS_MISSING_KEY
from transanno.checks._data import check_unique_genes
from transanno.checks._warn import warn
from transanno.data._gene_ids import MIN_SHARED_FRACTION, ensembl_prefix, is_much_better, letter_case, without_version

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

# Fewer shared genes, or a smaller share of them, are refused: such predictions look plausible and mean nothing.
MIN_SHARED_GENES = 20
# Fewer than this is accepted with a warning.
EXPECTED_SHARED_FRACTION = 0.8


@dataclass(frozen=True, eq=False)
class GeneMatch:
    """Which query column holds which gene of a vocabulary. Several columns may hold the same gene."""

    vocabulary: pd.Index
    """``(n_vocabulary,)``, genes of the model, in its order"""
    query_columns: np.ndarray
    """``(n_used,)``, columns of the query that hold one of these, ascending"""
    vocabulary_columns: np.ndarray
    """``(n_used,)``, position of each in the vocabulary"""
    n_query: int
    """number of columns of the query"""
    duplicated: list[str]
    """genes held by more than one column, in query order"""
    is_placeholder: np.ndarray
    """``(n_used,)`` bool, columns that only stand for a gene that was not measured"""

    @property
    def is_missing(self) -> np.ndarray:
        """True where the query lacks the gene, or has but a placeholder of it; shape `(n_vocabulary,)`."""
        is_missing = np.ones(len(self.vocabulary), dtype=bool)
        is_missing[self.vocabulary_columns[~self.is_placeholder]] = False
        return is_missing

    @property
    def n_shared(self) -> int:
        """Number of vocabulary genes that were measured in the query."""
        return int(np.count_nonzero(~self.is_missing))

    @property
    def n_extra(self) -> int:
        """Number of query columns that are not in the vocabulary; these are not read."""
        return self.n_query - len(self.query_columns)


def match_genes(
    var_names: Iterable[str],
    vocabulary: Iterable[str],
    *,
    var: pd.DataFrame | None = None,
    is_missing: np.ndarray | None = None,
    min_shared: int | None = None,
    name: str = "query",
) -> GeneMatch:
    """Names of a query's columns & of a model's genes, which are unique -> match, by exact name.

    ``is_missing (n_query,)`` are placeholders, see :func:`missing_genes`. Of ``var`` only columns that hold better names are
    pointed at. A ValueError says why fewer than ``min_shared`` genes are found, by default the larger of 20 and a tenth of the
    vocabulary and never more than all; a warning, that fewer than 80 % are, or that counts of columns will be summed.
    """
    var_names, vocabulary = pd.Index(var_names).astype(str), pd.Index(vocabulary).astype(str)
    check_unique_genes(vocabulary, name="the model's gene vocabulary")
    if is_missing is None:
        is_missing = np.zeros(len(var_names), dtype=bool)

    positions = vocabulary.get_indexer(var_names)  # -1: not in the vocabulary
    query_columns = np.flatnonzero(positions >= 0)
    used_names = var_names[query_columns]
    match = GeneMatch(
        vocabulary=vocabulary,
        query_columns=query_columns,
        vocabulary_columns=positions[query_columns],
        n_query=len(var_names),
        duplicated=used_names[used_names.duplicated(keep=False)].unique().tolist(),
        is_placeholder=is_missing[query_columns],
    )
    measured = var_names[~is_missing]

    n_shared, n_vocabulary = match.n_shared, len(vocabulary)
    found = f"{n_shared} of the {n_vocabulary} genes the model knows were found among the {len(measured)} of {name}"
    n_required = _n_required(min_shared, n_vocabulary)
    if n_shared < n_required:
        raise ValueError(
            f"Only {found}; at least {n_required} are needed. Unmatched names look like "
            f"{examples(measured[~measured.isin(vocabulary)])} in {name} and {examples(vocabulary[match.is_missing])} in the "
            f"model. {_likely_cause(measured, vocabulary, n_shared)}{_better_column(var, vocabulary, n_shared)}"
        )
    logger.info("%s", found)
    if n_shared < EXPECTED_SHARED_FRACTION * n_vocabulary:
        warn(
            f"Only {found} ({n_shared / n_vocabulary:.0%}). The missing genes are treated as unknown (masked), not "
            f"as zero; expect less certain predictions. Pass all measured genes if this is a selection of them."
            f"{_better_column(var, vocabulary, n_shared)}"
        )
    if match.duplicated:
        warn(
            f"{len(match.duplicated)} gene name(s) of the model occur more than once in {name}: "
            f"{examples(match.duplicated)}. Their counts are summed. If the columns are different genes, give them "
            "different names first."
        )
    return match


def missing_genes(var: pd.DataFrame) -> np.ndarray:
    """Which columns only stand for genes that were not measured: `var["is_missing"]`, `(n_vars,)`, or none.

    :func:`transanno.pp.align_genes` writes the column. Values other than True and False are another thing of the
    same name, and an error, since reading them wrongly would hide genes from a model.
    """
    if IS_MISSING_KEY not in var:
        return np.zeros(len(var), dtype=bool)
    column = var[IS_MISSING_KEY]
    if not pd.api.types.is_bool_dtype(column) or column.isna().any():
        raise TypeError(
            f'var["{IS_MISSING_KEY}"] has dtype {column.dtype}. transanno reads this column as True for genes that were '
            "not measured, so it has to be boolean, without NaN. Mend it, or give the column another name."
        )
    return column.to_numpy(dtype=bool, copy=True)  # pandas 3 gives arrays that cannot be written to, as torch wants


def _n_required(min_shared: int | None, n_vocabulary: int) -> int:
    """Floor for the number of shared genes."""
    if min_shared is None:
        min_shared = max(MIN_SHARED_GENES, math.ceil(MIN_SHARED_FRACTION * n_vocabulary))
    elif min_shared < 1:
        raise ValueError(f"min_shared={min_shared}, but at least 1 gene must be shared. Pass a positive number.")
    return min(min_shared, n_vocabulary)


def _likely_cause(var_names: pd.Index, vocabulary: pd.Index, n_shared: int) -> str:
    """Why so few names agree, and what to do about it."""
    if n_shared >= len(var_names) / 2:
        return (
            "Likely cause: the query holds a selection of genes. Pass all measured genes, for example "
            "adata.raw.to_adata() if adata.raw holds them."
        )
    query_prefix, model_prefix = ensembl_prefix(var_names), ensembl_prefix(vocabulary)
    if (query_prefix is None) != (model_prefix is None):
        in_query, in_model = ("Ensembl ids", "gene symbols") if query_prefix else ("gene symbols", "Ensembl ids")
        return (
            f"Likely cause: {in_query} in the query, {in_model} in the model. Set adata.var_names to {in_model}, for example by "
            "a table of both, pp.check(query, model, mapping=table, fix=True).adata; or train on the reference under the names "
            'of the query, if it has them, as in reference.var_names = reference.var["feature_name"].'
        )
    if query_prefix is not None and query_prefix != model_prefix:
        return (
            f"Likely cause: another species, {query_prefix} ids in the query and {model_prefix} ids in the model. "
            "Use a model of the query's species, or map the genes to their orthologs."
        )
    if query_prefix is not None:
        n_any_version = int(without_version(vocabulary).isin(without_version(var_names)).sum())
        if is_much_better(n_any_version, n_shared, vocabulary):
            if without_version(vocabulary).equals(vocabulary):
                cure = 'Strip them: adata.var_names = adata.var_names.str.split(".").str[0]'
            else:
                cure = "Give the query's genes the versioned ids of the model."
            return f"Likely cause: Ensembl versions; without them {n_any_version} would match. {cure}"
    else:
        n_any_case = int(vocabulary.str.upper().isin(var_names.str.upper()).sum())
        if is_much_better(n_any_case, n_shared, vocabulary):
            return (
                f"Likely cause: {letter_case(var_names)} in the query, {letter_case(vocabulary)} in the model; "
                f"ignoring case {n_any_case} would match. This is likely another species, or symbols changed to "
                "upper case. Use a model of the query's species, map the genes to their orthologs, or restore the "
                "original symbols."
            )
    return (
        "Likely cause: another naming of genes or another species. Compare the names above, and set adata.var_names "
        "to the naming of the model."
    )


def _better_column(var: pd.DataFrame | None, vocabulary: pd.Index, n_shared: int) -> str:
    """Point at the column of `var` that holds the model's names, if one does."""
    best_key, best_n = None, 0
    for key, column in [] if var is None else var.items():
        if pd.api.types.is_numeric_dtype(column):
            continue
        n_matches = int(vocabulary.isin(column.astype(str)).sum())
        if n_matches > best_n:
            best_key, best_n = key, n_matches
    if not is_much_better(best_n, n_shared, vocabulary):
        return ""
    return (
        f" The column {best_key!r} of adata.var would match {best_n}: "
        f"adata.var_names = adata.var[{best_key!r}].astype(str)"
    )


def examples(names: Iterable[str]) -> str:
    """First three of `names`, cut where they are no names."""
    return ", ".join(name if len(name) <= 80 else f"{name[:80]}…" for name in list(names)[:3]) or "(none)"
