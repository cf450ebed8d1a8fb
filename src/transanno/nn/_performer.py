"""The encoder of TransAnno-Net: one token per gene, attention in linear memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from transanno._constants import MASK_TOKEN, N_BINS
from transanno.nn._encoder import Context, EncoderOutput
from transanno.nn._favor import draw_projection, favor_attention

# Entries of the feature array of one inference pass: half a GiB in single precision.
_N_FEATURE_ENTRIES = 2**27
_MAX_INFERENCE_BATCH_SIZE = 1024
# Feature arrays of a layer that a backward pass keeps: several steps each for queries and for keys.
_N_KEPT_FEATURES = 8


class PerformerLayer(nn.Module):
    """tokens ``(n_obs, n_tokens, n_hidden)`` -> the same shape.

    Pre-LayerNorm FAVOR+ attention and GELU feed-forward, each with a residual
    :cite:p:`choromanski2021performer`. The heads together may be wider than a token.
    """

    projection: Tensor

    def __init__(self, *, n_hidden: int, n_heads: int, head_dim: int, n_features: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(n_hidden)
        self.to_query = nn.Linear(n_hidden, n_heads * head_dim, bias=False)
        self.to_key = nn.Linear(n_hidden, n_heads * head_dim, bias=False)
        self.to_value = nn.Linear(n_hidden, n_heads * head_dim, bias=False)
        self.to_out = nn.Linear(n_heads * head_dim, n_hidden)
        self.feed_forward_norm = nn.LayerNorm(n_hidden)
        self.feed_forward = nn.Sequential(
            nn.Linear(n_hidden, 4 * n_hidden), nn.GELU(), nn.Linear(4 * n_hidden, n_hidden)
        )
        self.register_buffer("projection", draw_projection(n_features, head_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens ``(n_obs, n_tokens, n_hidden)`` -> the same shape."""
        tokens = tokens + self.to_out(self._attend(self.attention_norm(tokens)))
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            linear(tokens).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (n_obs, n_heads, n_tokens, head_dim)
            for linear in (self.to_query, self.to_key, self.to_value)
        )
        # Trained as the original is; contributions of genes would not add up.
        attended = favor_attention(query, key, value, self.projection, exact_gradient=not self.training)
        return attended.transpose(1, 2).flatten(2)


class PerformerEncoder(nn.Module):
    """expression ``(n_obs, n_vars)`` & batch -> a token per gene and the cell state.

    The encoder of scBERT :cite:p:`yang2022scbert` as TransAnno-Net :cite:p:`transannonet2025` uses it. A gene's token
    is the embedding of its expression bin, or of the mask, plus the learned embedding of the gene. One more token, of
    bin 0, is appended; ours also carries the batch, and with an all-zero batch embedding it is the original's. The cell
    state is the mean over measured genes.

    Parameters
    ----------
    n_vars
        Number of genes.
    n_hidden
        Width of a token and of the cell state.
    n_layers
        Number of layers.
    n_heads, head_dim
        Number of attention heads, and the width of each.
    n_features
        Random features of the attention. Default: ``int(head_dim * log(head_dim))``.
    redraw_interval
        Training passes after which the random features are drawn anew. They are part of the state, and never drawn
        in evaluation mode or while the whole encoder is frozen.
    """

    has_gene_tokens = True
    reads_sparse = False
    n_networks = 1

    def __init__(
        self,
        *,
        n_vars: int,
        n_hidden: int = 200,
        n_layers: int = 6,
        n_heads: int = 10,
        head_dim: int = 64,
        n_features: int | None = None,
        redraw_interval: int = 1000,
    ) -> None:
        super().__init__()
        n_features = n_features or max(int(head_dim * math.log(head_dim)), 1)
        self.n_hidden = self.n_latent = n_hidden
        self.n_tokens = n_vars + 1
        self.redraw_interval = redraw_interval
        self._n_passes = 0
        self._n_features_per_cell = self.n_tokens * n_heads * n_features
        self.token_embedding = nn.Embedding(N_BINS + 1, n_hidden)
        self.gene_embedding = nn.Parameter(torch.randn(n_vars, n_hidden))
        self.appended_embedding = nn.Parameter(torch.randn(n_hidden))
        self.layers = nn.ModuleList(
            [
                PerformerLayer(n_hidden=n_hidden, n_heads=n_heads, head_dim=head_dim, n_features=n_features)
                for _ in range(n_layers)
            ]
        )
        self.norm = nn.LayerNorm(n_hidden)

    # See ViewEncoder.
    lr = 1e-3
    n_training_threads: int | None = None

    @property
    def inference_batch_size(self) -> int:
        """Cells that fit into one pass of inference."""
        return min(max(_N_FEATURE_ENTRIES // self._n_features_per_cell, 1), _MAX_INFERENCE_BATCH_SIZE)

    @property
    def gradient_batch_size(self) -> int:
        """Cells whose gradients are computed at once, in about the memory of one pass of inference."""
        return max(self.inference_batch_size // (_N_KEPT_FEATURES * len(self.layers)), 1)

    @property
    def tunable_layers(self) -> list[nn.Module]:
        """What ``freeze="partial"`` leaves trainable: in the paper, the second-to-last layer and the final norm."""
        return [*self.layers[-2:][:1], self.norm]

    def forward(
        self, expression: Tensor, is_masked: Tensor, batch_embedding: Tensor, context: Context
    ) -> EncoderOutput:
        """Expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)``, batch ``(n_obs, n_hidden)`` -> output.

        Expression is log1p of counts per 10,000, zero where masked.
        """
        self._count_pass()
        return self.encode(self.read(expression, is_masked), is_masked, batch_embedding, context)

    def read(self, expression: Tensor, is_masked: Tensor) -> Tensor:
        """Expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)`` -> tokens of the genes' bins.

        ``(n_obs, n_vars, n_hidden)``
        """
        bins = (expression / math.log(2)).long().clamp_(max=N_BINS - 1).masked_fill_(is_masked, MASK_TOKEN)
        return self.token_embedding(bins)

    def encode(self, reading: Tensor, is_masked: Tensor, batch_embedding: Tensor, context: Context) -> EncoderOutput:
        """What :meth:`read` gave, and the rest of the arguments of :meth:`forward` -> the same output."""
        genes = reading + self.gene_embedding
        appended = self.token_embedding.weight[0] + self.appended_embedding + batch_embedding
        tokens = torch.cat([genes, appended[:, None, :]], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        is_measured = (~is_masked).to(tokens.dtype)
        total = (is_measured[:, None, :] @ tokens[:, :-1]).squeeze(1)
        return EncoderOutput(tokens, total / is_measured.sum(dim=1, keepdim=True).clamp_min(1.0))

    def share_among_genes(self, gradient: Tensor, reading: Tensor, expression: Tensor) -> Tensor:
        """Gradient by the reading, differences of readings and of expression -> share of genes ``(n_obs, n_vars)``."""
        return (gradient * reading).sum(dim=-1)

    def initialize_genes(self, expression: Tensor) -> None:
        """Leave the gene embeddings at their random start, as the paper does."""

    @torch.no_grad()
    def redraw_projections(self) -> None:
        """Draw new random features for every layer."""
        for name, projection in self.named_buffers():
            if name.endswith("projection"):
                projection.copy_(draw_projection(*projection.shape))

    def _count_pass(self) -> None:
        # A query model trains embeddings of batches only: its encoder must stay the reference's to the bit.
        if not self.training or not any(parameter.requires_grad for parameter in self.parameters()):
            return
        if self._n_passes == self.redraw_interval:
            self.redraw_projections()
            self._n_passes = 0
        self._n_passes += 1
