"""Contributions of genes to a model's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from transanno.data._positions import as_positions
from transanno.evidence._attributions import attribute_cells
from transanno.evidence._explained import BASELINES, Explained, code_of, contrasts
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
    explained = Explained.of(logits, model.labels, groupby, target, positions, label)
    is_used = explained.codes >= 0
    found = attribute(
        model,     cells, positions[is_used], explained.codes[is_used], explained.labels, against, center=center,
        baseline=baseline, n_steps=n_steps, batch_size=batch_size,
    )  # fmt: skip
    return explained.table(found, model.genes, model.labels, groupby)


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
        contrasts(explained, None if against is None else code_of(model.labels, against), len(model.labels)),
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
