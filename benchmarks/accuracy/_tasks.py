"""From accuracy.toml's description of a task to what methods see, and the labels that only the score sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from benchmarks._data import BATCH, LABEL, data_folder, load_side, on_shared_genes, read_pairs, read_studies
from benchmarks.accuracy._groups import Studies
from benchmarks.accuracy._methods import SELECTED, UNLABELED
from transanno.tl import select_genes

_SEED = 0  # of the draw of labels: part of the task, not of a run


@dataclass(frozen=True)
class Task:
    """Raw counts on the genes that both sides have, in the same order; ``var["selected"]`` marks those to use."""

    name: str
    reference: AnnData
    """``obs``: cell type, "Unknown" where a label is withheld, and batch"""
    query: AnnData
    """``obs``: batch, and no label"""
    truth: np.ndarray
    """``(n_query,)``, the query's types; never handed to a method"""

    @property
    def digest(self) -> str:
        """Hash of all that a result depends on, so that other data or other genes are another task."""
        found = hashlib.sha256()
        for side in (self.reference, self.query):
            counts = sp.csr_matrix(side.X)
            found.update(counts.data.astype(np.float32).tobytes())
            found.update(counts.indices.astype(np.int64).tobytes())
            found.update(counts.indptr.astype(np.int64).tobytes())
            found.update(json.dumps([side.obs[column].astype(str).tolist() for column in side.obs]).encode())
        genes = [self.reference.var_names.tolist(), self.reference.var[SELECTED].tolist()]
        found.update(json.dumps([genes, self.truth.tolist()]).encode())
        return found.hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Files for the methods; the query's labels are not in them."""
        self.reference.write_h5ad(folder / "reference.h5ad")
        self.query.write_h5ad(folder / "query.h5ad")


def make_task(name: str, definition: dict[str, Any], *, n_genes: int, one_batch: Sequence[str]) -> Task:
    """Description of a task -> the task, the same every time.

    A description names a ``pair`` of pairs.json (``reversed`` swaps its sides), or cells of a ``file`` (``within``
    restricts them) whose ``column`` has one of the values ``query``; the others are the reference. With ``label_fraction``
    or ``labels_per_type`` the other reference cells stay, without their labels.
    """
    both = [_constant_batch(side, file) if file in one_batch else side for side, file in _sides(**definition)]
    reference, query = on_shared_genes(*both)
    _withhold_labels(reference, definition.get("label_fraction"), definition.get("labels_per_type"))
    genes = select_genes(reference, n_top_genes=n_genes)
    reference.var = query.var = pd.DataFrame({SELECTED: reference.var_names.isin(genes)}, index=reference.var_names)
    truth = query.obs.pop(LABEL).to_numpy(dtype=object)
    return Task(name, reference, query, truth)


def check_studies(name: str, definition: dict[str, Any], named: Studies) -> None:
    """The config's studies, which reports read without the data, are those of the data."""
    if "pair" in definition:
        pair = read_pairs()[definition["pair"]]
        files = [pair[side]["file"] for side in ("ref", "query")][:: -1 if definition.get("reversed") else 1]
    else:
        files = [definition["file"]] * 2
    found = Studies(*map(read_studies().__getitem__, files))
    if found != named:
        raise ValueError(f"{name}: the config says {' -> '.join(named)}, studies.json says {' -> '.join(found)}.")


def _sides(
    *,
    pair: str | None = None,
    reversed: bool = False,
    file: str | None = None,
    column: str | None = None,
    query: Sequence[str] = (),
    within: dict[str, Sequence[str]] | None = None,
    **_: Any,
) -> tuple[tuple[AnnData, str], tuple[AnnData, str]]:
    """-> reference and query, each with the name of its file."""
    if pair is not None:
        found = read_pairs()[pair]
        first, second = (
            (_plain(load_side(found[side], found["label"]), LABEL, BATCH), found[side]["file"])
            for side in ("ref", "query")
        )
        return (second, first) if reversed else (first, second)
    assert file is not None and column is not None
    adata = ad.read_h5ad(data_folder() / file)
    for key, values in (within or {}).items():
        adata = adata[adata.obs[key].isin(values).to_numpy()]
    is_query = adata.obs[column].isin(query).to_numpy()
    if not is_query.any() or is_query.all():
        raise ValueError(f"{file}: {column} in {list(query)} holds {is_query.sum()} of {len(is_query)} cells.")
    return (_plain(adata[~is_query], LABEL, column), file), (_plain(adata[is_query], LABEL, column), file)


def _plain(adata: AnnData, label: str, batch: str) -> AnnData:
    """-> counts, label and batch, and nothing else."""
    obs = adata.obs[[label, batch]].astype(str).set_axis([LABEL, BATCH], axis=1)
    return AnnData(sp.csr_matrix(adata.X), obs=obs, var=pd.DataFrame(index=adata.var_names))


def _constant_batch(adata: AnnData, file: str) -> AnnData:
    adata.obs[BATCH] = Path(file).stem
    return adata


def _withhold_labels(reference: AnnData, fraction: float | None, per_type: int | None) -> None:
    """Keep the labels of a share of every type, at least one cell, or of a number of cells; the others are unknown."""
    if fraction is None and per_type is None:
        return
    rng = np.random.default_rng(_SEED)
    labels = reference.obs[LABEL].to_numpy(dtype=object)
    kept = np.full(len(labels), UNLABELED, dtype=object)
    for name in sorted(set(labels)):
        cells = np.flatnonzero(labels == name)
        n_kept = per_type if fraction is None else max(1, round(fraction * len(cells)))
        chosen = rng.permutation(cells)[:n_kept]
        kept[chosen] = name
    reference.obs[LABEL] = kept
