"""Cells of several sources in one object."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import reduce
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.utils import make_index_unique

from transanno.checks._data import check_in_memory, check_layer, check_not_empty, check_unique_genes, no_x
from transanno.checks._warn import warn
from transanno.data._beside import counts_cure
from transanno.data._check_counts import check_counts
from transanno.data._match_genes import MIN_SHARED_GENES, missing_genes

logger = logging.getLogger(__name__)


def merge(
    sources: Mapping[str, AnnData],
    *,
    join: Literal["inner", "outer"] = "inner",
    layer: str | None = None,
    source_key: str = "source",
) -> AnnData:
    """Put the raw counts of several sources together, for example to pretrain on all of them.

    Parameters
    ----------
    sources
        Name of each source and its cells with raw counts, in memory; not changed.
    join
        Genes of the result: ``"inner"``, those that all sources measured, or ``"outer"``, those that at least one did.
        A model cannot tell a gene that was not measured in some of the cells from one that they do not express: use
        ``"outer"`` only where few genes differ.
    layer
        Layer of raw counts in all sources. Default: ``X``.
    source_key
        Column of ``obs`` to write the name of the source to; useful as ``batch_key``.

    Returns
    -------
    New object with counts in ``X`` (CSR), the cells of all sources in their order, and all columns of their ``obs``, NaN
    where a source has none. Names of cells are kept if they are unique, else that of the source is
    appended. Everything else is left out: embeddings or normalized values of one source say nothing beside those
    of another. Genes are in the order of the first source, others after them.

    Writes
    ------
    ``obs[source_key]``
        Categorical, the source of the cell.
    ``var["n_sources"]``
        Number of sources that measured the gene.

    Raises
    ------
    ValueError
        If there are fewer than two sources, one does not hold raw counts or is backed, gene names repeat, sources share
        fewer than 20 genes, or ``obs`` already has a column ``source_key``.
    KeyError
        If a source lacks the layer.

    Warns
    -----
    TransAnnoWarning
        If cells of different sources have the same counts, or, with ``"outer"``, if genes were not measured everywhere.

    Examples
    --------
    >>> merged = transanno.pp.merge({"lung": lung, "trachea": trachea})
    >>> merged = transanno.pp.preprocess(merged, batch_key="source")
    """
    _check(sources, join, layer, source_key)
    measured = {name: _measured_genes(adata) for name, adata in sources.items()}
    shared = reduce(lambda kept, genes: kept[kept.isin(genes)], measured.values())
    _check_shared(measured, shared)
    union = pd.Index(np.concatenate(list(measured.values()))).unique()

    parts, obs_names = {}, _unique_names(sources)
    for name, adata in sources.items():
        genes = shared if join == "inner" else measured[name]
        counts = sp.csr_matrix(adata.X if layer is None else adata.layers[layer])
        columns = pd.Index(adata.var_names).astype(str).get_indexer(genes)
        obs = adata.obs.set_axis(obs_names[name])
        parts[name] = AnnData(counts[:, columns], obs=obs, var=pd.DataFrame(index=genes))
    _warn_of_duplicates(parts, shared)

    # "outer" keeps columns of obs that not all have; which genes there are was settled before.
    merged = ad.concat(parts, join="outer", label=source_key, fill_value=0)
    merged = merged[:, shared if join == "inner" else union].copy()
    merged.var["n_sources"] = sum(merged.var_names.isin(genes).astype(int) for genes in measured.values())
    logger.info(
        "%d cells of %d sources, %d genes, %d of them in all sources",
        merged.n_obs, len(sources), merged.n_vars, len(shared),
    )  # fmt: skip
    if len(union) > len(shared) and join == "outer":
        warn(
            f"{len(union) - len(shared)} of the {len(union)} genes were not measured in all sources. Their counts are zero "
            'where they were not, which a model takes for "not expressed". Select genes by var["n_sources"], or use '
            'join="inner".'
        )
    return merged


def _check(sources: Mapping[str, AnnData], join: str, layer: str | None, source_key: str) -> None:
    if not isinstance(sources, Mapping):
        raise TypeError(
            f'sources is a {type(sources).__name__}. Allowed: a dictionary of names and data, {{"lung": lung, …}}.'
        )
    if len(sources) < 2:
        raise ValueError(f"sources holds {len(sources)} data sets; at least two are needed to merge them.")
    if join not in ("inner", "outer"):
        raise ValueError(f"join={join!r}. Allowed: 'inner', genes of all sources, and 'outer', genes of any.")
    for name, adata in sources.items():
        label = f"sources[{name!r}]"
        check_in_memory(adata, name=label)
        check_not_empty(adata, name=label)
        check_layer(adata, layer, name=label)
        check_unique_genes(adata.var_names, name=label)
        matrix = adata.X if layer is None else adata.layers[layer]
        if matrix is None:
            raise no_x(label)
        check_counts(
            matrix,
            name=f"{label}.X" if layer is None else f'{label}.layers["{layer}"]',
            genes=adata.var_names,
            cure=counts_cure(adata, layer, name=label),
        )
        if source_key in adata.obs:
            raise ValueError(
                f"{label}.obs already has a column {source_key!r}, which the name of the source would replace. Choose "
                "another source_key."
            )


def _measured_genes(adata: AnnData) -> pd.Index:
    return pd.Index(adata.var_names).astype(str)[~missing_genes(adata.var)]


def _check_shared(measured: Mapping[str, pd.Index], shared: pd.Index) -> None:
    """Sources that share hardly a gene are named differently, and their union would be two blocks."""
    if len(shared) >= min(MIN_SHARED_GENES, *map(len, measured.values())):
        return
    examples = "; ".join(f"{name!r}: {', '.join(genes[:3])}" for name, genes in measured.items())
    raise ValueError(
        f"The sources share {len(shared)} genes; at least {MIN_SHARED_GENES} are needed. Their genes look like {examples}. "
        "Likely causes: gene symbols here and Ensembl ids there, different species, or panels that do not overlap. Set "
        "var_names of all to the same naming, or leave out the source that does not fit."
    )


def _unique_names(sources: Mapping[str, AnnData]) -> dict[str, np.ndarray]:
    """Names of the cells of every source, none of which occurs twice."""
    pairs = [(str(cell), source) for source, adata in sources.items() for cell in adata.obs_names]
    names = pd.Index([cell for cell, _ in pairs])
    if not names.is_unique:
        # numbered where the names of one source repeat
        names = make_index_unique(pd.Index([f"{cell}-{source}" for cell, source in pairs]))
    ends = np.cumsum([adata.n_obs for adata in sources.values()])
    return dict(zip(sources, np.split(names.to_numpy(), ends[:-1]), strict=True))


def _warn_of_duplicates(parts: Mapping[str, AnnData], shared: pd.Index) -> None:
    """Say how many cells have a twin, with the same count of every shared gene, in another source."""
    weights = np.random.default_rng(0).uniform(1.0, 2.0, size=(len(shared), 2))
    frames = []
    for name, part in parts.items():
        counts = sp.csr_matrix(part[:, shared].X)
        counts.sort_indices()  # sums in one order: of equal cells both are equal to the last digit
        frames.append(pd.DataFrame(counts.astype(np.float64) @ weights).assign(source=name))
    cells = pd.concat(frames, ignore_index=True)
    cells = cells[cells[0] > 0]  # empty cells are all alike
    n_sources = cells.groupby([0, 1])["source"].transform("nunique")
    n_twins = cells.loc[n_sources > 1, "source"].value_counts()
    if len(n_twins):
        warn(
            f"Cells with the same count of every shared gene occur in several sources: "
            f"{', '.join(f'{number} of {name!r}' for name, number in n_twins.items())}. If a data set is in two sources, "
            "leave it out of one: copies of a cell on both sides of a split make any test too optimistic."
        )
