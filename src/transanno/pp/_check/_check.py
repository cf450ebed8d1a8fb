"""One look at data before a model sees them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from transanno.checks._data import check_layer, check_not_empty
from transanno.data._align_counts import AlignedCounts
from transanno.data._counts import MatrixCounts, in_memory
from transanno.data._find_counts import CountsSource
from transanno.data._find_names import find_names
from transanno.data._gene_ids import GeneIds, gene_ids, map_names, other_features
from transanno.data._labels import as_strings
from transanno.data._layers import lacks_layer
from transanno.data._lazy import with_tables
from transanno.data._match_genes import GeneMatch, match_genes, missing_genes
from transanno.data._reference_names import named_as_query
from transanno.data._shared_genes import floor_for_reference
from transanno.pp._check._cells import batch_findings, cell_findings, copies_of, summarize_cells
from transanno.pp._check._overlap import Known, coverage, what_is_known
from transanno.pp._check._reference import label_findings, reference_findings
from transanno.pp._check._report import CheckReport, Finding
from transanno.pp._check._values import check_gene_names, is_in_unread_genes, look_at_values, our_warnings

if TYPE_CHECKING:
    from transanno.models import TransAnno, TransAnnoPretrain

# Types of which fewer of the deciding genes are measured are named.
_LOW_COVERAGE = 0.5
_N_NAMED = 5


def check(
    adata: AnnData,
    reference_or_model: AnnData | TransAnno | TransAnnoPretrain | str | Path | None = None,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    mapping: Mapping[str, str] | pd.Series | pd.DataFrame | None = None,
    fix: bool = False,
) -> CheckReport:
    """Look at data as a model will: scale, genes, cells, batches, and what they share with a reference or a model.

    Models repair what is certain by themselves, with a warning; this says beforehand what they will do, what they
    will refuse, and what only you can judge. All values are read, a few thousand cells at a time.

    Parameters
    ----------
    adata
        Cells, in memory or backed; not changed.
    reference_or_model
        Labeled cells, a trained model, or the folder or name of one, to compare genes and cells with. Of labeled cells, values,
        names of genes, labels and batches are judged as well, as :func:`transanno.tl.annotate` does.
    layer
        Layer of raw counts, in ``adata`` and, if it has the layer, in the reference. Default: ``X``.
    batch_key
        Column of ``obs`` with technical batches; ``adata`` may lack it.
    labels_key
        Column of the reference's ``obs`` with the cell types, for the genes that decide each of them. A model knows it. If
        ``adata`` has the column, types that coincide with batches are found.
    mapping
        Other names of genes: a dictionary, Series or table of two columns, old and new names, such as symbols and Ensembl
        ids, or mouse genes and their human orthologs. Genes that it has several partners for keep their name.
    fix
        Put a repaired copy into the report, as ``report.adata``: raw counts in place of the values, genes under the names
        of the reference, and no features beside genes. Cells are never removed.

    Returns
    -------
    Findings as a table, and what they rest on.

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData, or ``reference_or_model`` or ``mapping`` is none of the above.
    ValueError
        If there are no cells or genes, or a library cannot read the values.
    KeyError
        If there is no such layer, or the reference has no such column.

    Examples
    --------
    >>> report = transanno.pp.check(query, reference, labels_key="cell_type")
    >>> print(report)
    >>> report.class_coverage.sort_values("share")
    >>> query = transanno.pp.check(query, "model/", fix=True).adata
    """
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"adata is a {type(adata).__name__}, but an AnnData is needed. Of a MuData, pass the modality that holds the "
            'counts, for example mdata["rna"].'
        )
    check_not_empty(adata, name="adata")
    check_gene_names(adata, name="adata")
    if batch_key is not None and not isinstance(batch_key, str):
        from transanno.checks._arguments import one_column  # which loads torch

        batch_key = one_column(batch_key, argument="batch_key")
    reference_layer, named, first = None, reference_or_model, []
    if isinstance(reference_or_model, AnnData):
        reference = with_tables(reference_or_model)
        check_gene_names(reference, name="reference")
        # Reference and query need not keep their counts in layers of the same name.
        reference_layer = layer if layer in reference.layers else None
        if layer not in adata.layers and reference_layer is not None:
            first, layer = [Finding("layer", "note", lacks_layer(layer, "adata"))], None
        with our_warnings() as warned:
            named = named_as_query(reference, adata.var)
        first += [Finding("gene naming", "note", text) for text in warned]
        if labels_key is not None:
            first += label_findings(reference, labels_key)
    check_layer(adata, layer, name="adata")
    known = None if named is None else what_is_known(named, layer=reference_layer, labels_key=labels_key)

    source, scale_finding, is_usable = look_at_values(adata, layer, name="adata")
    findings, fixes = [scale_finding, *first], [] if source.note is None else [source.note]
    is_other = other_features(source.var)
    var = source.var
    if mapping is not None:
        mapped, n_mapped = map_names(var.index, mapping)
        var = var.set_axis(mapped)
        fixes.append(f"{n_mapped} of {len(mapped)} genes were renamed by the given mapping.")
    ids = gene_ids(var.index[~is_other])
    findings += _gene_findings(var, ids, is_other)

    names, match, table = var.index, None, None
    if known is not None:
        match, names, found = _compare_genes(var, known, fixes)
        findings += found
        if not is_usable and is_in_unread_genes(source, match, known):
            cure = f"the {known.what} does not read the genes that are concerned; remove them all the same"
            findings[0] = Finding("scale", "warning", scale_finding.found, cure)
        if isinstance(named, AnnData):
            read = match.vocabulary[~match.is_missing] if match.n_shared else known.genes
            findings += reference_findings(named, read, layer=reference_layer, batch_key=batch_key)
        is_other &= ~np.asarray(names.isin(known.genes))  # a model may have been set up with proteins
        if known.deciding is not None:
            table = coverage(known.deciding, set(match.vocabulary[~match.is_missing]))
            findings.append(_coverage_finding(table))

    if is_other.any():
        fixes.append(f"{np.count_nonzero(is_other)} features that are no genes were left out.")
    batch = None if batch_key not in adata.obs else as_strings(adata.obs[batch_key], missing="missing")
    cells = pd.DataFrame(columns=["total", "n_genes", "is_empty", "is_near_empty", "is_outlier", "is_duplicate"])
    if is_usable:
        cells = summarize_cells(source.counts, ~is_other, batch).set_axis(adata.obs_names.astype(str))
        findings += cell_findings(cells, int(np.count_nonzero(~is_other)))
        if match is not None and known is not None and known.counts is not None and match.n_shared:
            own = _is_same_object(adata, reference_or_model)
            findings.append(_duplicates(cells, source, match, known, own))
    findings += batch_findings(adata, batch_key, labels_key)

    restored = source.restored
    is_inexact = np.zeros(adata.n_obs, dtype=bool) if restored is None else restored.is_inexact
    return CheckReport(
        findings=tuple(findings),
        n_obs=adata.n_obs,
        n_vars=adata.n_vars,
        scale=None if source.scale is None else str(source.scale),
        restored=restored is not None,
        is_inexact=pd.Series(is_inexact, index=adata.obs_names.astype(str)),
        gene_ids=str(ids),
        species=ids.species,
        n_shared_genes=None if match is None else match.n_shared,
        n_reference_genes=None if known is None else len(known.genes),
        class_coverage=table,
        cells=cells,
        adata=_repaired(adata, source, names, is_other, layer) if fix else None,
        fixes=tuple(fixes) if fix else (),
    )


def _gene_findings(var: pd.DataFrame, ids: GeneIds, is_other: np.ndarray) -> list[Finding]:
    severity, cure = "ok", ""
    if ids.kind == "mixed":
        severity, cure = "note", "only names that the model has, too, are used"
    findings = [Finding("gene names", severity, f"{ids}, such as {', '.join(var.index[~is_other][:3])}", cure)]  # type: ignore[arg-type]
    is_repeated = var.index[~is_other].duplicated(keep=False)
    if is_repeated.any():
        repeated = var.index[~is_other][is_repeated].unique()
        findings.append(
            Finding(
                "duplicated genes",
                "warning",
                f"{len(repeated)} names occur more than once, such as {', '.join(repeated[:3])}",
                "in a query their counts are summed, in a reference they are refused; give different genes different names",
            )
        )
    if is_other.any():
        shown = ", ".join(var.index[is_other][:3])
        text = f"{np.count_nonzero(is_other)} features are antibodies, hashtags or others beside genes, such as {shown}"
        findings.append(Finding("other features", "note", text, "models do not use them"))
    return findings


def _compare_genes(var: pd.DataFrame, known: Known, fixes: list[str]) -> tuple[GeneMatch, pd.Index, list[Finding]]:
    """-> match with the known genes, names in their spelling, findings; names that were changed go to ``fixes``."""
    names, notes, _ = find_names(var, known.genes, name="adata")
    findings = [Finding("gene naming", "warning", _about(note, known)) for note in notes]
    if not names.equals(var.index) and notes:
        fixes.append(f"genes are named as those of the {known.what}.")
    missing = missing_genes(var)
    floor = floor_for_reference(len(known.genes)) if known.what == "reference" else None
    try:
        with our_warnings() as warned:
            match = match_genes(names, known.genes, var=var, is_missing=missing, min_shared=floor, name="adata")
        problem = Finding("gene overlap", "warning", _about(" ".join(warned), known)) if warned else None
    except ValueError as error:
        match = _any_match(names, known.genes, missing)
        problem = Finding("gene overlap", "error", _about(str(error), known))
    share = match.n_shared / len(known.genes)
    found = f"{match.n_shared} of the {len(known.genes)} genes of the {known.what} are measured ({share:.0%})"
    return match, names, [*findings, problem or Finding("gene overlap", "ok", found)]


def _about(text: str, known: Known) -> str:
    """What is said of a model -> of what there is."""
    return text.replace("the model", f"the {known.what}")


def _any_match(names: pd.Index, genes: pd.Index, is_missing: np.ndarray) -> GeneMatch:
    """Match without a floor; genes that no name equals are missing."""
    positions = pd.Index(genes).astype(str).get_indexer(names)
    columns = np.flatnonzero(positions >= 0)
    return GeneMatch(pd.Index(genes), columns, positions[columns], len(names), [], is_missing[columns])


def _coverage_finding(table: pd.DataFrame) -> Finding:
    low = table[table["share"] < _LOW_COVERAGE].sort_values("share", kind="stable")
    if low.empty:
        least = table["share"].min()
        part = "all" if least == 1 else f"at least {least:.0%}"
        return Finding(
            "gene overlap by type", "ok", f"{part} of the genes that decide a type are measured, for each type"
        )
    named = ", ".join(f"{name} ({share:.0%})" for name, share in low["share"].head(_N_NAMED).items())
    more = f" and {len(low) - _N_NAMED} more" if len(low) > _N_NAMED else ""
    return Finding(
        "gene overlap by type",
        "warning",
        f"less than half of the genes that decide these types are measured: {named}{more}",
        "do not rely on calls of these types, nor on their absence; pass all measured genes",
    )


def _duplicates(cells: pd.DataFrame, source: CountsSource, match: GeneMatch, known: Known, own: bool) -> Finding:
    """-> whether cells of the reference are among these; flags them in ``cells``."""
    if own:
        return Finding("duplicated cells", "note", "these are the cells of the reference itself")
    counts = in_memory(AlignedCounts(source.counts, match, name="adata")).matrix
    measured = np.flatnonzero(~match.is_missing)
    assert known.counts is not None
    cells["is_duplicate"] = copies_of(counts[:, measured], sp.csr_matrix(known.counts[:, measured], dtype=np.float32))
    n_copies = int(cells["is_duplicate"].sum())
    if n_copies == 0:
        return Finding("duplicated cells", "ok", f"no cell has the same counts as one of the {known.what}")
    return Finding(
        "duplicated cells",
        "warning",
        f"{n_copies} cells have the same counts of all {len(measured)} shared genes as a cell of the {known.what}",
        "accuracy on these cells says nothing about new ones; report.cells.is_duplicate tells which",
    )


def _is_same_object(adata: AnnData, other: Any) -> bool:
    return other is adata or getattr(other, "adata", None) is adata


def _repaired(
    adata: AnnData, source: CountsSource, names: pd.Index, is_other: np.ndarray, layer: str | None
) -> AnnData:
    """-> copy with counts where the values were, the names of the reference, and genes only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
        copy = _with_counts(adata, source, layer)
        copy.var_names = names.astype(str)
        return copy[:, ~is_other].copy() if is_other.any() else copy


def _with_counts(adata: AnnData, source: CountsSource, layer: str | None) -> AnnData:
    if source.found is None:
        return adata.to_memory() if adata.isbacked else adata.copy()
    counts = source.counts
    matrix = _as_they_are(counts.matrix) if isinstance(counts, MatrixCounts) else in_memory(counts).matrix
    if not source.var.index.equals(adata.var_names.astype(str)):  # raw, with genes of its own
        copy = AnnData(matrix, obs=adata.obs.copy(), var=source.var.copy(), uns=dict(adata.uns))
        for key, value in adata.obsm.items():
            copy.obsm[key] = value.copy()
    else:
        copy = adata.to_memory() if adata.isbacked else adata.copy()
        if layer is not None:
            copy.layers[layer] = matrix
            return copy
        copy.X = matrix
    copy.uns.pop("log1p", None)  # scanpy's note that X is logged
    return copy


def _as_they_are(matrix: Any) -> Any:
    """-> a copy in memory."""
    return matrix.copy() if isinstance(matrix, np.ndarray) or sp.issparse(matrix) else matrix.to_memory()
