"""From a count matrix to filtered, normalized data on chosen genes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from transanno._constants import COUNTS_LAYER, TARGET_SUM
from transanno.checks._data import (
    check_in_memory,
    check_layer,
    check_not_empty,
    check_obs_column,
    check_unique_genes,
    no_x,
)
from transanno.checks._warn import warn
from transanno.data._beside import counts_cure
from transanno.data._check_counts import check_counts
from transanno.data._select_genes import select_genes
from transanno.data._vocabulary import as_vocabulary
from transanno.pp._align import ALIGN_KEY, align_genes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anndata import AnnData

    from transanno.models import TransAnno, TransAnnoPretrain

logger = logging.getLogger(__name__)

PREPROCESS_KEY = "transanno_preprocess"
_N_TOP_GENES = 2000
# Losing a larger share of the cells is more often a wrong threshold than a bad experiment.
_MANY_CELLS = 0.5


def preprocess(
    adata: AnnData,
    *,
    layer: str | None = None,
    min_genes: int = 200,
    min_cells: int = 3,
    n_top_genes: int | None = None,
    vocabulary: str | Path | Iterable[str] | TransAnno | TransAnnoPretrain | None = None,
    batch_key: str | None = None,
) -> AnnData:
    """Filter cells and genes, normalize, take the logarithm and choose genes; raw counts are kept.

    The steps of TransAnno-Net :cite:p:`transannonet2025` with scanpy's functions, in the order that is usual there:
    cells are filtered by, and normalized over, all genes that were measured and not only the chosen ones, and the
    logarithm is the natural one. The models of this package take raw counts and normalize by themselves: set them up
    with ``layer="counts"``. ``X`` is for everything else, such as principal components and plots.

    Parameters
    ----------
    adata
        Cells with raw counts, in memory; not changed.
    layer
        Layer of raw counts. Default: ``X``.
    min_genes
        Cells in which fewer genes have counts are removed.
    min_cells
        Genes that have counts in fewer of the cells left are removed. Not applied with ``vocabulary``, since a gene that
        few cells express was measured all the same.
    n_top_genes
        Number of highly variable genes to choose, with :func:`transanno.tl.select_genes`. Default: 2,000; all
        genes if there are fewer.
    vocabulary
        Genes to bring the data onto instead, see :func:`align_genes`: a file, the folder of a saved model, a trained
        model, or the names themselves.
    batch_key
        Column of ``obs``: genes that vary within many batches are preferred. Without use for a ``vocabulary``.

    Returns
    -------
    New object with the cells and genes that are left, and everything else that ``adata`` holds about them.

    Writes
    ------
    ``X``
        log1p of counts per 10,000 of all genes that were measured and are left, float32; the natural logarithm.
    ``layers["counts"]``
        Raw counts, of the dtype that they had.
    ``obs["n_genes"]``, ``var["n_cells"]``
        Number of genes with counts in a cell, and of cells in which a gene has counts; as scanpy's filters write them.
    ``var["highly_variable"]``
        True: all genes that are left were chosen for it. Not with ``vocabulary``.
    ``var["is_missing"]``, ``uns["transanno_align"]``
        Which genes of the ``vocabulary`` the data lack, see :func:`align_genes`.
    ``uns["transanno_preprocess"]``
        How many cells and genes there were, were removed for which reason, and are left; and the arguments.

    Raises
    ------
    ValueError
        If the values are not raw counts, no cell or gene is left, gene names repeat, too few genes of the vocabulary are
        found, or ``n_top_genes`` is given beside ``vocabulary``.
    KeyError
        If the layer or the column does not exist.

    Warns
    -----
    TransAnnoWarning
        If more than half of the cells are removed.

    Examples
    --------
    >>> pretraining = transanno.pp.preprocess(adata, n_top_genes=4000, batch_key="donor")
    >>> pretraining.uns["transanno_preprocess"]["cells"]
    >>> transanno.TransAnnoPretrain.setup_anndata(pretraining, layer="counts", batch_key="donor")
    """
    check_in_memory(adata, name="adata")
    check_not_empty(adata, name="adata")
    check_layer(adata, layer, name="adata")
    check_unique_genes(adata.var_names, name="adata")
    if batch_key is not None:
        check_obs_column(adata, batch_key, argument="batch_key", name="adata")
    if vocabulary is not None and n_top_genes is not None:
        raise ValueError(
            f"n_top_genes={n_top_genes} and vocabulary both say which genes to take. Give n_top_genes to choose highly "
            "variable genes, or vocabulary to bring the data onto given ones."
        )
    genes = None if vocabulary is None else as_vocabulary(vocabulary)
    counts = _counts(adata, layer)

    processed = adata.copy()
    processed.uns.pop("log1p", None)  # speaks of the values that X is about to lose
    processed.layers[COUNTS_LAYER] = counts.copy()
    processed.X = counts.astype(np.float32)
    report: dict[str, dict[str, Any]] = {
        "cells": {"before": adata.n_obs},
        "genes": {"before": adata.n_vars},
        "arguments": {"min_genes": min_genes, "target_sum": TARGET_SUM},
    }
    _filter_cells(processed, min_genes)
    report["cells"] |= {"too_few_genes": adata.n_obs - processed.n_obs, "after": processed.n_obs}
    if genes is None:
        processed = _choose_genes(processed, min_cells, n_top_genes or _N_TOP_GENES, batch_key, report)
    else:
        _normalize(processed)
        processed = align_genes(processed, genes)
        in_common = processed.uns[ALIGN_KEY]
        report["genes"] |= {"not_in_vocabulary": in_common["n_dropped"], "missing": in_common["n_missing"]}
    report["genes"]["after"] = processed.n_vars
    processed.uns[PREPROCESS_KEY] = report
    logger.info("cells: %s; genes: %s", _listing(report["cells"]), _listing(report["genes"]))
    return processed


def _counts(adata: AnnData, layer: str | None) -> Any:
    """Raw counts, checked."""
    counts = adata.X if layer is None else adata.layers[layer]
    if counts is None:
        raise no_x("adata")
    name = "adata.X" if layer is None else f'adata.layers["{layer}"]'
    check_counts(counts, name=name, genes=adata.var_names, cure=counts_cure(adata, layer, name="adata"))
    if isinstance(counts, sp.sparray):  # scanpy 1.11 and scvi-tools want the older kind
        return sp.csc_matrix(counts) if counts.format == "csc" else sp.csr_matrix(counts)
    return counts


def _filter_cells(adata: AnnData, min_genes: int) -> None:
    """Remove cells with few genes, in place."""
    import scanpy as sc  # loads matplotlib, which checks of data can do without

    n_before, n_largest = adata.n_obs, int((adata.X > 0).sum(axis=1).max())
    if n_largest < min_genes:
        raise ValueError(
            f"No cell has counts in {min_genes} genes; the most that one has are {n_largest}, of {adata.n_vars} genes "
            "in all. Lower min_genes, which for a panel of few genes has to be far below 200, or pass all measured genes."
        )
    sc.pp.filter_cells(adata, min_genes=min_genes)
    if adata.n_obs < (1 - _MANY_CELLS) * n_before:
        warn(
            f"{n_before - adata.n_obs} of {n_before} cells have counts in fewer than {min_genes} genes and were removed. "
            "If these are no empty droplets, lower min_genes."
        )


def _choose_genes(
    adata: AnnData, min_cells: int, n_top_genes: int, batch_key: str | None, report: dict[str, dict[str, Any]]
) -> AnnData:
    """Remove rare genes, normalize and keep the highly variable ones -> new object; fills in the report."""
    import scanpy as sc  # loads matplotlib, which checks of data can do without

    n_before = adata.n_vars
    sc.pp.filter_genes(adata, min_cells=min_cells)
    if adata.n_vars == 0:
        raise ValueError(
            f"No gene has counts in {min_cells} of the {adata.n_obs} cells that are left. Lower min_cells, or min_genes "
            "to keep more cells."
        )
    n_common = adata.n_vars
    chosen = select_genes(adata, n_top_genes=n_top_genes, batch_key=batch_key)
    _normalize(adata)  # not before: genes are chosen from counts
    adata = adata[:, chosen].copy()
    adata.var["highly_variable"] = True
    report["genes"] |= {"too_few_cells": n_before - n_common, "not_highly_variable": n_common - adata.n_vars}
    report["arguments"] |= {"min_cells": min_cells, "n_top_genes": n_top_genes}
    if batch_key is not None:  # older versions of anndata cannot write None
        report["arguments"]["batch_key"] = batch_key
    return adata


def _normalize(adata: AnnData) -> None:
    """Counts in ``X`` -> log1p of counts per 10,000, in place."""
    import scanpy as sc  # loads matplotlib, which checks of data can do without

    sc.pp.normalize_total(adata, target_sum=TARGET_SUM)
    sc.pp.log1p(adata)


def _listing(numbers: dict[str, int]) -> str:
    """`2700 before, 13 too few genes, 2687 after`."""
    return ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in numbers.items())
