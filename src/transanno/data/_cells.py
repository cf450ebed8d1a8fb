"""A user's data as a model needs them: genes in the model's order, counts checked, nothing of theirs changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from transanno._constants import IS_MISSING_KEY, JUDGED_KEY, OTHER_GENES
from transanno.checks._data import check_layer, check_not_empty, check_not_repeated
from transanno.checks._progress import cells_bar
from transanno.checks._quiet import repeated_names
from transanno.checks._warn import telling_nothing
from transanno.data._align_counts import AlignedCounts
from transanno.data._check_counts import CheckedCounts, NotFiniteError
from transanno.data._counts import Counts, MatrixCounts, in_memory, is_large
from transanno.data._find_counts import CountsSource, read_counts
from transanno.data._find_names import find_names, say
from transanno.data._layers import lacks_layer
from transanno.data._lazy import with_tables
from transanno.data._match_genes import match_genes, missing_genes
from transanno.data._other_genes import OtherGenes
from transanno.data._positions import evenly_spread
from transanno.data._shared_genes import floor_for_reference

# Cells that are registered in the place of all of these.
_N_STAND_IN = 1000


@dataclass(frozen=True)
class DataSpec:
    """What a model was set up with, read from its registry."""

    vocabulary: pd.Index
    layer: str | None
    batch_key: str | None
    labels_key: str | None
    modality: str | None
    obs_modalities: dict[str, str | None]


@dataclass(frozen=True, eq=False)
class AlignedData:
    """Counts in the model's gene order, with the columns of ``obs`` that the model reads."""

    counts: Counts
    """``(n_obs, n_vars)``"""
    is_missing: np.ndarray
    """``(n_vars,)`` bool, True for genes that the data lack"""
    obs: pd.DataFrame
    spec: DataSpec

    def to_registrable(self) -> AnnData | MuData:
        """-> object that the model's ``setup_anndata`` or ``setup_mudata`` accepts, in memory."""
        counts = self.counts if isinstance(self.counts, MatrixCounts) else in_memory(self.counts)
        # The column tells the model, also of a copy that is saved and loaded, which genes to mask.
        var = pd.DataFrame({IS_MISSING_KEY: self.is_missing}, index=self.spec.vocabulary.astype(str))
        with repeated_names():
            adata = AnnData(X=counts.matrix, obs=self.obs.copy(), var=var, uns={JUDGED_KEY: True})
        if self.spec.layer is not None:
            adata.layers[self.spec.layer] = adata.X
        if self.spec.modality is None:
            return adata
        # Version 0.3 warns that 0.4 will no longer copy columns of modalities, and 0.4 has no such option.
        with mudata.set_options(pull_on_update=False) if hasattr(mudata, "set_options") else nullcontext():
            mdata = MuData({self.spec.modality: adata})
            mdata.obs = self.obs.copy()
        return mdata

    def stand_in(self) -> AlignedData:
        """-> some of the cells, in memory, among which are all batches and labels, and not only empty cells."""
        n_obs = len(self.obs)
        positions = evenly_spread(n_obs, _N_STAND_IN)
        if len(self.obs.columns):
            positions = np.union1d(positions, np.flatnonzero(~self.obs.duplicated()))
        counts = self.counts.rows(positions)
        if counts.nnz == 0:
            positions = np.union1d(positions, _first_filled(self.counts))
            counts = self.counts.rows(positions)
        return replace(self, counts=MatrixCounts(counts), obs=self.obs.iloc[positions])


def _first_filled(counts: Counts) -> int:
    """-> position of the first cell that has a count; there is one."""
    start = 0
    for block in counts.blocks():
        if block.nnz:
            return start + int(np.diff(block.indptr).argmax())
        start += block.shape[0]
    raise AssertionError("that all values are zero is found when they are checked")


def rna_modality(data: AnnData | MuData, spec: DataSpec, *, name: str) -> AnnData:
    """-> the AnnData that holds the counts."""
    if not isinstance(data, MuData):
        if not isinstance(data, AnnData):
            raise TypeError(
                f"{name} is a {type(data).__name__}. Allowed: AnnData, or MuData for a model set up with it."
            )
        return with_tables(data)
    if spec.modality is None:
        raise TypeError(
            f"{name} is a MuData, but the model was set up with an AnnData. Pass the modality that holds the counts, "
            f'for example mdata["{next(iter(data.mod), "rna")}"].'
        )
    if spec.modality not in data.mod:
        raise KeyError(f"{name} has no modality {spec.modality!r}, found: {', '.join(map(repr, data.mod))}.")
    return data.mod[spec.modality]


def align(
    data: AnnData | MuData,
    spec: DataSpec,
    *,
    shares: Mapping[str, float] | None = None,
    layer: str | None = None,
    name: str = "query",
    only_some: bool = False,
) -> AlignedData:
    """Match genes by name, check the counts, and take the obs columns that the model reads.

    ``shares`` are those of the reference's genes, see :class:`OtherGenes`. ``layer`` holds the raw counts of these data, where
    it is not the one that the model was set up with. Counts and names that can be repaired for sure are, in our copy and with
    a warning. Cells are read once, into memory; of a large query on disk they are looked at once, and read again when they are
    asked for. With ``only_some`` they are only read when they are asked for, unless they have to be restored, which is only known
    to be possible when all of them have been read.

    Raises
    ------
    ValueError
        If too few genes are shared, there are no cells, or the values are not raw counts.
    KeyError
        If the layer of raw counts is missing.
    """
    adata = rna_modality(data, spec, name=name)
    if layer is None and spec.layer is not None and spec.layer not in adata.layers:
        say([f"{lacks_layer(spec.layer, name)} The model was set up with it."])
    elif layer is None:
        layer = spec.layer
    check_not_empty(adata, name=name)
    check_layer(adata, layer, name=name, may_be_lazy=True)
    obs = read_obs(data, spec)

    def read(source: CountsSource) -> AlignedData:
        source.judge()
        try:
            aligned, notes, tell = _match(source, spec.vocabulary, shares, name)
        except ValueError:
            say([source.found])  # of raw, for example, whose genes are others
            raise
        if only_some and isinstance(source.counts, MatrixCounts):
            counts: Counts = CheckedCounts(aligned, partial(_checked, source, aligned, spec.vocabulary))
        elif aligned.is_on_disk and is_large(aligned.shape):
            with cells_bar("Checking", aligned.shape[0], is_long=True) as bar:
                # What is wrong is said before minutes go into the cells before it.
                for block in _checked(source, aligned, spec.vocabulary):
                    bar.update(block.shape[0])
            counts = aligned
        else:
            counts = in_memory(aligned, _checked(source, aligned, spec.vocabulary))
        say([source.note, *notes], tell)
        is_missing = aligned.match.is_missing
        return AlignedData(counts, is_missing if aligned.others is None else np.append(is_missing, False), obs, spec)

    return read_counts(adata, read, layer=layer, name=name)


def check_query(query: AnnData, genes: Iterable[str], *, layer: str | None) -> pd.Index:
    """Raise what mapping the query would raise for its counts, before minutes go into training.

    ``genes`` are those of the reference. Returned are those that the query measured.
    """
    check_not_empty(query, name="query")
    check_layer(query, layer, name="query")
    vocabulary = pd.Index(genes).astype(str)

    def read(source: CountsSource) -> pd.Index:
        source.judge()
        aligned, _, _ = _match(source, vocabulary, None, "query", min_shared=floor_for_reference(len(vocabulary)))
        for _ in _checked(source, aligned, vocabulary):
            pass
        return vocabulary[~aligned.match.is_missing]

    with telling_nothing():  # training and prediction warn of the same
        try:
            return read_counts(query, read, layer=layer, name="query")
        except ValueError as error:
            raise ValueError(str(error).replace("the model", "the reference")) from error


def _match(
    source: CountsSource,
    vocabulary: pd.Index,
    shares: Mapping[str, float] | None,
    name: str,
    *,
    min_shared: int | None = None,
) -> tuple[AlignedCounts, list[str], list[str]]:
    """-> counts on the vocabulary, read when asked for, and what there is to say about names."""
    is_missing = missing_genes(source.var)
    adds_others = OTHER_GENES in vocabulary and OTHER_GENES not in source.var.index
    genes = vocabulary[:-1] if adds_others else vocabulary
    names, notes, tell = find_names(source.var, genes, name=name)
    match = match_genes(names, genes, var=source.var, is_missing=is_missing, min_shared=min_shared, name=name)
    others = OtherGenes.of(names, is_missing, genes, shares) if adds_others else None
    return AlignedCounts(source.counts, match, others, name), notes, tell


def _checked(source: CountsSource, aligned: AlignedCounts, genes: pd.Index) -> Iterator[sp.csr_matrix]:
    """Blocks of aligned counts; what is wrong with the values is said of the genes that the user's data have."""
    try:
        yield from source.checked(aligned, genes)
    except NotFiniteError as error:
        if aligned.others is None:
            raise
        for _ in source.checked():  # names those that are summed as other genes
            pass
        raise ValueError(
            f"The counts of some cell of {source.where} add up to more than float32 holds. Raw counts are numbers of molecules: "
            "pass these, or remove the cell."
        ) from error


def read_obs(data: AnnData | MuData, spec: DataSpec) -> pd.DataFrame:
    """-> names of the cells, and the columns of batches and labels that there are, as they are."""
    adata = rna_modality(data, spec, name="data")
    obs = pd.DataFrame(index=pd.Index(adata.obs_names.astype(str), dtype=object))
    for argument, key in (("batch_key", spec.batch_key), ("labels_key", spec.labels_key)):
        if key is None:
            continue
        source = data.obs if isinstance(data, MuData) else adata.obs
        if isinstance(data, MuData) and spec.obs_modalities[argument] is not None:
            source = data.mod[spec.obs_modalities[argument]].obs
        if key in source:
            check_not_repeated(source, key, name="data")
            obs[key] = source[key].astype(object).to_numpy()
    return obs
