"""A user's data as a model needs them: genes in the model's order, counts checked, nothing of theirs changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS

from transanno._constants import IS_MISSING_KEY, JUDGED_KEY, OTHER_GENES
from transanno.checks._data import check_layer, check_not_empty
from transanno.data._find_counts import check_found, find_counts, find_names, judge_source, say
from transanno.data._layers import lacks_layer
from transanno.data._match_genes import align_counts, match_genes, missing_genes
from transanno.data._other_genes import count_other_genes
from transanno.data._restore import row_chunks
from transanno.data._shared_genes import floor_for_reference


@dataclass(frozen=True)
class DataSpec:
    """What a model was set up with, read from its registry."""

    vocabulary: pd.Index
    layer: str | None
    batch_key: str | None
    labels_key: str | None
    modality: str | None
    obs_modalities: dict[str, str | None]

    @classmethod
    def from_registry(cls, registry: dict[str, Any]) -> DataSpec:
        """Registry of an scvi-tools model -> spec."""
        setup_args = registry["setup_args"]
        modalities = setup_args.get("modalities") or {}
        genes = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"]
        return cls(
            vocabulary=pd.Index(np.asarray(genes).astype(str), dtype=object),
            layer=setup_args.get("rna_layer", setup_args.get("layer")),
            batch_key=setup_args.get("batch_key"),
            labels_key=setup_args.get("labels_key"),
            modality=modalities.get("rna_layer"),
            obs_modalities={"batch_key": modalities.get("batch_key"), "labels_key": modalities.get("labels_key")},
        )


@dataclass(frozen=True)
class AlignedData:
    """Counts in the model's gene order, with the columns of ``obs`` that the model reads."""

    counts: sp.csr_matrix
    """``(n_obs, n_vars)``, float32"""
    is_missing: np.ndarray
    """``(n_vars,)`` bool, True for genes that the data lack"""
    obs: pd.DataFrame
    spec: DataSpec

    def to_registrable(self) -> AnnData | MuData:
        """-> object that the model's ``setup_anndata`` or ``setup_mudata`` accepts."""
        # The column tells the model, also of a copy that is saved and loaded, which genes to mask.
        var = pd.DataFrame({IS_MISSING_KEY: self.is_missing}, index=self.spec.vocabulary.astype(str))
        adata = AnnData(X=self.counts, obs=self.obs.copy(), var=var, uns={JUDGED_KEY: True})
        if self.spec.layer is not None:
            adata.layers[self.spec.layer] = adata.X
        if self.spec.modality is None:
            return adata
        # Version 0.3 warns that 0.4 will no longer copy columns of modalities, and 0.4 has no such option.
        with mudata.set_options(pull_on_update=False) if hasattr(mudata, "set_options") else nullcontext():
            mdata = MuData({self.spec.modality: adata})
            mdata.obs = self.obs.copy()
        return mdata


def rna_modality(data: AnnData | MuData, spec: DataSpec, *, name: str) -> AnnData:
    """-> the AnnData that holds the counts."""
    if not isinstance(data, MuData):
        if not isinstance(data, AnnData):
            raise TypeError(
                f"{name} is a {type(data).__name__}. Allowed: AnnData, or MuData for a model set up with it."
            )
        return data
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
) -> AlignedData:
    """Match genes by name, check the counts, and take the obs columns that the model reads.

    ``shares`` are those of the reference's genes, see :func:`count_other_genes`. ``layer`` holds the raw counts of these
    data, where it is not the one that the model was set up with. Counts and names that can be repaired for sure are, in our copy and with a warning.

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
    check_layer(adata, layer, name=name)
    counts, is_missing = _read(adata, spec.vocabulary, shares=shares, layer=layer, name=name)
    return AlignedData(counts, is_missing, _read_obs(data, adata, spec), spec)


def check_query(query: AnnData, genes: Iterable[str], *, layer: str | None) -> pd.Index:
    """Raise what mapping the query would raise for its counts, before minutes go into training.

    ``genes`` are those of the reference. Returned are those that the query measured.
    """
    check_not_empty(query, name="query")
    check_layer(query, layer, name="query")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # training and prediction warn of the same
        vocabulary = pd.Index(genes).astype(str)
        try:
            n_required = floor_for_reference(len(vocabulary))
            _, is_missing = _read(query, vocabulary, layer=layer, name="query", min_shared=n_required)
        except ValueError as error:
            raise ValueError(str(error).replace("the model", "the reference")) from error
    return vocabulary[~is_missing]


def _read(
    adata: AnnData,
    vocabulary: pd.Index,
    *,
    shares: Mapping[str, float] | None = None,
    layer: str | None,
    name: str,
    min_shared: int | None = None,
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Counts in the order of the vocabulary ``(n_obs, n_vocabulary)``, repaired and checked, and which genes they lack."""
    is_missing = missing_genes(adata.var)
    source = find_counts(adata, layer=layer, name=name)
    judge_source(source, adata, layer, name=name)
    var = source.adata.var
    if source.adata is not adata:
        is_missing = missing_genes(var)
    adds_others = OTHER_GENES in vocabulary and OTHER_GENES not in var.index
    genes = vocabulary[:-1] if adds_others else vocabulary
    names, warn, tell = find_names(var, genes, name=name)
    say([source.note, *warn], tell)
    match = match_genes(names, genes, var=var, is_missing=is_missing, min_shared=min_shared, name=name)
    counts = align_counts(source.adata, match, layer=source.layer, name=name)
    check_found(counts, source, adata, layer, name=name, genes=genes)
    if not adds_others:
        return counts, match.is_missing
    others = count_other_genes(source.adata, names, is_missing, counts, genes, shares, layer=source.layer)
    if not np.isfinite(others).all() or others.min() < 0:  # of which the genes of the vocabulary know nothing
        whole = sp.vstack([chunk for _, chunk in row_chunks(source.matrix)], format="csr")
        check_found(whole, source, adata, layer, name=name, genes=pd.Index(source.adata.var_names))
    if others.max() > np.finfo(np.float32).max:
        raise ValueError(
            f"The counts of cell {int(others.argmax())} of {name} add up to {others.max():.3g}, more than float32 holds. Raw counts "
            "are numbers of molecules: pass these, or remove the cell."
        )
    counts = sp.hstack([counts, sp.csr_matrix(others[:, None])], format="csr", dtype=np.float32)
    return counts, np.append(match.is_missing, False)


def _read_obs(data: AnnData | MuData, adata: AnnData, spec: DataSpec) -> pd.DataFrame:
    obs = pd.DataFrame(index=pd.Index(adata.obs_names.astype(str), dtype=object))
    for argument, key in (("batch_key", spec.batch_key), ("labels_key", spec.labels_key)):
        if key is None:
            continue
        source = data.obs
        if isinstance(data, MuData) and spec.obs_modalities[argument] is not None:
            source = data.mod[spec.obs_modalities[argument]].obs
        if key in source:
            obs[key] = source[key].astype(object).to_numpy()
    return obs
