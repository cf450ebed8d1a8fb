"""What the network predicts from a cell state: its type, and the expression of hidden genes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CellTypeHead(nn.Module):
    """cell state ``(n_obs, n_latent)`` -> logits ``(n_obs, n_labels)``."""

    def __init__(self, *, n_latent: int, n_labels: int, dropout_rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.to_logits = nn.Linear(n_latent, n_labels)

    def forward(self, cell_state: Tensor) -> Tensor:
        """cell state ``(n_obs, n_latent)`` -> logits ``(n_obs, n_labels)``."""
        return self.to_logits(self.dropout(F.gelu(cell_state)))


class ExpressionHead(nn.Module):
    """cell state ``(n_obs, n_latent)``, batch ``(n_obs,)`` -> bin logits ``(n_obs, n_genes, n_bins)``.

    The logit of bin b for gene g is :math:`h_b(z, batch) \\cdot d_g + c_{gb}`: one small projection
    per bin and one embedding per gene, so that any subset of genes can be predicted without
    computing the rest. The batch enters here so that the cell state need not encode it.
    """

    def __init__(self, *, n_latent: int, n_hidden: int, n_vars: int, n_bins: int) -> None:
        super().__init__()
        self.n_bins = n_bins
        self.to_bins = nn.Sequential(
            nn.Linear(n_latent + n_hidden, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_bins * n_hidden)
        )
        self.gene_embedding = nn.Parameter(0.1 * torch.randn(n_vars, n_hidden))
        self.gene_bias = nn.Parameter(torch.zeros(n_vars, n_bins))

    def forward(self, cell_state: Tensor, batch_embedding: Tensor, genes: Tensor) -> Tensor:
        """State ``(n_obs, n_latent)``, batch ``(n_obs, n_hidden)``, genes ``(n_genes,)`` -> bin logits.

        Returns ``(n_obs, n_genes, n_bins)``.
        """
        bins = self.to_bins(torch.cat([cell_state, batch_embedding], dim=1))
        bins = bins.view(len(cell_state), self.n_bins, -1)
        return (bins @ self.gene_embedding[genes].T).transpose(1, 2) + self.gene_bias[genes]
