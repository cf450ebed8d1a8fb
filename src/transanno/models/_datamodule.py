"""The cells of a Lightning data module of scvi-tools, as it hands them on for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from lightning import LightningDataModule
from scvi import REGISTRY_KEYS

from transanno.data._counts import CELLS_PER_BLOCK
from transanno.data._pieces import Piece, one_file
from transanno.models._registry import as_anndata_registry
from transanno.training._minibatches import Minibatch, training_minibatches, validation_minibatches


def is_data_module(value: object) -> bool:
    """Whether it is a data module that says what its minibatches are, as those of scvi-tools for Census, lamindb and annbatch do."""
    return isinstance(value, LightningDataModule) and hasattr(value, "registry")


@contextmanager
def data_module_in_one_file(data_module: Any, *, unlabeled_category: str) -> Iterator[AnnData]:
    """Data module -> cells of its training and validation minibatches, with the columns of labels and batches that it was given.

    Cells without a label have ``unlabeled_category``, whatever the module calls them.
    """
    data_module.setup("fit")
    registry = as_anndata_registry(data_module.registry, "", has_labels=True)
    assert registry is not None
    fields = {key: field["state_registry"] for key, field in registry["field_registries"].items()}
    genes = fields[REGISTRY_KEYS.X_KEY]["column_names"]
    n_obs = int(registry["field_registries"][REGISTRY_KEYS.X_KEY]["summary_stats"]["n_cells"])
    minibatches = chain(training_minibatches(data_module), validation_minibatches(data_module))
    # Minibatches are small, and a file is written faster in large pieces.
    pieces = _larger(_piece(minibatch, fields, registry["setup_args"], unlabeled_category) for minibatch in minibatches)
    with one_file(pieces, genes, layer=None, n_obs=n_obs) as adata:
        yield adata


def _piece(minibatch: Minibatch, fields: dict[str, Any], setup_args: dict[str, Any], unlabeled_category: str) -> Piece:
    obs = {}
    for field, argument in ((REGISTRY_KEYS.LABELS_KEY, "labels_key"), (REGISTRY_KEYS.BATCH_KEY, "batch_key")):
        if setup_args.get(argument) is None:
            continue
        codes = torch.as_tensor(minibatch[field]).flatten().long().cpu().numpy()
        names = np.asarray(fields[field]["categorical_mapping"], dtype=object)
        column = np.full(len(codes), None, dtype=object)
        is_known = codes < len(names)
        column[is_known] = names[codes[is_known]]
        if argument == "labels_key":
            column[~is_known | (column == setup_args["unlabeled_category"])] = unlabeled_category
        obs[setup_args[argument]] = column
    return _as_csr(torch.as_tensor(minibatch[REGISTRY_KEYS.X_KEY])), pd.DataFrame(obs)


def _as_csr(values: torch.Tensor) -> sp.csr_matrix:
    values = values.detach().cpu()
    if values.layout == torch.strided:
        return sp.csr_matrix(values.numpy())
    values = values.to_sparse_csr()
    parts = values.values().numpy(), values.col_indices().numpy(), values.crow_indices().numpy()
    return sp.csr_matrix(parts, shape=tuple(values.shape))


def _larger(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Pieces -> the same cells in pieces of at least :data:`CELLS_PER_BLOCK`, but for the last one."""
    held: list[Piece] = []
    for piece in chain(pieces, [None]):
        held += [] if piece is None else [piece]
        if held and (piece is None or sum(len(obs) for _, obs in held) >= CELLS_PER_BLOCK):
            counts, tables = zip(*held, strict=True)
            yield sp.vstack(counts, format="csr"), pd.concat(tables)
            held = []
