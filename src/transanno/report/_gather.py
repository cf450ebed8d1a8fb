"""Annotated cells and the model that annotated them -> what a report says."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from anndata import AnnData
from mudata import MuData

from transanno.checks._warn import TransAnnoWarning
from transanno.data._cells import rna_modality
from transanno.data._lazy import with_tables
from transanno.metrics._table import format_examples
from transanno.models import TransAnno
from transanno.pp import CheckReport, check
from transanno.predictions._run import Cells
from transanno.report._calls import Calls
from transanno.report._confusions import expected_confusions
from transanno.report._contents import Contents, Origin
from transanno.report._facts import facts, numbers
from transanno.report._genes import HOW, deciding_genes
from transanno.report._groups import unknown_groups
from transanno.report._panels import draw_panels
from transanno.report._settings import arguments, code, versions
from transanno.report._umap import Placed, place
from transanno.training._seed import seeded

# What data raise that are not as a model, or a look at their values, needs them.
_UNFIT = (ValueError, KeyError, TypeError)


class _Mapped(NamedTuple):
    """The annotated cells as a model reads them."""

    model: TransAnno
    cells: Cells

    def states(self, positions: np.ndarray) -> np.ndarray:
        """Positions of cells -> their states ``(n_cells, n_latent)``."""
        return self.model._run(self.cells, positions).z


def gather(
    adata: AnnData | MuData,
    model: TransAnno | None,
    *,
    key_added: str,
    layer: str | None,
    title: str,
    origin: Origin,
    placed: Placed | str | None = None,
) -> Contents:
    """See :func:`transanno.tl.report`; the cells are only read, and placed unless it is said where they are."""
    calls = Calls.of(adata, key_added)
    if model is not None:
        _check_knows(model, calls, key_added)
    layer = _layer(adata, model, layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransAnnoWarning)  # said when the cells were annotated, and in the preflight
        preflight = _preflight(adata, model, layer)
        mapped = None if model is None else _map(adata, model, layer)
    genes, genes_note, states_of = {}, "No model was given, so it is not known which genes decided.", None
    if isinstance(mapped, str):
        genes_note = f"Which genes decided cannot be said: the counts are not as the model needs them. {mapped}"
    elif mapped is not None:
        genes, genes_note, states_of = deciding_genes(*mapped, calls.names), HOW, mapped.states
    placed = place(adata, states_of) if placed is None else placed
    confusions, confusions_note = expected_confusions(model, calls.types)
    groups, groups_note = unknown_groups(adata, calls, key_added)
    asked = model._asked.get(key_added) if model is not None and model._owns(adata) else None
    return Contents(
        title=title,
        facts=facts(adata, model, mapped.cells if isinstance(mapped, _Mapped) else None, calls, key_added, origin),
        numbers=numbers(calls),
        preflight=preflight,
        types=calls.rows(genes),
        genes_note=genes_note,
        panels=[] if isinstance(placed, str) else draw_panels(placed, calls),
        panels_note=placed if isinstance(placed, str) else placed.about,
        confusions=confusions,
        confusions_note=confusions_note,
        groups=groups,
        groups_note=groups_note,
        arguments=arguments(model, asked, key_added, layer),
        versions=versions(),
        code="" if model is None else code(origin, asked, key_added, layer),
    )


def _check_knows(model: TransAnno, calls: Calls, key_added: str) -> None:
    """Raise `ValueError` if cells are of types that the model does not have: another model has annotated them."""
    other = sorted(set(calls.types) - set(model.labels))
    if other:
        raise ValueError(
            f"obs[{key_added!r}] holds types that the model does not know: {format_examples(other)}. Pass the model that "
            "annotated these cells, the column that it wrote as key_added, or no model."
        )


def _layer(adata: AnnData | MuData, model: TransAnno | None, layer: str | None) -> str | None:
    """-> layer of the counts: what was named, else where the model has found or would look for them, if it is there."""
    if layer is not None or model is None:
        return layer
    if model._owns(adata) and model._attachment is not None and model._attachment.layer is not None:
        return model._attachment.layer
    try:
        return model._spec.layer if model._spec.layer in rna_modality(adata, model._spec, name="adata").layers else None
    except _UNFIT:  # the preflight says it
        return None


def _preflight(adata: AnnData | MuData, model: TransAnno | None, layer: str | None) -> CheckReport | str:
    """-> what a look at the values finds, or why there was none."""
    if isinstance(adata, MuData) and model is None:
        return "There was no look at the values: which modality holds the counts is known with a model only."
    try:
        if model is None:
            return check(with_tables(adata), layer=layer)  # type: ignore[arg-type]
        cells, batch_key = rna_modality(adata, model._spec, name="adata"), model._spec.batch_key
        return check(cells, model, layer=layer, batch_key=batch_key if batch_key in cells.obs else None)
    except _UNFIT as error:
        return f"There was no look at the values. {error.args[0]}"


def _map(adata: AnnData | MuData, model: TransAnno, layer: str | None) -> _Mapped | str:
    """-> the cells as a model reads them, or why it cannot."""
    try:
        if not model._owns(adata):
            with seeded(0):
                model = TransAnno.load_query_data(adata, model, unseen_labels="mask", layer=layer)
        return _Mapped(model, model._resolve(adata, only_some=True)[1])
    except _UNFIT as error:
        return str(error.args[0])
