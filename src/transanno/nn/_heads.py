"""What the network predicts from the encoder's output: the type of a cell, and the expression of hidden genes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transanno._constants import N_BINS, TARGET_SUM, WIDE_SUM
from transanno.nn._encoder import EncoderOutput
from transanno.nn._expression import rescale_expression, sum_over_genes

# Widths of the perceptron in TransAnno-Net's classifier.
_CONV_HEAD_WIDTHS = (512, 128)


class CellTypeHead(nn.Module):
    r"""cell state ``(n_obs, n_latent)`` & expression ``(n_obs, n_vars)`` -> logits ``(n_obs, n_labels)``.

    Two paths :cite:p:`cheng2016wide`. The deep one is linear in the cell state and learns by gradient descent with
    the encoder. The wide one is a regularized logistic regression on the deviation of every gene from its mean over
    the reference, whose weights :meth:`set_wide` takes from a convex solver: per-weight step sizes as Adam's spread
    weight over thousands of noisy genes. It reads log1p of counts per 200, which is nearly linear in low counts: abundant
    genes speak louder than to the encoder, and the noise of the others less (docs/decisions/0010). Each learns on its own,
    and predictions are their product of experts:

    .. math::

        \ell = w_\text{deep}\,\ell_\text{deep} + w_\text{wide}\,\ell_\text{wide}

    The shares need not sum to one: what two experts agree on is more certain than either of them is. In training mode the
    deep path stands alone, as must one of an ensemble, and so it does until there is a wide path. A masked gene deviates by
    zero: it counts as average, not as silent.
    """

    mean_expression: Tensor
    wide_weight: Tensor
    wide_bias: Tensor
    deep_share: Tensor
    wide_share: Tensor
    wide_sum: Tensor

    def __init__(
        self, *, n_vars: int, n_tokens: int, n_hidden: int, n_latent: int, n_labels: int, dropout_rate: float
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.to_logits = nn.Linear(n_latent, n_labels)
        self.register_buffer("mean_expression", torch.zeros(n_vars))
        self.register_buffer("wide_weight", torch.zeros(n_labels, n_vars))
        self.register_buffer("wide_bias", torch.zeros(n_labels))
        self.register_buffer("deep_share", torch.ones(()))
        self.register_buffer("wide_share", torch.zeros(()))
        self.register_buffer("wide_sum", torch.tensor(WIDE_SUM))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # Models that were saved before the wide path had a total of its own, and when shares summed to one.
        state_dict.setdefault(f"{prefix}wide_sum", torch.tensor(TARGET_SUM))
        if f"{prefix}wide_share" in state_dict:
            state_dict.setdefault(f"{prefix}deep_share", 1.0 - state_dict[f"{prefix}wide_share"])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, encoded: EncoderOutput, expression: Tensor, is_masked: Tensor) -> Tensor:
        """Encoder output, expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)`` -> logits.

        Expression is zero where masked, and may be sparse CSR.
        """
        deep = self.to_logits(self.dropout(F.gelu(encoded.cell_state)))
        if self.training or self.wide_share == 0:
            return deep
        # wide(expression - mean) over the genes that are not masked, without a dense copy of the difference.
        observed = sum_over_genes(self.read_directly(expression), self.wide_weight.T)
        expected = F.linear(self.read_directly(self.mean_expression).masked_fill(is_masked, 0.0), self.wide_weight)
        return self.deep_share * deep + self.wide_share * (observed - expected + self.wide_bias)

    @contextmanager
    def alone(self, path: Literal["deep", "wide"]) -> Iterator[None]:
        """-> context in which there is no other path."""
        other = self.wide_share if path == "deep" else self.deep_share
        share = other.clone()
        other.zero_()
        try:
            yield
        finally:
            other.copy_(share)

    def read_encoded(self, encoded: EncoderOutput) -> Tensor:
        """Encoder output -> the part of a prediction's logits that comes from it ``(n_obs, n_labels)``."""
        return self.deep_share * self.to_logits(self.dropout(F.gelu(encoded.cell_state)))

    def read_directly(self, expression: Tensor) -> Tensor:
        """Expression ``(n_obs, n_vars)`` -> the same as the wide path takes it in."""
        return rescale_expression(expression, self.wide_sum)

    @property
    def gene_weights(self) -> Tensor:
        """``(n_labels, n_vars)``, by which the rest of a prediction's logits is linear in what :meth:`read_directly` gives."""
        return self.wide_share * self.wide_weight

    def initialize(self, mean_expression: Tensor) -> None:
        """Start from the mean of every gene over the reference ``(n_vars,)``."""
        self.mean_expression.copy_(mean_expression)

    @torch.no_grad()
    def set_wide(self, weight: Tensor, intercept: Tensor, *, deep_share: float, wide_share: float) -> None:
        """Take the logistic regression ``weight (n_labels, n_vars)``, ``intercept (n_labels,)`` on log1p of counts per 200."""
        self.wide_weight.copy_(weight)
        self.wide_bias.copy_(intercept + weight @ self.read_directly(self.mean_expression).to(weight))
        self.deep_share.fill_(deep_share)
        self.wide_share.fill_(wide_share)


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

    def forward(self, encoded: EncoderOutput, expression: Tensor, is_masked: Tensor) -> Tensor:
        """Encoder output, expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)`` -> logits."""
        return self.read_encoded(encoded)

    def read_encoded(self, encoded: EncoderOutput) -> Tensor:
        """Encoder output -> logits ``(n_obs, n_labels)``: here, all of them."""
        return self.perceptron(F.relu(self.convolution(encoded.tokens)).squeeze(-1))

    def initialize(self, mean_expression: Tensor) -> None:
        """Keep the random start: nothing here is in the units of the data."""


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
