from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transanno.nn import TransformerBlock


@pytest.mark.parametrize(("n_hidden", "n_heads"), [(12, 1), (12, 3), (14, 7)])
def test_equals_multihead_attention_of_torch(n_hidden, n_heads):
    block = TransformerBlock(n_hidden=n_hidden, n_heads=n_heads).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    attention = nn.MultiheadAttention(n_hidden, n_heads, batch_first=True).double()
    attention.load_state_dict(
        {
            "in_proj_weight": block.to_qkv.weight,
            "in_proj_bias": torch.zeros(3 * n_hidden, dtype=torch.float64),
            "out_proj.weight": block.to_out.weight,
            "out_proj.bias": block.to_out.bias,
        }
    )
    tokens = torch.randn(5, 11, n_hidden, dtype=torch.float64)
    with torch.no_grad():
        x = block.attention_norm(tokens)
        x = tokens + attention(x, x, x, need_weights=False)[0]
        y = F.layer_norm(x, (n_hidden,), block.feed_forward_norm.weight, block.feed_forward_norm.bias)
        first, _, second = block.feed_forward
        y = F.gelu(y @ first.weight.T + first.bias) @ second.weight.T + second.bias
        torch.testing.assert_close(block(tokens), x + y, rtol=1e-10, atol=1e-12)


def test_order_of_tokens_does_not_matter():
    block = TransformerBlock(n_hidden=12, n_heads=3).double()
    tokens, order = torch.randn(5, 7, 12, dtype=torch.float64), torch.randperm(7)
    torch.testing.assert_close(block(tokens[:, order]), block(tokens)[:, order])


def test_cells_do_not_see_each_other():
    block = TransformerBlock(n_hidden=12, n_heads=3).double()
    tokens = torch.randn(5, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(block(tokens[2:3]), block(tokens)[2:3])


def test_has_no_dropout():
    block = TransformerBlock(n_hidden=12, n_heads=3).train()
    tokens = torch.randn(5, 7, 12)
    assert torch.equal(block(tokens), block(tokens))
