"""Any data on the genes of a vocabulary, sparse from beginning to end."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from transanno._constants import IS_MISSING_KEY
from transanno.checks._data import check_in_memory, check_not_empty, check_unique_genes
from transanno.data._match_genes import match_genes, missing_genes
from transanno.data._vocabulary import as_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from transanno.models import TransAnno, TransAnnoPretrain

ALIGN_KEY = "transanno_align"
# Values handled at once, so that what it takes beside input and result is small against either.
_VALUES_PER_BLOCK = 2**21


def align_genes(adata: AnnData, vocabulary: str | Path | Iterable[str] | TransAnno | TransAnnoPretrain) -> AnnData:
    """Bring data onto the genes of a vocabulary, in its order, matched by name.

    Models do this by themselves when they are given a query; it is needed to put data side by side, to save them, or
    for other tools. Genes that the data lack become empty columns that are marked in ``var["is_missing"]``. Models
    mask marked genes, as unknown instead of not expressed, so predictions are those from the data as they
    were. (TransAnno-Net takes them as zero :cite:p:`transannonet2025`.)

    Parameters
    ----------
    adata
        Data in memory; not changed. ``X`` and layers may hold counts or any other values per cell and gene.
    vocabulary
        Genes: a file with a gene per line or a JSON list, the folder of a saved model, a trained model, or the names
        themselves.

    Returns
    -------
    New object ``(n_obs, n_vocabulary)`` in memory, with copies of ``obs``, ``obsm``, ``obsp``, ``uns`` and ``raw``.
    ``X`` and layers keep their dtype (float16 becomes float32); CSC stays CSC, everything else becomes CSR. Columns of ``var`` are carried over,
    with NaN for missing genes (False in boolean columns). ``varm`` and ``varp`` describe another set of genes and are
    left out.

    Writes
    ------
    ``var["is_missing"]``
        True for genes that the data lack, or that were marked so before.
    ``uns["transanno_align"]``
        Numbers of genes: ``n_vocabulary``, ``n_missing``, and ``n_dropped``, those that are not in the vocabulary.

    Raises
    ------
    ValueError
        If too few genes are shared, a gene of the vocabulary occurs twice in ``adata``, or ``adata`` is backed.
    TypeError
        If ``adata`` is no AnnData, ``vocabulary`` is none of the above, or values are no numbers.

    Warns
    -----
    UserWarning
        If fewer than 80 % of the vocabulary are found.

    Examples
    --------
    >>> aligned = transanno.pp.align_genes(query, "model/")
    >>> aligned.var_names[aligned.var["is_missing"]]
    """
    check_in_memory(adata, name="adata")
    check_not_empty(adata, name="adata")
    genes = as_vocabulary(vocabulary)
    var_names = pd.Index(adata.var_names).astype(str)
    # What is summed for a model that wants counts cannot be summed here, where values may be logarithms.
    check_unique_genes(var_names[var_names.isin(genes)], name="adata")
    match = match_genes(var_names, genes, var=adata.var, is_missing=missing_genes(adata.var), name="adata")
    # -1: not in the vocabulary
    target = np.full(adata.n_vars, -1)
    target[match.query_columns] = match.vocabulary_columns

    layers = {key: _align_matrix(adata.layers[key], target, len(genes)) for key in adata.layers if key is not None}
    raw = adata.raw
    aligned = AnnData(
        X=None if adata.X is None else _align_matrix(adata.X, target, len(genes)),
        obs=adata.obs.copy(),
        var=_align_var(adata.var, match.query_columns, genes, match.is_missing),
        uns=deepcopy(dict(adata.uns)),
        obsm={key: value.copy() for key, value in adata.obsm.items()},
        obsp={key: value.copy() for key, value in adata.obsp.items()},
        layers=layers,
        raw=None if raw is None else {"X": raw.X.copy(), "var": raw.var.copy(), "varm": dict(raw.varm)},
    )
    n_missing = int(match.is_missing.sum())
    aligned.uns[ALIGN_KEY] = {"n_vocabulary": len(genes), "n_missing": n_missing, "n_dropped": match.n_extra}
    return aligned


def _align_var(var: pd.DataFrame, columns: np.ndarray, genes: pd.Index, is_missing: np.ndarray) -> pd.DataFrame:
    """Rows of ``var`` in the order of ``genes``."""
    known = var.iloc[columns].set_axis(pd.Index(var.index[columns].astype(str), dtype=object))
    aligned = known.reindex(genes)
    for key in known.columns[[pd.api.types.is_bool_dtype(dtype) for dtype in known.dtypes]]:
        # A column of True, False and NaN could not be written to a file.
        aligned[key] = known[key].reindex(genes, fill_value=False)
    aligned[IS_MISSING_KEY] = is_missing
    return aligned.set_axis(genes.astype(str).rename(var.index.name))


def _align_matrix(matrix: Any, target: np.ndarray, n_genes: int) -> sp.csr_matrix | sp.csc_matrix:
    """``(n_obs, n_vars)``, column i to column ``target[i]`` -> ``(n_obs, n_genes)``, of the same dtype."""
    if getattr(matrix, "dtype", np.dtype(object)).kind not in "biuf":
        raise TypeError(
            f"A matrix of adata holds {getattr(matrix, 'dtype', type(matrix).__name__)} values; numbers are needed, in an "
            'array, CSR or CSC matrix. Convert it, for example with .astype("float32").'
        )
    if matrix.dtype == np.float16:
        matrix = matrix.astype(np.float32)  # which sparse matrices cannot hold
    if sp.issparse(matrix) and matrix.format == "csc":
        return _align_columns(sp.csc_matrix(matrix), target, n_genes)
    return _align_rows(sp.csr_matrix(matrix) if sp.issparse(matrix) else np.asarray(matrix), target, n_genes)


def _align_columns(matrix: sp.csc_matrix, target: np.ndarray, n_genes: int) -> sp.csc_matrix:
    """CSC: whole columns move, so the result is filled in place."""
    used = np.flatnonzero(target >= 0)
    source = np.full(n_genes, -1)
    source[target[used]] = used
    sizes = np.zeros(n_genes, dtype=np.int64)
    sizes[target[used]] = np.diff(matrix.indptr)[used]
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    data = np.empty(indptr[-1], dtype=matrix.dtype)
    indices = np.empty(indptr[-1], dtype=matrix.indices.dtype)
    for column in np.flatnonzero(sizes):
        there = slice(matrix.indptr[source[column]], matrix.indptr[source[column] + 1])
        here = slice(indptr[column], indptr[column + 1])
        data[here], indices[here] = matrix.data[there], matrix.indices[there]
    return sp.csc_matrix((data, indices, indptr.astype(indices.dtype)), shape=(matrix.shape[0], n_genes))


def _align_rows(matrix: sp.csr_matrix | np.ndarray, target: np.ndarray, n_genes: int) -> sp.csr_matrix:
    """CSR or dense: counted first, so that the result is allocated once, then filled."""
    n_stored = sum(int(np.count_nonzero(target[block.indices] >= 0)) for _, block in _row_blocks(matrix))
    index_dtype = sp.get_index_dtype(maxval=max(n_stored, n_genes))
    data = np.empty(n_stored, dtype=matrix.dtype)
    indices = np.empty(n_stored, dtype=index_dtype)
    indptr = np.zeros(matrix.shape[0] + 1, dtype=index_dtype)
    for start, block in _row_blocks(matrix):
        columns = target[block.indices]
        is_used = columns >= 0
        # how many values are kept before each row of the block, and in all of it
        ends = np.concatenate([[0], np.cumsum(is_used)])[block.indptr] + indptr[start]
        indptr[start : start + len(ends)] = ends
        data[ends[0] : ends[-1]] = block.data[is_used]
        indices[ends[0] : ends[-1]] = columns[is_used]
    aligned = sp.csr_matrix((data, indices, indptr), shape=(matrix.shape[0], n_genes))
    aligned.sum_duplicates()  # sorts, too; only an input with repeated entries has any
    return aligned


def _row_blocks(matrix: sp.csr_matrix | np.ndarray) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Rows of CSR or dense in pieces of bounded size, each with the number of its first row."""
    n_values = matrix.size if isinstance(matrix, np.ndarray) else matrix.nnz
    step = max(1, matrix.shape[0] * _VALUES_PER_BLOCK // max(n_values, 1))
    for start in range(0, matrix.shape[0], step):
        yield start, sp.csr_matrix(matrix[start : start + step])
