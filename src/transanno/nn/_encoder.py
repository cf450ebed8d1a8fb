"""Encoders: expressed genes in, tokens and a cell state out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transanno.nn._expression import distance_from, sum_over_genes
from transanno.nn._transformer import TransformerBlock

# Length that a cell's deviation from its data set is scaled to: about that of the deviation itself.
_LENGTH = 30.0


class EncoderOutput(NamedTuple):
    """What every encoder returns."""

    tokens: Tensor
    """``(n_obs, n_tokens, n_hidden)``"""
    cell_state: Tensor
    """``(n_obs, n_latent)``"""


class Context(NamedTuple):
    """What is known about the data set that cells are of; both are zero at genes that are masked."""

    center: Tensor
    """``(n_obs | 1, n_vars)``, mean log-expression of the data set"""
    mean: Tensor
    """``(n_obs | 1, n_vars)``, that of the reference"""


class ViewEncoder(nn.Module):
    r"""expression ``(n_obs, n_vars)`` & batch -> tokens of three views of a cell, and a cell state.

    The views are the cell :math:`x` as it is, its direction from the mean :math:`m` of its data set, and how far that mean is
    from the reference's, :math:`\bar m`; all are read by one table of gene embeddings :math:`E` and a matrix each:

    .. math::

        t_1 = W_1 E^\top x, \qquad t_2 = W_2 E^\top \frac{x - m}{\lVert x - m \rVert}, \qquad
        t_3 = W_3 E^\top (m - \bar m)

    A platform shifts the mean of every gene, which the second view does not see; another composition shifts it, too, and
    then the first view is right. The third lets the Transformer layers tell which (docs/decisions/0012). The embedding of
    the batch is added to every token, and a linear map over all tokens gives the cell state.

    This is the interface that every encoder has to offer: ``forward`` with an :class:`EncoderOutput`, the
    attributes below, a parameter ``gene_embedding`` with one row per gene, by which weights are carried to
    another gene vocabulary, and ``tunable_layers``; and for :func:`~transanno.nn.attribute` the way from expression to
    output in two parts, ``read`` and ``encode``, with ``share_among_genes`` to lead a gradient back through the first.
    """

    # Whether there is a token for every gene, from which its expression can be read.
    has_gene_tokens = False
    # Whether expression may be a sparse CSR tensor.
    reads_sparse = True
    # Peak learning rate.
    lr = 2e-3
    # Inference keeps no activations, and small minibatches are slow.
    inference_batch_size = 1024
    # Cells whose gradients are computed at once.
    gradient_batch_size = 512

    n_tokens = 3

    def __init__(
        self, *, n_vars: int, n_hidden: int = 64, n_latent: int = 64, n_layers: int = 1, n_heads: int = 4
    ) -> None:
        super().__init__()
        if n_hidden % n_heads:
            raise ValueError(f"n_hidden={n_hidden} is not a multiple of n_heads={n_heads}. Choose one that is.")
        self.n_hidden = n_hidden
        self.n_latent = n_latent
        self.gene_embedding = nn.Parameter(torch.randn(n_vars, n_hidden) * self._gene_scale(n_vars))
        self.to_tokens = nn.ModuleList([_near_identity(n_hidden) for _ in range(self.n_tokens)])
        self.token_norm = nn.LayerNorm(n_hidden)
        self.blocks = nn.ModuleList([TransformerBlock(n_hidden=n_hidden, n_heads=n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(self.n_tokens * n_hidden)
        self.to_cell_state = nn.Linear(self.n_tokens * n_hidden, n_latent)

    @staticmethod
    def _gene_scale(n_vars: int) -> float:
        """Standard deviation of the embeddings with which a cell's reading is of the order of one."""
        return 2.0 / math.sqrt(n_vars)

    @property
    def tunable_layers(self) -> list[nn.Module]:
        """What ``freeze="partial"`` leaves trainable."""
        return [*self.blocks[-1:], self.norm]

    def forward(
        self, expression: Tensor, is_masked: Tensor, batch_embedding: Tensor, context: Context
    ) -> EncoderOutput:
        """Expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)``, batch ``(n_obs, n_hidden)`` -> output.

        Expression is log1p of counts per 10,000, zero where masked; dense, or sparse CSR.
        """
        reading = sum_over_genes(expression, self.gene_embedding)
        center, mean = (values @ self.gene_embedding for values in context)
        length = distance_from(expression, context.center)[:, None]
        views = (reading, (reading - center) * (_LENGTH / length), (center - mean).expand_as(reading))
        tokens = torch.stack([to_token(view) for to_token, view in zip(self.to_tokens, views, strict=True)], dim=1)
        tokens = self.token_norm(tokens + batch_embedding[:, None, :])
        for block in self.blocks:
            tokens = block(tokens)
        return EncoderOutput(tokens=tokens, cell_state=self.to_cell_state(self.norm(tokens.flatten(1))))

    def read(self, expression: Tensor, is_masked: Tensor) -> Tensor:
        """Expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)`` -> reading: here, the expression."""
        return expression

    def encode(self, reading: Tensor, is_masked: Tensor, batch_embedding: Tensor, context: Context) -> EncoderOutput:
        """What :meth:`read` gave, and the rest of the arguments of :meth:`forward` -> the same output."""
        return self(reading, is_masked, batch_embedding, context)

    def share_among_genes(self, gradient: Tensor, reading: Tensor, expression: Tensor) -> Tensor:
        """Gradient by the reading, differences of readings and of expression -> share of genes ``(n_obs, n_vars)``."""
        return gradient * expression

    @torch.no_grad()
    def initialize_genes(self, expression: Tensor) -> None:
        """Start the gene embeddings at the principal axes of ``expression (n_obs, n_vars)``, times their scale.

        Genes that vary together start close to each other, and genes that hardly vary start near
        zero (docs/decisions/0002).
        """
        expression = expression - expression.mean(dim=0)
        n_axes = min(self.n_hidden, *expression.shape)
        _, scale, axes = torch.svd_lowrank(expression, q=n_axes, niter=4)
        embedding = F.pad(axes * scale, (0, self.n_hidden - n_axes))
        self.gene_embedding.copy_(embedding * (self._gene_scale(len(axes)) / embedding.std().clamp_min(1e-12)))


def _near_identity(width: int) -> nn.Linear:
    """-> linear map that starts from what it is given, so that gene embeddings are what the tokens start from."""
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.normal_(layer.bias, std=0.02)
    return layer
