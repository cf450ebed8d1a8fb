"""Encoders: expressed genes in, tokens and a cell state out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transanno._constants import DEVIATION_LENGTH
from transanno.nn._expression import distance_from, sum_over_genes
from transanno.nn._transformer import TransformerBlock

_N_VIEWS = 3
# Cells at once on a CPU, where more do not fit into its caches.
_INFERENCE_BATCH = 1024


class EncoderOutput(NamedTuple):
    """What every encoder returns."""

    tokens: Tensor
    """``(n_obs, n_tokens, n_hidden)``"""
    cell_state: Tensor
    """``(n_obs, n_latent)``"""


class Context(NamedTuple):
    """What is known about the data set that cells are of; means are zero at genes that are masked."""

    center: Tensor
    """``(n_obs | 1, n_vars)``, mean log-expression of the data set"""
    mean: Tensor
    """``(n_obs | 1, n_vars)``, that of the reference"""
    length: Tensor | None = None
    """``(n_obs,)``, how far the cells are from the center; by default computed from their expression"""

    def distance(self, expression: Tensor) -> Tensor:
        """Expression ``(n_obs, n_vars)``, dense or sparse CSR -> its distance from the center ``(n_obs, 1)``."""
        length = distance_from(expression, self.center) if self.length is None else self.length
        return length[:, None]


class ViewNetwork(nn.Module):
    """Three views of a cell ``(n_obs, n_hidden)`` & batch -> their tokens and a cell state.

    Every view has a map to its token, to which the embedding of the batch is added; a few :class:`TransformerBlock` let the views
    talk to each other, and a linear map over all tokens gives the state.
    """

    def __init__(self, *, n_hidden: int, n_latent: int, n_layers: int, n_heads: int) -> None:
        super().__init__()
        self.to_tokens = nn.ModuleList([_near_identity(n_hidden) for _ in range(_N_VIEWS)])
        self.token_norm = nn.LayerNorm(n_hidden)
        self.blocks = nn.ModuleList([TransformerBlock(n_hidden=n_hidden, n_heads=n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(_N_VIEWS * n_hidden)
        self.to_cell_state = nn.Linear(_N_VIEWS * n_hidden, n_latent)

    def forward(self, views: Sequence[Tensor], batch_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Views, each ``(n_obs, n_hidden)``, batch ``(n_obs, n_hidden)`` -> tokens ``(n_obs, 3, n_hidden)``, state."""
        tokens = torch.stack([to_token(view) for to_token, view in zip(self.to_tokens, views, strict=True)], dim=1)
        tokens = self.token_norm(tokens + batch_embedding[:, None, :])
        for block in self.blocks:
            tokens = block(tokens)
        return tokens, self.to_cell_state(self.norm(tokens.flatten(1)))


class ViewEncoder(nn.Module):
    r"""expression ``(n_obs, n_vars)`` & batch -> tokens of three views of a cell, and a cell state.

    The views are the cell :math:`x` as it is, its direction from the mean :math:`m` of its data set, and how far that mean is
    from the reference's, :math:`\bar m`; all are read by one table of gene embeddings :math:`E` and a matrix each:

    .. math::

        t_1 = W_1 E^\top x, \qquad t_2 = W_2 E^\top \frac{x - m}{\lVert x - m \rVert}, \qquad
        t_3 = W_3 E^\top (m - \bar m)

    A platform shifts the mean of every gene, which the second view does not see; another composition shifts it, too, and
    then the first view is right. The third lets the Transformer layers tell which (docs/decisions/0012).

    Several networks that differ by their random start, each with columns of its own in the table, read the same cells and learn
    apart: their average depends less on luck. The cell state is that of all of them side by side.

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
    # Threads of the CPU that a training step can use: its operations are too small to be shared.
    n_training_threads: int | None = 1
    # Cells whose gradients are computed at once.
    gradient_batch_size = 512

    def __init__(
        self,
        *,
        n_vars: int,
        n_hidden: int = 48,
        n_latent: int = 64,
        n_networks: int = 2,
        n_layers: int = 1,
        n_heads: int = 2,
    ) -> None:
        super().__init__()
        for name, size, by, number in (
            ("n_hidden", n_hidden, "n_heads", n_heads),
            ("n_latent", n_latent, "n_networks", n_networks),
        ):
            if size % number:
                raise ValueError(f"{name}={size} is not a multiple of {by}={number}. Choose one that is.")
        self.n_hidden = n_hidden
        self.n_latent = n_latent
        self.n_networks = n_networks
        self.n_tokens = n_networks * _N_VIEWS
        self.gene_embedding = nn.Parameter(torch.randn(n_vars, n_networks * n_hidden) * self._gene_scale(n_vars))
        sizes = {"n_hidden": n_hidden, "n_latent": n_latent // n_networks, "n_layers": n_layers, "n_heads": n_heads}
        self.networks = nn.ModuleList([ViewNetwork(**sizes) for _ in range(n_networks)])

    @staticmethod
    def _gene_scale(n_vars: int) -> float:
        """Standard deviation of the embeddings with which a cell's reading is of the order of one."""
        return 2.0 / math.sqrt(n_vars)

    @property
    def inference_batch_size(self) -> int:
        """Cells of a minibatch of inference, which keeps no activations: small ones are slow, most of all on a GPU."""
        return _INFERENCE_BATCH if self.gene_embedding.device.type == "cpu" else 8 * _INFERENCE_BATCH

    @property
    def tunable_layers(self) -> list[nn.Module]:
        """What ``freeze="partial"`` leaves trainable."""
        found: list[nn.Module] = []
        for network in self.networks:
            assert isinstance(network, ViewNetwork)
            found += [*network.blocks[-1:], network.norm]
        return found

    def forward(
        self, expression: Tensor, is_masked: Tensor, batch_embedding: Tensor, context: Context
    ) -> EncoderOutput:
        """Expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)``, batch ``(n_obs, n_hidden)`` -> output.

        Expression is log1p of counts per 10,000, zero where masked; dense, or sparse CSR.
        """
        reading = sum_over_genes(expression, self.gene_embedding)
        center, mean = (values @ self.gene_embedding for values in (context.center, context.mean))
        direction = (reading - center) * (DEVIATION_LENGTH / context.distance(expression))
        views = (reading, direction, (center - mean).expand_as(reading))
        parts = zip(*(view.split(self.n_hidden, dim=1) for view in views), strict=True)  # one for each network
        found = [network(part, batch_embedding) for network, part in zip(self.networks, parts, strict=True)]
        tokens, states = zip(*found, strict=True)
        return EncoderOutput(tokens=torch.cat(tokens, dim=1), cell_state=torch.cat(states, dim=1))

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

        Genes that vary together start close to each other, and genes that hardly vary start near zero. Every network but the
        first starts from a random rotation.
        """
        expression = expression - expression.mean(dim=0)
        n_axes = min(self.n_hidden, *expression.shape)
        _, scale, axes = torch.svd_lowrank(expression, q=n_axes, niter=4)
        first = F.pad(axes * scale, (0, self.n_hidden - n_axes))
        first = first * (self._gene_scale(len(axes)) / first.std().clamp_min(1e-12))
        rotations = [
            torch.linalg.qr(torch.randn(self.n_hidden, self.n_hidden, dtype=torch.float32).to(first))[0]
            for _ in self.networks[1:]
        ]
        self.gene_embedding.copy_(torch.cat([first, *(first @ rotation for rotation in rotations)], dim=1))


def _near_identity(width: int) -> nn.Linear:
    """-> linear map that starts from what it is given, so that gene embeddings are what the tokens start from."""
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.normal_(layer.bias, std=0.02)
    return layer
