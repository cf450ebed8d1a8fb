"""Encoders: expressed genes in, tokens and a cell state out."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transanno.nn._slot_attention import SlotAttention
from transanno.nn._transformer import TransformerBlock


class EncoderOutput(NamedTuple):
    """What every encoder returns."""

    tokens: Tensor
    """``(n_obs, n_tokens, n_hidden)``"""
    cell_state: Tensor
    """``(n_obs, n_latent)``"""


class SlotEncoder(nn.Module):
    """expression ``(n_obs, n_vars)`` & batch -> slot tokens and cell state.

    :class:`SlotAttention` reads the genes, the embedding of the batch is added to every slot, a few
    :class:`TransformerBlock` let the slots talk to each other, and a linear map over all slots gives the cell state.

    This is the interface that every encoder has to offer: ``forward`` with an :class:`EncoderOutput`, the
    attributes below, a parameter ``gene_embedding`` with one row per gene, by which weights are carried to
    another gene vocabulary, and ``tunable_layers``; and for :func:`~transanno.nn.attribute` the way from expression to
    output in two parts, ``read`` and ``encode``, with ``share_among_genes`` to lead a gradient back through the first.
    """

    # Whether there is a token for every gene, from which its expression can be read.
    has_gene_tokens = False
    # Whether expression may be a sparse CSR tensor.
    reads_sparse = True
    # Peak learning rate, and that of the gene embeddings in fine-tuning as a share of it: they start from the data.
    lr = 3e-3
    fine_tuning_gene_lr = 0.1
    # Inference keeps no activations, and small minibatches are slow.
    inference_batch_size = 1024
    # Cells whose gradients are computed at once.
    gradient_batch_size = 512

    def __init__(
        self,
        *,
        n_vars: int,
        n_hidden: int = 48,
        n_latent: int = 48,
        n_slots: int = 4,
        n_layers: int = 1,
        n_heads: int = 1,
    ) -> None:
        super().__init__()
        if n_hidden % n_heads:
            raise ValueError(f"n_hidden={n_hidden} is not a multiple of n_heads={n_heads}. Choose one that is.")
        self.n_hidden = n_hidden
        self.n_latent = n_latent
        self.n_tokens = n_slots
        self.attention = SlotAttention(n_vars=n_vars, n_hidden=n_hidden, n_slots=n_slots)
        self.blocks = nn.ModuleList([TransformerBlock(n_hidden=n_hidden, n_heads=n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(n_hidden)
        self.to_cell_state = nn.Linear(n_slots * n_hidden, n_latent)

    @property
    def gene_embedding(self) -> nn.Parameter:
        """``(n_vars, n_hidden)``, one row per gene."""
        return self.attention.gene_embedding

    def fixed_weights(self) -> AbstractContextManager[None]:
        """-> context in which weights do not change, so that what depends on them alone is computed once."""
        return self.attention.fixed_weights()

    @property
    def tunable_layers(self) -> list[nn.Module]:
        """What ``freeze="partial"`` leaves trainable."""
        return [*self.blocks[-1:], self.norm]

    def forward(self, expression: Tensor, is_masked: Tensor, batch_embedding: Tensor) -> EncoderOutput:
        """Expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)``, batch ``(n_obs, n_hidden)`` -> output.

        Expression is log1p of counts per 10,000, zero where masked; dense, or sparse CSR.
        """
        return self._mix(self.attention(expression, is_masked), batch_embedding)

    def read(self, expression: Tensor, is_masked: Tensor) -> Tensor:
        """Expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)`` -> reading, linear in expression."""
        return self.attention.read(expression)

    def encode(self, reading: Tensor, is_masked: Tensor, batch_embedding: Tensor) -> EncoderOutput:
        """What :meth:`read` gave, and the rest of the arguments of :meth:`forward` -> the same output."""
        return self._mix(self.attention.from_reading(reading, is_masked), batch_embedding)

    def share_among_genes(self, gradient: Tensor, reading: Tensor, expression: Tensor) -> Tensor:
        """Gradient by the reading, differences of readings and of expression -> share of genes ``(n_obs, n_vars)``."""
        return self.attention.share_among_genes(gradient) * expression

    def _mix(self, slots: Tensor, batch_embedding: Tensor) -> EncoderOutput:
        tokens = slots + batch_embedding[:, None, :]
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return EncoderOutput(tokens=tokens, cell_state=self.to_cell_state(tokens.flatten(1)))

    @torch.no_grad()
    def initialize_genes(self, expression: Tensor) -> None:
        """Start the gene embeddings at the principal axes of ``expression (n_obs, n_vars)``.

        Genes that vary together start close to each other, and genes that hardly vary start near
        zero (docs/decisions/0002).
        """
        expression = expression - expression.mean(dim=0)
        n_axes = min(self.gene_embedding.shape[1], *expression.shape)
        _, scale, axes = torch.svd_lowrank(expression, q=n_axes, niter=4)
        embedding = F.pad(axes * scale, (0, self.gene_embedding.shape[1] - n_axes))
        self.gene_embedding.copy_(embedding * (self.gene_embedding.std() / embedding.std().clamp_min(1e-12)))
