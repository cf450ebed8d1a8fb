"""Cells that are empty, hold far more counts than others, or occur twice; and batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from transanno.data._copies import identical_cells
from transanno.data._counts import Counts
from transanno.data._labels import as_strings
from transanno.pp._check._report import Finding

# Fewer genes than either are hardly a cell; the second is for panels of few genes.
_MIN_GENES, _MIN_GENES_SHARE = 200, 0.05
# As many median absolute deviations above the median, in counts and in genes, are far out.
_N_MADS = 5
_MAD_TO_SD = 1.4826
# Batches of fewer cells have no distribution to be far out of.
_MIN_BATCH = 20


def summarize_cells(counts: Counts, is_gene: np.ndarray, batch: np.ndarray | None) -> pd.DataFrame:
    """Counts ``(n_obs, n_vars)``, genes ``(n_vars,)``, batch ``(n_obs,)`` -> totals, genes and flags of every cell."""
    totals, n_genes = [], []
    for chunk in counts.blocks():
        chunk = chunk if is_gene.all() else chunk[:, is_gene]
        totals.append(np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel())
        n_genes.append(np.diff(chunk.indptr))
    cells = pd.DataFrame({"total": np.concatenate(totals), "n_genes": np.concatenate(n_genes)})
    cells["is_empty"] = cells["n_genes"] == 0
    few = min(_MIN_GENES, _MIN_GENES_SHARE * np.count_nonzero(is_gene))
    cells["is_near_empty"] = (cells["n_genes"] < few) & ~cells["is_empty"]
    cells["is_outlier"] = _far_above(cells["total"], batch) & _far_above(cells["n_genes"], batch)
    cells["is_duplicate"] = False
    return cells


def _far_above(values: pd.Series, batch: np.ndarray | None) -> np.ndarray:
    """Whether log1p of a value is 5 median absolute deviations above the median of its batch."""
    logged = np.log1p(values.to_numpy(dtype=float))
    is_far = np.zeros(len(logged), dtype=bool)
    groups = np.zeros(len(logged), dtype=int) if batch is None else pd.factorize(batch)[0]
    for group in np.unique(groups):
        is_in = (groups == group) & (logged > 0)
        if np.count_nonzero(is_in) < _MIN_BATCH:
            continue
        median = np.median(logged[is_in])
        mad = _MAD_TO_SD * np.median(np.abs(logged[is_in] - median))
        is_far |= is_in & (logged > median + _N_MADS * mad) & (mad > 0)
    return is_far


def cell_findings(cells: pd.DataFrame, n_vars: int) -> list[Finding]:
    """-> findings on empty cells and on outliers."""
    n_empty, n_near = int(cells["is_empty"].sum()), int(cells["is_near_empty"].sum())
    few = min(_MIN_GENES, _MIN_GENES_SHARE * n_vars)
    if n_empty or n_near:
        empty = Finding(
            "empty cells",
            "warning",
            f"{n_empty} cells without any count, {n_near} with counts in fewer than {few:.0f} genes",
            "empty ones are called Unassigned, and the type of near empty ones means little; remove them: adata[report.cells.n_genes >= "
            f"{np.ceil(few):.0f}]",
        )
    else:
        empty = Finding("empty cells", "ok", f"all cells have counts in at least {np.ceil(few):.0f} genes")
    n_outliers = int(cells["is_outlier"].sum())
    how = f"more than {_N_MADS} median absolute deviations above the median (log1p of counts and of genes, by batch)"
    if n_outliers:
        outliers = Finding(
            "outliers",
            "note",
            f"{n_outliers} cells {how}: doublets, or large cells",
            "look at them before you trust their types; report.cells.is_outlier tells which",
        )
    else:
        outliers = Finding("outliers", "ok", f"no cell is {how}")
    return [empty, outliers]


def copies_of(query: sp.csr_matrix, reference: sp.csr_matrix) -> np.ndarray:
    """Counts of the same genes in two data sets -> which query cells have an equal among the reference ``(n_query,)``."""
    codes = identical_cells(sp.vstack([query, reference], format="csr"))
    return np.isin(codes[: query.shape[0]], codes[query.shape[0] :])


def batch_findings(adata: AnnData, batch_key: str | None, labels_key: str | None) -> list[Finding]:
    """-> whether the column of batches can be used."""
    return [] if batch_key is None else [_batch_finding(adata, batch_key, labels_key)]


def _batch_finding(adata: AnnData, batch_key: str, labels_key: str | None) -> Finding:
    if batch_key not in adata.obs:
        return Finding(
            "batches",
            "note",
            f"there is no column {batch_key!r} in obs",
            "a query without it is one new batch; a reference needs it, or no batch_key",
        )
    batch = as_strings(adata.obs[batch_key], missing="missing")
    n_cells = pd.Series(batch).value_counts()
    n_missing = int(adata.obs[batch_key].isna().sum())
    if len(n_cells) == adata.n_obs > 1:
        return Finding(
            "batches",
            "warning",
            f"every cell has a batch of its own in {batch_key!r}",
            "name the column of the experiments, or leave batch_key out",
        )
    if len(n_cells) == 1:
        return Finding("batches", "note", f"all cells are of one batch in {batch_key!r}: nothing to correct for")
    found = f"{len(n_cells)} batches of {n_cells.min()} to {n_cells.max()} cells"
    problems, cures = [], []
    if n_missing:
        problems.append(f"{n_missing} cells have none")
        cures.append("they are a batch of their own, 'missing'; fill them in if you know better")
    n_single = int((n_cells == 1).sum())
    if n_single:
        problems.append(f"{n_single} batches of a single cell")
        cures.append("merge them if they were processed together")
    severity = "note"
    if labels_key is not None and labels_key in adata.obs:
        labels = adata.obs[labels_key]
        table = pd.crosstab(batch[labels.notna().to_numpy()], as_strings(labels.dropna(), missing="")) > 0
        if min(table.shape) > 1 and (table.sum(axis=0) == 1).all():
            severity = "warning"
            problems.append("every type occurs in a single batch")
            cures.append("no method can tell batch from type there: leave batch_key out")
    if not problems:
        return Finding("batches", "ok", found)
    return Finding("batches", severity, f"{found}; {'; '.join(problems)}", "; ".join(cures))  # type: ignore[arg-type]
