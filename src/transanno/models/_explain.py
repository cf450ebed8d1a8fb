"""Contributions of genes to a model's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from transanno.data._positions import as_positions
from transanno.evidence._attributions import BASELINES, attribute_cells, contrasts
from transanno.evidence._groups import as_groups, mean_probabilities
from transanno.nn import CellTypeHead
from transanno.predictions._run import Cells

if TYPE_CHECKING:
    from transanno.models._transanno import TransAnno


def attribute_groups(
    model: TransAnno,
    adata: Any,
    indices: Any,
    groupby: Any,
    label: str | None,
    against: str | None,
    baseline: str,
    n_steps: int,
    batch_size: int | None,
) -> pd.DataFrame:
    """See :meth:`transanno.TransAnno.get_gene_attributions`."""
    target, cells = model._resolve(adata)
    positions = as_positions(indices, target.n_obs)
    center = model._center(cells)
    logits = model._run(cells, positions, batch_size, center=center).logits
    if groupby is None:
        groupby = pd.Categorical(model.labels[logits.argmax(axis=1)], categories=model.labels)
    codes, groups = as_groups(groupby, target, positions)
    if label is None:
        explained = mean_probabilities(logits, codes, len(groups)).argmax(axis=1)
    else:
        explained = np.full(len(groups), code_of(model, label))
    found = attribute(
        model,     cells, positions[codes >= 0], codes[codes >= 0], explained, against, center=center, baseline=baseline,
        n_steps=n_steps, batch_size=batch_size,
    )  # fmt: skip
    index = pd.Index(groups, name=groupby if isinstance(groupby, str) else None)
    table = pd.DataFrame(found, index=index, columns=model.genes)
    table.attrs["labels"] = dict(zip(groups, model.labels[explained].tolist(), strict=True))
    return table


def attribute(
    model: TransAnno,
    cells: Cells,
    positions: np.ndarray,
    codes: np.ndarray,
    explained: np.ndarray,
    against: str | None,
    *,
    center: torch.Tensor | None,
    baseline: str = "average",
    n_steps: int = BASELINES["average"],
    batch_size: int | None = None,
) -> np.ndarray:
    """Cells, their groups ``(n_cells,)``, codes of labels ``(n_groups,)`` -> contributions ``(n_groups, n_genes)``."""
    found = attribute_cells(
        model.module,
        cells,
        positions,
        codes,
        contrasts(explained, None if against is None else code_of(model, against), len(model.labels)),
        center=center,
        baseline=baseline,
        n_steps=n_steps,
        batch_size=batch_size,
    )
    return found[:, model._is_gene]


def deciding_weights(model: TransAnno) -> np.ndarray | None:
    """-> how much every gene counts for every label ``(n_labels, n_genes)``, by the linear expert; None without one."""
    head = model.module.classifier
    if not isinstance(head, CellTypeHead):
        return None
    weights = head.linear_weight.cpu().numpy()[:, model._is_gene]
    # Weights are per unit of expression: a rare gene's is large and seldom used. The root of the mean stands for the spread.
    spread = model.module.mean_expression.sqrt().cpu().numpy()[model._is_gene]
    return (weights - weights.mean(axis=0)) * spread


def code_of(model: TransAnno, label: str) -> int:
    return int(np.flatnonzero(model.labels == label)[0])
