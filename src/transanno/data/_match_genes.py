"""Bringing any query onto the gene vocabulary of a model, by name.

Two steps: `match_genes` decides from names alone which query columns belong to which vocabulary gene, and
`align_counts` reads the counts into that order. Genes a query lacks are reported as missing, so that a model can
treat them as unknown; zero would claim that they were measured and not expressed.
"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno._constants import IS_MISSING_KEY
from transanno.checks._data import check_layer, check_not_empty, check_unique_genes
from transanno.data._gene_ids import MIN_SHARED_FRACTION, ensembl_prefix, is_much_better, letter_case, without_version
from transanno.data._restore import readable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

logger = logging.getLogger(__name__)

# Fewer shared genes, or a smaller share of them, are refused: such predictions look plausible and mean nothing.
MIN_SHARED_GENES = 20
# Fewer than this is accepted with a warning.
EXPECTED_SHARED_FRACTION = 0.8


@dataclass(frozen=True, eq=False)
class GeneMatch:
    """Which query column holds which gene of a vocabulary. Several columns may hold the same gene.

    Parameters
    ----------
    vocabulary
        Genes of the model, in its order; shape `(n_vocabulary,)`.
    query_columns
        Columns of the query that hold a vocabulary gene, ascending; shape `(n_used,)`.
    vocabulary_columns
        Position in `vocabulary` of each of `query_columns`; shape `(n_used,)`.
    n_query
        Number of columns of the query.
    duplicated
        Vocabulary genes held by more than one query column, in query order.
    is_placeholder
        True for those of `query_columns` that only stand for a gene that was not measured; shape `(n_used,)`.
    """

    vocabulary: pd.Index
    query_columns: np.ndarray
    vocabulary_columns: np.ndarray
    n_query: int
    duplicated: list[str]
    is_placeholder: np.ndarray

    @property
    def is_missing(self) -> np.ndarray:
        """True where the query lacks the gene, or has but a placeholder of it; shape `(n_vocabulary,)`."""
        is_missing = np.ones(len(self.vocabulary), dtype=bool)
        is_missing[self.vocabulary_columns[~self.is_placeholder]] = False
        return is_missing

    @property
    def is_identity(self) -> bool:
        """Whether the query's columns are the vocabulary, in its order."""
        in_order = np.arange(len(self.vocabulary))
        return self.n_query == len(in_order) and np.array_equal(self.vocabulary_columns, in_order)

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
    """Match genes by exact name.

    Parameters
    ----------
    var_names
        Gene names of the query.
    vocabulary
        Genes of the model, in its order. Must be unique.
    var
        `adata.var` of the query. Only read to point at a column with better names when few genes match.
    is_missing
        True for genes of the query that were not measured, see :func:`missing_genes`; shape `(n_query,)`.
    min_shared
        Number of vocabulary genes the query must have. By default the larger of 20 and a tenth of the vocabulary;
        never more than the whole vocabulary.
    name
        What to call the query in messages.

    Raises
    ------
    ValueError
        If fewer than `min_shared` genes are found, if `min_shared` is below 1 or if `vocabulary` has duplicates.

    Warns
    -----
    UserWarning
        If fewer than 80 % of the vocabulary are found, or if a vocabulary gene occurs repeatedly in the query: its
        counts will be summed.
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
            f"{_examples(measured[~measured.isin(vocabulary)])} in {name} and {_examples(vocabulary[match.is_missing])} in the "
            f"model. {_likely_cause(measured, vocabulary, n_shared)}{_better_column(var, vocabulary, n_shared)}"
        )
    logger.info("%s", found)
    if n_shared < EXPECTED_SHARED_FRACTION * n_vocabulary:
        warnings.warn(
            f"Only {found} ({n_shared / n_vocabulary:.0%}). The missing genes are treated as unknown (masked), not "
            f"as zero; expect less certain predictions. Pass all measured genes if this is a selection of them."
            f"{_better_column(var, vocabulary, n_shared)}",
            UserWarning,
            stacklevel=2,
        )
    if match.duplicated:
        warnings.warn(
            f"{len(match.duplicated)} gene name(s) of the model occur more than once in {name}: "
            f"{_examples(match.duplicated)}. Their counts are summed. If the columns are different genes, give them "
            "different names first.",
            UserWarning,
            stacklevel=2,
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


def align_counts(
    adata: AnnData,
    match: GeneMatch,
    *,
    layer: str | None = None,
    chunk_size: int = 1024,
    name: str = "query",
) -> sp.csr_matrix:
    """Read counts in the order of a vocabulary: `(n_obs, n_vars)` -> `(n_obs, n_vocabulary)`.

    Query columns with the same gene are summed, missing genes are empty columns. Sparse counts are never made
    dense and backed data are read piece by piece. A view of a backed object is the exception: anndata reads the
    whole selection.

    Parameters
    ----------
    adata
        Query with dense, CSR or CSC counts, in memory or backed. Never modified.
    match
        From :func:`match_genes` on `adata.var_names`.
    layer
        Layer with the counts. None means `X`.
    chunk_size
        Number of cells to read at once (for CSC: as many columns as hold the same number of values).
    name
        What to call `adata` in messages.

    Returns
    -------
    Counts as float32, with sorted indices.

    Raises
    ------
    KeyError
        If the layer does not exist.
    TypeError
        If the counts are neither dense, CSR nor CSC numbers.
    ValueError
        If there are no cells or genes, if `match` was made for another number of genes, if `layer` is None and
        there is no `X`, or if a gene that is marked as not measured has counts.
    """
    check_not_empty(adata, name=name)
    check_layer(adata, layer, name=name)
    if adata.n_vars != match.n_query:
        raise ValueError(
            f"{name} has {adata.n_vars} genes, but its genes were matched when there were {match.n_query}. "
            "Match the genes again after changing them."
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise ValueError(f'{name} has no X. Name the layer that holds the counts, for example layer="counts".')
    matrix = readable(matrix)
    if sp.issparse(matrix) and matrix.format == "csr" and match.is_identity:
        aligned = sp.csr_matrix(_as_float32(matrix), copy=True)
    else:
        # A product with a 0/1 matrix sums duplicates and leaves missing genes empty, touching stored values only.
        ones = np.ones(len(match.query_columns), dtype=np.float32)
        selector = sp.csr_matrix(
            (ones, (match.query_columns, match.vocabulary_columns)), shape=(match.n_query, len(match.vocabulary))
        )
        read = _read_by_columns if getattr(matrix, "format", None) == "csc" else _read_by_rows
        aligned = sp.csr_matrix(read(matrix, selector, match.query_columns, chunk_size))
    aligned.sum_duplicates()  # sorts indices, too
    # A gene can have a placeholder and a column of its own beside it.
    is_placeholder = np.zeros(len(match.vocabulary), dtype=bool)
    is_placeholder[match.vocabulary_columns[match.is_placeholder]] = True
    check_unmeasured(aligned, is_placeholder & match.is_missing, match.vocabulary, name=name)
    return aligned


def sum_columns(adata: AnnData, columns: np.ndarray, *, layer: str | None = None, chunk_size: int = 1024) -> np.ndarray:
    """Counts of these columns together, for every cell `(n_obs,)`; read as :func:`align_counts` reads them."""
    matrix = readable(adata.X if layer is None else adata.layers[layer])
    ones = np.ones(len(columns), dtype=np.float32)
    selector = sp.csr_matrix((ones, (columns, np.zeros(len(columns), dtype=int))), shape=(adata.n_vars, 1))
    read = _read_by_columns if getattr(matrix, "format", None) == "csc" else _read_by_rows
    return np.asarray(read(matrix, selector, columns, chunk_size).sum(axis=1), dtype=np.float64).ravel()


def check_unmeasured(counts: Any, is_missing: np.ndarray, genes: pd.Index, *, name: str) -> None:
    """Raise if values stand where nothing was measured: masking them would lose them without a word."""
    columns = np.flatnonzero(is_missing)
    if columns.size == 0:
        return
    is_filled = np.asarray((counts[:, columns] != 0).sum(axis=0)).ravel() > 0
    if is_filled.any():
        raise ValueError(
            f'{np.count_nonzero(is_filled)} gene(s) of {name} have counts, although var["{IS_MISSING_KEY}"] says that '
            f"they were not measured: {_examples(genes[columns[is_filled]])}. Set it to False for genes that were "
            "measured, or delete the column if it describes other data."
        )


def _read_by_rows(matrix, selector: sp.csr_matrix, columns: np.ndarray, chunk_size: int) -> sp.spmatrix:
    """Dense or CSR `(n_obs, n_vars)`, in memory or on disk -> `(n_obs, n_vocabulary)`."""
    chunks = []
    for start in range(0, matrix.shape[0], chunk_size):
        chunk = matrix[start : start + chunk_size]
        if sp.issparse(chunk):
            chunks.append(_as_float32(chunk) @ selector)
        else:
            wanted = _as_float32(np.asarray(chunk)[:, columns])
            chunks.append(sp.csr_matrix(wanted) @ selector[columns])
    return sp.vstack(chunks, format="csr")


def _read_by_columns(matrix, selector: sp.csr_matrix, columns: np.ndarray, chunk_size: int) -> sp.spmatrix:
    """CSC `(n_obs, n_vars)`, in memory or on disk -> `(n_obs, n_vocabulary)`."""
    # A range of rows of a CSC file lies all over it: reading by rows would read the whole file for every chunk.
    n_obs, n_vars = matrix.shape
    step = max(1, chunk_size * n_vars // n_obs)
    chunks = []
    for start in range(0, n_vars, step):
        wanted = columns[(columns >= start) & (columns < start + step)] - start
        chunks.append(_as_float32(matrix[:, start : start + step][:, wanted]))
    return sp.hstack(chunks, format="csc") @ selector[columns]


def _as_float32(counts):
    """Convert before anything is summed: in uint8 or bool a sum would wrap around."""
    if counts.dtype.kind not in "biuf":
        raise TypeError(
            f"Counts have dtype {counts.dtype}; real numbers in a dense, CSR or CSC matrix are needed. "
            'Convert them, for example with .astype("float32").'
        )
    return counts.astype(np.float32, copy=False)


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


def _examples(names: Iterable[str]) -> str:
    """First three of `names`, cut where they are no names."""
    return ", ".join(name if len(name) <= 80 else f"{name[:80]}…" for name in list(names)[:3]) or "(none)"
