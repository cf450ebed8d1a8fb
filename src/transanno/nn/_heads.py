"""What the network predicts from the encoder's output: the type of a cell, and the expression of hidden genes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transanno._constants import COSINE_SCALE, LEAST_LENGTH, N_BINS
from transanno.nn._encoder import Context, EncoderOutput
from transanno.nn._expression import sum_over_genes

# Widths of the perceptron in TransAnno-Net's classifier.
_CONV_HEAD_WIDTHS = (512, 128)


class Shares(NamedTuple):
    """How much each expert says in the logits of a :class:`CellTypeHead`."""

    deep: float = 1.0
    linear: float = 0.0
    cosine: float = 0.0


class CellTypeHead(nn.Module):
    r"""cell state ``(n_obs, n_latent)`` & expression ``(n_obs, n_vars)`` -> logits ``(n_obs, n_labels)``.

    A product of three experts :cite:p:`hinton2002poe`, which err apart:

    .. math::

        \ell = w_\text{deep}\,\ell_\text{deep} + w_\text{linear}\,\ell_\text{linear} + w_\text{cosine}\,\ell_\text{cosine}

    The deep one is linear in the cell state, and learns by gradient descent with the encoder; where that is several networks, it
    is the mean of their log-probabilities. The linear one is a regularized
    logistic regression on log-expression, from a convex solver. The cosine one compares directions: that of a cell from
    the mean of its data set, and those of the types from the mean of the types; what a platform adds to every cell cancels
    there. In training mode the deep one stands alone, and so it does until there are others. A masked gene counts as average
    for the linear expert, and is absent for the others.
    """

    linear_weight: Tensor
    linear_bias: Tensor
    directions: Tensor
    shares: Tensor

    def __init__(
        self,
        *,
        n_vars: int,
        n_tokens: int,
        n_hidden: int,
        n_latent: int,
        n_labels: int,
        dropout_rate: float,
        n_networks: int = 1,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.to_logits = nn.ModuleList([nn.Linear(n_latent // n_networks, n_labels) for _ in range(n_networks)])
        self.register_buffer("linear_weight", torch.zeros(n_labels, n_vars))
        self.register_buffer("linear_bias", torch.zeros(n_labels))
        # Zero for a type without cells.
        self.register_buffer("directions", torch.zeros(n_labels, n_vars))
        self.register_buffer("shares", torch.tensor(Shares()))

    def forward(self, encoded: EncoderOutput, expression: Tensor, is_masked: Tensor, context: Context) -> Tensor:
        """Encoder output, expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)``, context -> logits.

        Expression is zero where masked, and may be sparse CSR. In training mode the logits are those of every network by
        itself, ``(n_networks, n_obs, n_labels)``.
        """
        states = self.dropout(F.gelu(encoded.cell_state)).chunk(len(self.to_logits), dim=1)
        deep = torch.stack([to_logits(state) for to_logits, state in zip(self.to_logits, states, strict=True)])
        if self.training:
            return deep
        shares = Shares(*self.shares.tolist())
        logits = shares.deep * deep.log_softmax(dim=2).mean(dim=0)
        if shares.linear:
            # Of expression minus its mean over the reference, so that a masked gene counts as average.
            observed, expected = (sum_over_genes(x, self.linear_weight.T) for x in (expression, context.mean))
            logits = logits + shares.linear * (observed - expected + self.linear_bias)
        if shares.cosine:
            logits = logits + shares.cosine * self._compare(expression, is_masked, context)
        return logits

    def _compare(self, expression: Tensor, is_masked: Tensor, context: Context) -> Tensor:
        """-> cosines of the angles between cells and types, times a factor; -1 for a type without cells."""
        directions = self.directions.T
        # Expression and center are zero where a gene is masked, and cells may differ in what is.
        lengths = ((~is_masked).to(directions) @ directions.square()).sqrt()
        products = sum_over_genes(expression, directions) - context.center @ directions
        cosines = products / (context.distance(expression) * lengths.clamp_min(LEAST_LENGTH))
        return COSINE_SCALE * cosines.masked_fill((directions == 0).all(dim=0), -1.0)

    @contextmanager
    def weighted(self, shares: Shares) -> Iterator[None]:
        """-> context in which the experts have other shares."""
        kept = self.shares.clone()
        self.shares.copy_(torch.tensor(shares))
        try:
            yield
        finally:
            self.shares.copy_(kept)

    @torch.no_grad()
    def set_experts(
        self, weight: Tensor, intercept: Tensor, directions: Tensor, mean_expression: Tensor, shares: Shares
    ) -> None:
        """Take the experts that do not learn by gradient descent, and their shares.

        The regression on log-expression, ``(n_labels, n_vars)`` and ``(n_labels,)``; the mean expression of every type minus
        the mean of these ``(n_labels, n_vars)``, zero for a type without cells; and that of the reference ``(n_vars,)``.
        """
        self.linear_weight.copy_(weight)
        self.linear_bias.copy_(intercept + weight @ mean_expression)
        self.directions.copy_(directions)
        self.shares.copy_(torch.tensor(shares))


class ConvHead(nn.Module):
    """tokens ``(n_obs, n_tokens, n_hidden)`` -> logits ``(n_obs, n_labels)``.

    The classifier of TransAnno-Net :cite:p:`transannonet2025`: a convolution as wide as a token gives one number
    per token, and a perceptron reads these.
    """

    def __init__(
        self, *, n_vars: int, n_tokens: int, n_hidden: int, n_latent: int, n_labels: int, dropout_rate: float
    ) -> None:
        super().__init__()
        first, second = _CONV_HEAD_WIDTHS
        # A convolution whose kernel spans the width is a linear map.
        self.convolution = nn.Linear(n_hidden, 1)
        # There is one rectified channel: were it negative for all tokens at the start, it would never learn.
        nn.init.ones_(self.convolution.bias)
        self.perceptron = nn.Sequential(
            nn.Linear(n_tokens, first),
            nn.ReLU(),
            nn.Dropout(dropout_rate),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Dropout(dropout_rate),
            nn.Linear(second, n_labels),
        )

    def forward(self, encoded: EncoderOutput, expression: Tensor, is_masked: Tensor, context: Context) -> Tensor:
        """Encoder output, and what other heads read -> logits ``(n_obs, n_labels)``."""
        return self.perceptron(F.relu(self.convolution(encoded.tokens)).squeeze(-1))


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

    def forward(self, encoded: EncoderOutput, batch_embedding: Tensor, genes: Tensor) -> Tensor:
        """Encoder output, batch ``(n_obs, n_hidden)``, genes ``(n_genes,)`` -> bin logits.

        Returns ``(n_obs, n_bins, n_genes)``.
        """
        bins = self.to_bins(torch.cat([encoded.cell_state, batch_embedding], dim=1))
        bins = bins.view(len(encoded.cell_state), self.n_bins, -1)
        return bins @ self.gene_embedding[genes].T + self.gene_bias[genes].T

    def initialize(self, n_per_bin: Tensor) -> None:
        """Start from how often each gene is in each bin ``(n_bins, n_vars)``: all that can be said of an unseen cell."""
        self.gene_bias.copy_(((n_per_bin + 1) / (n_per_bin + 1).sum(dim=0)).log().T)


class TokenExpressionHead(nn.Module):
    """tokens of genes ``(n_obs, n_tokens, n_hidden)`` -> bin logits ``(n_obs, n_bins + 1, n_genes)``.

    One linear map for all genes, as in TransAnno-Net :cite:p:`transannonet2025`. The last logit is that of the mask,
    which is never right; it is kept so that the weights are the original's. The batch has entered the tokens already.
    """

    def __init__(self, *, n_hidden: int) -> None:
        super().__init__()
        self.to_bins = nn.Linear(n_hidden, N_BINS + 1)

    def forward(self, encoded: EncoderOutput, batch_embedding: Tensor, genes: Tensor) -> Tensor:
        """Encoder output, batch ``(n_obs, n_hidden)``, genes ``(n_genes,)`` -> bin logits.

        Returns ``(n_obs, n_bins + 1, n_genes)``.
        """
        return self.to_bins(encoded.tokens[:, genes]).transpose(1, 2)

    def initialize(self, n_per_bin: Tensor) -> None:
        """Keep the random start: nothing here belongs to one gene."""
