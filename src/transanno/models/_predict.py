"""A model's cells through its network, once, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from transanno.data._labels import as_strings
from transanno.data._positions import as_positions
from transanno.predictions._predict import Asked, Judge
from transanno.predictions._result import Predictions
from transanno.training._minibatches import Minibatch

if TYPE_CHECKING:
    from transanno.models._transanno import TransAnno


def predict_cells(
    model: TransAnno,
    adata: AnnData | MuData | None,
    indices: Sequence[int] | None,
    asked: Asked,
    *,
    batch_size: int | None = None,
    dataloader: Iterable[Minibatch] | None = None,
) -> tuple[Predictions, Any]:
    """Every cell through the network once -> predictions, and the user's object, None with a ``dataloader``."""
    asked.check(model.labels)
    model._check_if_trained()
    judge, needs_all = judge_of(model), {"refine": asked.refine, "keep_known": asked.keep_known}
    needs_all |= {"fdr": asked.fdr is not None, "sets": asked.sets}
    target, cells, known, axes = None, None, None, None
    if dataloader is not None:
        if adata is not None or indices is not None:
            raise ValueError("Both dataloader and adata or indices are given. Pass one of them.")
        if any(needs_all.values()):
            names = " and ".join(name for name, is_asked in needs_all.items() if is_asked)
            raise ValueError(f"{names} need the data set of the cells. Pass adata instead of dataloader.")
        outputs = model._run_minibatches(dataloader)
        positions = np.arange(len(outputs.logits))
        obs_names = pd.RangeIndex(len(positions)).astype(str)
    else:
        if needs_all["fdr"] or needs_all["sets"]:
            judge.check_is_calibrated(asked)
        target, cells = model._resolve(adata)
        positions, obs_names = as_positions(indices, target.n_obs), target.obs_names
        if needs_all["fdr"]:
            axes = judge.axes
        outputs = model._run(cells, positions, batch_size, axes=axes)
        known = _known_codes(model, cells.obs)[positions] if asked.keep_known else None
    return judge.predictions(outputs, cells, positions, obs_names, known, asked), target


def write_predictions(
    model: TransAnno, predictions: Predictions, target: AnnData | MuData, key_added: str, asked: Asked
) -> None:
    """Write into ``obs`` of the target; of its own cells, the model remembers what was asked for."""
    predictions.write(target, key_added)
    if model._owns(target):
        model._asked[key_added] = asked


def judge_of(model: TransAnno) -> Judge:
    return Judge(
        model.labels,
        model._is_gene,
        model.genes.to_numpy(),
        model.calibration_,
        model.novelty_space_,
        novelty_table(model),
        model.label_colors_,
    )


def novelty_table(model: TransAnno) -> np.ndarray | None:
    """-> gene embeddings ``(n_genes, width)``, or None where cell states do not depend on other cells."""
    encoder = model.module.encoder
    return None if encoder.has_gene_tokens else encoder.gene_embedding.detach().cpu().numpy()[model._is_gene]


def _known_codes(model: TransAnno, obs: pd.DataFrame) -> np.ndarray:
    """-> position among the model's types of every cell's label ``(n_obs,)``, -1 for cells without one."""
    key = model._spec.labels_key
    if key not in obs:
        return np.full(len(obs), -1)
    labels = as_strings(obs[key], missing=model.registry["setup_args"]["unlabeled_category"])
    return pd.Index(model.labels, dtype=object).get_indexer(pd.Index(labels, dtype=object))
