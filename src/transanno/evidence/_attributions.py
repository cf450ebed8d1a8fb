"""How much every gene contributes to the label of every group of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from transanno.evidence._explained import baseline_cells
from transanno.nn import CellReading, Context, attribute
from transanno.predictions._run import Cells
from transanno.predictions._torch import as_minibatch


@torch.no_grad()
def attribute_cells(
    module: Any,
    cells: Cells,
    positions: np.ndarray,
    codes: np.ndarray,
    contrast: np.ndarray,
    *,
    center: Tensor | None,
    baseline: str,
    n_steps: int,
    batch_size: int | None,
) -> np.ndarray:
    """Cells at ``positions``, their groups ``(n_cells,)``, what is explained of each group -> contributions ``(n_groups, n_vars)``.

    Means over the cells of a group, by integrated gradients from the ``baseline``. ``center`` is the mean of the data set.
    """
    module.eval()
    is_masked = (torch.from_numpy(cells.is_missing).to(module.device) | module.is_other)[None, :]
    start, context = _baseline(module, baseline, cells, is_masked), module.context(is_masked, center)
    total = torch.zeros(len(contrast), module.n_input, dtype=torch.float64)
    size = batch_size or module.encoder.gradient_batch_size
    for first in range(0, len(positions), size):
        part = slice(first, first + size)
        code = torch.from_numpy(codes[part])
        chosen = torch.from_numpy(contrast[codes[part]])
        found = _attribute(module, cells, positions[part], chosen, start, is_masked, context, n_steps=n_steps)
        total.index_add_(0, code, found.double().cpu())
    n_cells = torch.bincount(torch.from_numpy(codes), minlength=len(contrast))
    return (total / n_cells[:, None]).numpy()


def _attribute(
    module: Any,
    cells: Cells,
    positions: np.ndarray,
    contrast: Tensor,
    start: CellReading,
    is_masked: Tensor,
    context: Context,
    *,
    n_steps: int,
) -> Tensor:
    """A few cells, contrast of labels ``(n_cells, n_labels)``, baseline -> contributions ``(n_cells, n_vars)``."""
    tensors = as_minibatch(module, cells.counts.rows(positions), cells.batch[positions])
    expression = _expression(module, tensors, is_masked)
    end = CellReading(expression, module.encoder.read(expression, is_masked))
    batch = module.batch_embedding(tensors[REGISTRY_KEYS.BATCH_KEY].to(module.device).flatten())
    contrast = contrast.to(expression)
    return attribute(
        module.encoder, module.classifier, start, end, is_masked, batch, context, contrast, n_steps=n_steps
    )


def _baseline(module: Any, baseline: str, cells: Cells, is_masked: Tensor) -> CellReading:
    """-> the cell from which contributions start."""
    encoder = module.encoder
    stored: Tensor | None = None if encoder.has_gene_tokens else module.mean_expression
    if baseline == "silent":
        stored = torch.zeros_like(is_masked[0], dtype=torch.float32)
    if stored is not None:
        expression = stored[None, :].masked_fill(is_masked, 0.0)
        return CellReading(expression, encoder.read(expression, is_masked))
    # The bins of mean expression are not those of an average cell: here, readings are averaged.
    sample = baseline_cells(cells.counts.shape[0])
    mean: list[Tensor] = []
    for first in range(0, len(sample), encoder.inference_batch_size):
        rows = sample[first : first + encoder.inference_batch_size]
        tensors = as_minibatch(module, cells.counts.rows(rows), cells.batch[rows], sparse=False)
        expression = _expression(module, tensors, is_masked)
        parts = [expression, encoder.read(expression, is_masked)]
        parts = [part.sum(dim=0, keepdim=True) / len(sample) for part in parts]
        mean = [one + other for one, other in zip(mean, parts, strict=True)] if mean else parts
    return CellReading(*mean)


def _expression(module: Any, tensors: dict[str, Tensor], is_masked: Tensor) -> Tensor:
    expression = module.normalize(tensors[REGISTRY_KEYS.X_KEY].to(module.device), is_masked)
    return expression.to_dense() if expression.layout != torch.strided else expression
