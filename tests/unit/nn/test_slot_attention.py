from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from transanno.nn import SlotAttention

N_OBS, N_VARS, N_HIDDEN, N_SLOTS = 5, 13, 7, 3


@pytest.fixture
def attention() -> SlotAttention:
    attention = SlotAttention(n_vars=N_VARS, n_hidden=N_HIDDEN, n_slots=N_SLOTS).double()
    with torch.no_grad():
        for parameter in attention.parameters():  # nothing at its start value
            parameter.add_(0.3 * torch.randn_like(parameter))
    return attention


@pytest.fixture
def expression() -> torch.Tensor:
    return torch.log1p(torch.poisson(torch.full((N_OBS, N_VARS), 1.5, dtype=torch.float64)) * 40)


def by_softmax(attention: SlotAttention, expression: torch.Tensor, is_masked: torch.Tensor) -> torch.Tensor:
    """The formula of the docstring, one cell, slot and gene at a time."""
    tokens = F.layer_norm(attention.gene_embedding, (N_HIDDEN,), attention.norm.weight, attention.norm.bias)
    keys = tokens @ attention.to_key.weight.T
    values = tokens @ attention.to_value.weight.T + attention.to_value.bias
    result = torch.zeros(len(expression), N_SLOTS, N_HIDDEN, dtype=torch.float64)
    for n in range(len(expression)):
        for s in range(N_SLOTS):
            epsilon = attention.log_silent_weight[s].exp()
            measured = [g for g in range(N_VARS) if not is_masked[n if len(is_masked) > 1 else 0, g]]
            logits = torch.stack(
                [
                    attention.query[s] @ keys[g] / math.sqrt(N_HIDDEN) + torch.log(expression[n, g] + epsilon)
                    for g in measured
                ]
            )
            for weight, g in zip(logits.softmax(0), measured, strict=True):
                result[n, s] += weight * values[g] * expression[n, g] / (expression[n, g] + epsilon)
            result[n, s] += attention.slot_embedding[s]
    return result


@pytest.mark.parametrize("mask", ["none", "of all cells", "per cell"])
def test_equals_softmax_attention_over_measured_genes(mask, attention, expression):
    is_masked = {
        "none": torch.zeros(1, N_VARS, dtype=torch.bool),
        "of all cells": torch.arange(N_VARS)[None, :] % 3 == 0,
        "per cell": torch.rand(N_OBS, N_VARS) < 0.4,
    }[mask]
    visible = expression.masked_fill(is_masked, 0.0)
    with torch.no_grad():
        result = attention(visible, is_masked)
        expected = by_softmax(attention, visible, is_masked)
    assert result.shape == (N_OBS, N_SLOTS, N_HIDDEN)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


def test_one_mask_for_all_cells_equals_it_repeated(attention, expression):
    is_masked = torch.arange(N_VARS)[None, :] % 3 == 0
    visible = expression.masked_fill(is_masked, 0.0)
    torch.testing.assert_close(attention(visible, is_masked), attention(visible, is_masked.expand(N_OBS, -1)))


def test_masked_genes_are_absent(attention, expression):
    """As though the model had been built without them, whatever their embeddings are."""
    is_masked = torch.arange(N_VARS) % 3 == 0
    visible = expression.masked_fill(is_masked, 0.0)
    with torch.no_grad():
        expected = attention(visible, is_masked[None, :])
        attention.gene_embedding[is_masked] = 1e3 * torch.randn(int(is_masked.sum()), N_HIDDEN, dtype=torch.float64)
        torch.testing.assert_close(attention(visible, is_masked[None, :]), expected)
        smaller = SlotAttention(n_vars=int((~is_masked).sum()), n_hidden=N_HIDDEN, n_slots=N_SLOTS).double()
        state = attention.state_dict() | {"gene_embedding": attention.gene_embedding[~is_masked]}
        smaller.load_state_dict(state)
        nothing = torch.zeros(1, smaller.gene_embedding.shape[0], dtype=torch.bool)
        torch.testing.assert_close(smaller(visible[:, ~is_masked], nothing), expected)


def test_silent_measured_gene_differs_from_masked_one(attention, expression):
    expression[:, 0] = 0.0
    is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
    measured = attention(expression, is_masked)
    is_masked[0, 0] = True
    assert not torch.allclose(attention(expression, is_masked), measured)


def test_cells_without_counts_or_without_measured_genes_are_finite(attention):
    nothing = torch.zeros(2, N_VARS, dtype=torch.float64)
    is_masked = torch.stack([torch.zeros(N_VARS), torch.ones(N_VARS)]).bool()
    result = attention(nothing, is_masked)
    torch.testing.assert_close(result, attention.slot_embedding.expand(2, -1, -1))
    result.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in attention.parameters() if p.grad is not None)


def test_gradients_equal_those_of_the_obvious_version(attention, expression):
    is_masked = torch.rand(N_OBS, N_VARS) < 0.4
    visible = expression.masked_fill(is_masked, 0.0)
    target = torch.randn(N_OBS, N_SLOTS, N_HIDDEN, dtype=torch.float64)
    parameters = list(attention.parameters())
    ours = torch.autograd.grad((attention(visible, is_masked) * target).sum(), parameters)
    theirs = torch.autograd.grad((by_softmax(attention, visible, is_masked) * target).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_largest_weight_of_a_slot_is_one(attention):
    weights = attention.gene_slot_weights()
    assert weights.shape == (N_VARS, N_SLOTS)
    torch.testing.assert_close(weights.amax(dim=0), torch.ones(N_SLOTS, dtype=torch.float64))
    assert (weights > 0).all()


def test_large_logits_do_not_overflow(expression):
    attention = SlotAttention(n_vars=N_VARS, n_hidden=N_HIDDEN, n_slots=N_SLOTS)
    with torch.no_grad():
        attention.query.mul_(1e4)
    result = attention(expression.float(), torch.zeros(1, N_VARS, dtype=torch.bool))
    assert torch.isfinite(result).all()


def test_fixed_weights_change_nothing_and_come_to_an_end(attention, expression):
    is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
    expected = attention(expression, is_masked)
    with attention.fixed_weights():
        torch.testing.assert_close(attention(expression, is_masked), expected)
        with torch.no_grad():
            attention.gene_embedding.add_(1.0 * torch.randn_like(attention.gene_embedding))
        torch.testing.assert_close(attention(expression, is_masked), expected)
    assert not torch.allclose(attention(expression, is_masked), expected)
