from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from transanno.nn import CellTypeHead, ExpressionHead

N_OBS, N_VARS, N_LATENT, N_LABELS, N_HIDDEN, N_BINS = 5, 13, 11, 3, 7, 6


class TestCellTypeHead:
    @pytest.fixture
    def head(self) -> CellTypeHead:
        head = CellTypeHead(n_vars=N_VARS, n_latent=N_LATENT, n_labels=N_LABELS, dropout_rate=0.5).double().eval()
        head.mean_expression.copy_(torch.rand(N_VARS))
        return head

    @pytest.fixture
    def state(self) -> torch.Tensor:
        return torch.randn(N_OBS, N_LATENT, dtype=torch.float64)

    @pytest.fixture
    def expression(self) -> torch.Tensor:
        return torch.rand(N_OBS, N_VARS, dtype=torch.float64)

    def test_wide_path_starts_at_zero(self, head, state, expression):
        is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
        assert torch.equal(head.wide.weight, torch.zeros(N_LABELS, N_VARS, dtype=torch.float64))
        torch.testing.assert_close(head(state, expression, is_masked), head.to_logits(F.gelu(state)))

    @pytest.mark.parametrize("n_rows", [1, N_OBS], ids=["one mask", "mask per cell"])
    def test_equals_loops(self, n_rows, head, state, expression):
        torch.nn.init.normal_(head.wide.weight)
        is_masked = torch.rand(n_rows, N_VARS) < 0.4
        expression = expression.masked_fill(is_masked, 0.0)
        expected = head.to_logits(F.gelu(state)).detach().clone()
        for n in range(N_OBS):
            for label in range(N_LABELS):
                for g in range(N_VARS):
                    if not is_masked[n % n_rows, g]:
                        deviation = expression[n, g] - head.mean_expression[g]
                        expected[n, label] += head.wide.weight[label, g].item() * deviation
        torch.testing.assert_close(head(state, expression, is_masked).detach(), expected)

    def test_masked_gene_counts_as_average(self, head, state, expression):
        torch.nn.init.normal_(head.wide.weight)
        is_masked = torch.arange(N_VARS)[None, :] % 3 == 0
        average = torch.where(is_masked, head.mean_expression, expression)
        expression = expression.masked_fill(is_masked, 0.0)
        unmasked = torch.zeros(1, N_VARS, dtype=torch.bool)
        torch.testing.assert_close(head(state, expression, is_masked), head(state, average, unmasked))

    def test_dropout_in_training_only(self, head, state, expression):
        is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
        assert torch.equal(head(state, expression, is_masked), head(state, expression, is_masked))
        head.train()
        assert not torch.equal(head(state, expression, is_masked), head(state, expression, is_masked))

    def test_mean_expression_is_saved_but_not_trained(self, head):
        assert "mean_expression" in head.state_dict()
        assert "mean_expression" not in dict(head.named_parameters())


class TestExpressionHead:
    @pytest.fixture
    def head(self) -> ExpressionHead:
        head = ExpressionHead(n_latent=N_LATENT, n_hidden=N_HIDDEN, n_vars=N_VARS, n_bins=N_BINS).double()
        torch.nn.init.normal_(head.gene_bias)
        return head

    @pytest.fixture
    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.randn(N_OBS, n, dtype=torch.float64) for n in (N_LATENT, N_HIDDEN))

    def test_equals_loops(self, head, inputs):
        with torch.no_grad():
            logits = head(*inputs, torch.arange(N_VARS)).numpy()
            projected = head.to_bins(torch.cat(inputs, dim=1)).numpy()
        embedding, bias = head.gene_embedding.detach().numpy(), head.gene_bias.detach().numpy()
        assert logits.shape == (N_OBS, N_BINS, N_VARS)
        for n in range(N_OBS):
            for b in range(N_BINS):
                h = projected[n, b * N_HIDDEN : (b + 1) * N_HIDDEN]
                for g in range(N_VARS):
                    np.testing.assert_allclose(logits[n, b, g], h @ embedding[g] + bias[g, b], rtol=1e-10)

    def test_some_genes_equal_the_slice_of_all(self, head, inputs):
        genes = torch.tensor([7, 0, 12, 3, 3])
        everything = head(*inputs, torch.arange(N_VARS))
        torch.testing.assert_close(head(*inputs, genes), everything[:, :, genes])

    def test_batch_enters(self, head, inputs):
        state, batch = inputs
        genes = torch.arange(N_VARS)
        assert not torch.allclose(head(state, batch, genes), head(state, -batch, genes))
