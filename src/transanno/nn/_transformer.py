"""The ordinary Transformer layer that runs over views."""

from __future__ import annotations

import math

from torch import Tensor, nn


class TransformerBlock(nn.Module):
    """tokens ``(n_obs, n_tokens, n_hidden)`` -> the same shape.

    Pre-LayerNorm self-attention and GELU feed-forward, each with a residual
    :cite:p:`vaswani2017attention`. No dropout: on a CPU it costs as much as the layer itself, and
    hiding genes regularizes already.
    """

    def __init__(self, *, n_hidden: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(n_hidden)
        self.to_qkv = nn.Linear(n_hidden, 3 * n_hidden, bias=False)
        self.to_out = nn.Linear(n_hidden, n_hidden)
        self.feed_forward_norm = nn.LayerNorm(n_hidden)
        self.feed_forward = nn.Sequential(
            nn.Linear(n_hidden, 2 * n_hidden), nn.GELU(), nn.Linear(2 * n_hidden, n_hidden)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens ``(n_obs, n_tokens, n_hidden)`` -> the same shape."""
        tokens = tokens + self.to_out(self._attend(self.attention_norm(tokens)))
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        n_obs, n_tokens, n_hidden = tokens.shape
        qkv = self.to_qkv(tokens).view(n_obs, n_tokens, 3, self.n_heads, n_hidden // self.n_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (n_obs, n_heads, n_tokens, n_hidden / n_heads)
        # Sums of products: for so few tokens, torch's attention costs ten times as much to set up as to do.
        logits = (query[:, :, :, None] * key[:, :, None]).sum(dim=-1) / math.sqrt(query.shape[-1])
        attended = (logits.softmax(dim=-1)[..., None] * value[:, :, None]).sum(dim=-2)
        return attended.transpose(1, 2).reshape(n_obs, n_tokens, n_hidden)
