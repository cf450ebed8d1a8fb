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
from transanno.data._align_counts import selector
from transanno.data._counts import MatrixCounts
from transanno.data._match_genes import GeneMatch, match_genes, missing_genes
from transanno.data._vocabulary import as_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from transanno.models import TransAnno, TransAnnoPretrain

ALIGN_KEY = "transanno_align"


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
    TransAnnoWarning
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
    layers = {key: _align_matrix(adata.layers[key], match) for key in adata.layers if key is not None}
    raw = adata.raw
    aligned = AnnData(
        X=None if adata.X is None else _align_matrix(adata.X, match),
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


def _align_matrix(matrix: Any, match: GeneMatch) -> sp.csr_matrix | sp.csc_matrix:
    """``(n_obs, n_vars)`` -> ``(n_obs, n_vocabulary)``, of the same dtype; float16, which sparse matrices cannot hold, is float32."""
    if getattr(matrix, "dtype", np.dtype(object)).kind not in "biuf":
        raise TypeError(
            f"A matrix of adata holds {getattr(matrix, 'dtype', type(matrix).__name__)} values; numbers are needed, in an "
            'array, CSR or CSC matrix. Convert it, for example with .astype("float32").'
        )
    dtype = np.dtype(np.float32 if matrix.dtype == np.float16 else matrix.dtype).newbyteorder("=")
    if sp.issparse(matrix) and matrix.format == "csc":
        aligned = sp.csc_matrix(matrix, dtype=dtype) @ sp.csc_matrix(selector(match, dtype))
    else:
        blocks = MatrixCounts(matrix).blocks()
        aligned = sp.vstack(
            [block.astype(dtype, copy=False) @ selector(match, dtype) for block in blocks], format="csr"
        )
    aligned.sort_indices()
    return aligned
