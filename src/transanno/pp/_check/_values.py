"""What the values of some data are, and whether models accept them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from transanno.checks._data import first_line
from transanno.checks._warn import TransAnnoWarning, telling_nothing
from transanno.data._align_counts import AlignedCounts
from transanno.data._counts import MatrixCounts
from transanno.data._find_counts import CountsSource, read_counts
from transanno.data._match_genes import match_genes
from transanno.data._other_genes import OtherGenes
from transanno.data._restore import NoCounts, RestoredCounts
from transanno.pp._check._report import Finding

if TYPE_CHECKING:
    from anndata import AnnData

    from transanno.data._match_genes import GeneMatch
    from transanno.pp._check._overlap import Known

# What scipy raises for a matrix whose parts do not fit together.
READING_ERRORS = (ValueError, TypeError, IndexError, RuntimeError)


@contextmanager
def our_warnings() -> Iterator[list[str]]:
    """-> what this package warns of in this context, filled at its end; what others warn of is theirs to say, as ever."""
    said: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TransAnnoWarning)
            yield said
    finally:
        for warning in caught:
            if issubclass(warning.category, TransAnnoWarning):
                said.append(str(warning.message))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def check_gene_names(adata: AnnData, *, name: str) -> None:
    """Raise `ValueError` unless every gene has one name."""
    if isinstance(adata.var_names, pd.MultiIndex):
        raise ValueError(
            f"{name}.var_names has {adata.var_names.nlevels} levels (a MultiIndex). Allowed: one name per gene. Take one of them, "
            f"for example {name}.var_names = {name}.var_names.get_level_values(0)"
        )


def look_at_values(
    adata: AnnData, layer: str | None, *, name: str, genes: pd.Index | None = None
) -> tuple[CountsSource, Finding, bool]:
    """-> where counts are, what was found, and whether models accept them, or those of some ``genes``."""
    looked: list[CountsSource] = []

    def read(source: CountsSource) -> CountsSource:
        looked.append(source)
        _read_all(source, genes, name)
        return source

    try:
        with our_warnings() as warned:
            source = read_counts(adata, read, layer=layer, name=name)
    except READING_ERRORS as error:
        if not looked or not isinstance(error, ValueError | TypeError):
            raise unreadable(error, layer, name) from error
        said = [looked[-1].found, str(error)]
        return looked[-1], Finding("scale", "error", ". ".join(filter(None, said))), False
    said = [text for text in (source.note, *warned[:1]) if text is not None]
    if not said:
        return source, Finding("scale", "ok", f"{source.where} holds {source.scale}"), True
    cure = "" if source.note is None else "models do this by themselves; fix=True gives you the counts"
    is_like_tpm = source.note is not None and not isinstance(source.counts, MatrixCounts | RestoredCounts)
    doubtful = bool(warned) or is_like_tpm or (source.restored is not None and source.restored.is_inexact.any())
    return source, Finding("scale", "warning" if doubtful else "note", " ".join(filter(None, said)), cure), True


def _read_all(source: CountsSource, genes: pd.Index | None, name: str) -> None:
    """Read the counts, of some genes as training does; what is wrong with them is raised."""
    aligned = None if genes is None else counts_of(source, genes, name=name)
    source.judge()
    for _ in source.checked(aligned, genes):
        pass


def counts_of(source: CountsSource, genes: pd.Index, *, name: str) -> AlignedCounts:
    """-> counts of some genes, read when they are asked for; :class:`NoCounts` if these are not among the source's."""
    if not genes.isin(source.var.index).all():
        raise NoCounts  # raw, where counts may be found, usually has more genes
    with telling_nothing():  # of repeated names, which a reference may not have
        match = match_genes(source.var.index, genes, name=name, min_shared=1)
    return AlignedCounts(source.counts, match, name=name)


def unreadable(error: Exception, layer: str | None, name: str) -> ValueError:
    """-> error for values that a library cannot read."""
    where = f"{name}.X" if layer is None else f'{name}.layers["{layer}"]'
    return ValueError(
        f"{where} cannot be read ({type(error).__name__}: {first_line(error)}). Allowed: a numpy array or a scipy sparse matrix of "
        "real numbers, such as float32. Make it again from where the counts come from; it may be damaged."
    )


def is_in_unread_genes(source: CountsSource, match: GeneMatch, known: Known) -> bool:
    """Whether what is wrong with the values is in genes that the reference or the model does not read."""
    if not match.n_shared or source.scale is None:
        return False
    others = OtherGenes(np.asarray(source.var.index.isin(known.others)))
    try:
        with telling_nothing():
            source.judge()
            for _ in source.checked(AlignedCounts(source.counts, match, others, "adata"), match.vocabulary):
                pass
    except (ValueError, TypeError):
        return False
    return True
