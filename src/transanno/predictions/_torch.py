"""The network of torch as a backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor
from torch.nn import functional as F

from transanno._constants import N_PRIOR_CELLS
from transanno.nn import sparse_rows, sum_over_cells, sum_over_genes
from transanno.predictions._run import Cells, Outputs, center_cells


class TorchBackend:
    """Counts -> outputs of a module, deterministic and without gradients.

    Parameters
    ----------
    module
        A :class:`~transanno.training._module.TransAnnoModule`.
    center
        Mean log-expression of the data set that cells are of ``(n_vars,)``. Default: that of the reference.
    axes
        What log-expression is projected on ``(n_vars, width)``. Default: nothing.
    """

    is_stateless = True

    def __init__(self, module: Any, *, center: Tensor | None = None, axes: np.ndarray | None = None) -> None:
        self.module, self.center, self.device = module, center, module.device
        # What is left of the last column says which cells are empty.
        axes = np.zeros((len(module.mean_expression), 0)) if axes is None else axes
        self.axes = F.pad(torch.from_numpy(axes).float(), (0, 1), value=1.0).to(self.device)

    def __call__(self, counts: sp.csr_matrix, batch: np.ndarray, is_missing: np.ndarray) -> Outputs:
        """Counts ``(n_cells, n_vars)``, batch codes ``(n_cells,)``, genes that the data lack ``(n_vars,)`` -> outputs."""
        return self.infer(as_minibatch(self.module, counts, batch), is_missing)

    def infer(self, tensors: dict[str, Tensor], is_missing: np.ndarray) -> Outputs:
        """The same of a minibatch."""
        module = self.module
        module.eval()
        with torch.inference_mode():
            found = module.inference(
                tensors[REGISTRY_KEYS.X_KEY], tensors[REGISTRY_KEYS.BATCH_KEY],
                torch.from_numpy(is_missing).to(self.device), self.center,
            )  # fmt: skip
            products = sum_over_genes(found["expression"], self.axes)
        parts = found.get("logits", products[:, :0]), found["z"], products
        logits, z, projected = (values.float().cpu().numpy() for values in parts)
        return Outputs(logits, z, projected[:, :-1], projected[:, -1] == 0)

    def run_minibatches(self, minibatches: Iterable[dict[str, Tensor]], is_missing: np.ndarray) -> Outputs:
        """Minibatches of a loader of the user's -> outputs of all their cells."""
        parts = [self.infer(tensors, is_missing) for tensors in minibatches]
        return Outputs(*map(np.concatenate, zip(*parts, strict=True)))


def as_minibatch(module: Any, counts: sp.csr_matrix, batch: np.ndarray, *, sparse: bool = True) -> dict[str, Tensor]:
    """Counts and batch codes of some cells -> tensors; sparse where the encoder reads that and it pays, on a CPU.

    A GPU is sent sparse counts and fills in the zeros itself: nine tenths of what would have to travel are zeros.
    """
    device, is_gpu = module.device, module.device.type == "cuda"
    x = as_tensor(counts, sparse=sparse and (is_gpu or (module.encoder.reads_sparse and device.type == "cpu")))
    return {
        REGISTRY_KEYS.X_KEY: x.to(device).to_dense() if is_gpu else x,
        REGISTRY_KEYS.BATCH_KEY: torch.from_numpy(batch.astype(np.int64))[:, None],
    }


def as_tensor(counts: sp.csr_matrix, *, sparse: bool) -> Tensor:
    """Counts -> float32 tensor, sparse CSR or dense."""
    if not sparse:
        return torch.from_numpy(counts.toarray().astype(np.float32, copy=False))
    # anndata reads files with 64-bit offsets beside 32-bit positions; torch wants one type.
    rows, genes = counts.indptr.astype(counts.indices.dtype, copy=False), counts.indices
    values = counts.data.astype(np.float32, copy=False)
    return sparse_rows(*map(torch.from_numpy, (rows, genes, values)), n_vars=counts.shape[1])


def center_of(module: Any, cells: Cells, positions: np.ndarray) -> Tensor | None:
    """Mean log-expression ``(n_vars,)`` of some cells of a data set, drawn a little to that of the reference.

    None if no result of the module depends on it.
    """
    if not module.reads_center:
        return None
    sample, size = center_cells(positions), module.encoder.inference_batch_size
    total = N_PRIOR_CELLS * module.mean_expression
    is_masked = (torch.from_numpy(cells.is_missing).to(module.device) | module.is_other)[None, :]
    for start in range(0, len(sample), size):
        rows = sample[start : start + size]
        counts = as_minibatch(module, cells.counts.rows(rows), cells.batch[rows])[REGISTRY_KEYS.X_KEY]
        total = total + sum_over_cells(module.normalize(counts.to(module.device), is_masked))
    return total / (len(sample) + N_PRIOR_CELLS)
