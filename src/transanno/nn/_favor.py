"""Attention in linear memory: FAVOR+, the random-feature estimate of softmax attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transanno._constants import FAVOR_EPSILON


def draw_projection(n_features: int, head_dim: int) -> Tensor:
    """-> orthogonal random features ``(n_features, head_dim)``, drawn from torch's default CPU generator.

    Blocks of ``head_dim`` rows are orthogonal to each other, and every row is as long as a Gaussian one. Each row is
    then distributed as in independent features, but the rows of a block spread out, which lowers the variance of the
    estimate :cite:p:`choromanski2021performer`.
    """
    n_blocks = -(-n_features // head_dim)
    directions = torch.cat(
        [nn.init.orthogonal_(torch.empty(head_dim, head_dim, dtype=torch.float32)) for _ in range(n_blocks)]
    )
    return directions[:n_features] * torch.randn(n_features, head_dim, dtype=torch.float32).norm(dim=1, keepdim=True)


def softmax_features(x: Tensor, projection: Tensor, *, is_query: bool, exact_gradient: bool = False) -> Tensor:
    r"""Queries or keys ``(n_obs, n_heads, n_tokens, head_dim)`` -> positive features ``(…, n_tokens, n_features)``.

    With :math:`x' = x / d^{1/4}`, feature i is :math:`\exp(w_i \cdot x' - |x'|^2 / 2)`, and the mean over features of
    the product of a query's with a key's is an unbiased estimate of :math:`\exp(q \cdot k / \sqrt d)`. The maximum is
    taken off before the exponential, per query and per head of a cell for keys, where it cancels in the attention but
    for the small constant that is added; as in the original, its gradient is left out unless ``exact_gradient``.
    """
    x = x * x.shape[-1] ** -0.25
    projected = x @ projection.to(x.dtype).T
    largest = projected.amax(dim=-1 if is_query else (-1, -2), keepdim=True)
    if not exact_gradient:
        largest = largest.detach()
    return (projected - x.square().sum(dim=-1, keepdim=True) / 2 - largest).exp() + FAVOR_EPSILON


def favor_attention(
    query: Tensor, key: Tensor, value: Tensor, projection: Tensor, *, exact_gradient: bool = False
) -> Tensor:
    """query, key, value ``(n_obs, n_heads, n_tokens, head_dim)``, projection -> attended, of the same shape.

    Keys and values are summed up into ``(n_features, head_dim)`` before queries read them: no
    ``(n_tokens, n_tokens)`` array exists, and memory grows linearly with the number of tokens.
    """
    query = softmax_features(query, projection, is_query=True, exact_gradient=exact_gradient)
    key = softmax_features(key, projection, is_query=False, exact_gradient=exact_gradient)
    total = query @ key.sum(dim=-2).unsqueeze(-1)
    return query @ (key.transpose(-1, -2) @ value) / total
