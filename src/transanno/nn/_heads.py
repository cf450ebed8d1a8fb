"""What the network predicts from a cell state: its type, and the expression of hidden genes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transanno.nn._expression import sum_over_genes


class CellTypeHead(nn.Module):
    """cell state ``(n_obs, n_latent)`` & expression ``(n_obs, n_vars)`` -> logits ``(n_obs, n_labels)``.

    Beside the cell state there is a wide path :cite:p:`cheng2016wide`, linear in the deviation of every gene
    from its mean over the reference. It starts at zero, and gives the network the evidence that makes
    logistic regression hard to beat. A masked gene deviates by zero: it counts as average, not as silent.
    """

    mean_expression: Tensor

    def __init__(self, *, n_vars: int, n_latent: int, n_labels: int, dropout_rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.to_logits = nn.Linear(n_latent, n_labels)
        self.wide = nn.Linear(n_vars, n_labels, bias=False)
        nn.init.zeros_(self.wide.weight)
        self.register_buffer("mean_expression", torch.zeros(n_vars))

    def forward(self, cell_state: Tensor, expression: Tensor, is_masked: Tensor) -> Tensor:
        """State ``(n_obs, n_latent)``, expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)`` -> logits.

        Expression is zero where masked, and may be sparse CSR.
        """
        # wide(expression - mean) over the genes that are not masked, without a dense copy of the difference.
        observed = sum_over_genes(expression, self.wide.weight.T)
        expected = self.wide(self.mean_expression.masked_fill(is_masked, 0.0))
        return self.to_logits(self.dropout(F.gelu(cell_state))) + observed - expected


class ExpressionHead(nn.Module):
    r"""cell state ``(n_obs, n_latent)``, batch ``(n_obs,)`` -> bin logits ``(n_obs, n_bins, n_genes)``.

    The logit of bin b for gene g is :math:`h_b(z, batch) \cdot d_g + c_{gb}`: one small projection
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

        Returns ``(n_obs, n_bins, n_genes)``.
        """
        bins = self.to_bins(torch.cat([cell_state, batch_embedding], dim=1))
        bins = bins.view(len(cell_state), self.n_bins, -1)
        return bins @ self.gene_embedding[genes].T + self.gene_bias[genes].T
