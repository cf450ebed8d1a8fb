from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from transanno.nn import (
    CellTypeHead,
    Context,
    ConvHead,
    EncoderOutput,
    ExpressionHead,
    Shares,
    TokenExpressionHead,
    sparse_rows,
)
from transanno.nn._heads import COSINE_SCALE

N_OBS, N_VARS, N_LATENT, N_LABELS, N_HIDDEN, N_BINS, N_TOKENS = 5, 13, 22, 3, 7, 6, 17
SIZES = {"n_vars": N_VARS, "n_tokens": N_TOKENS, "n_hidden": N_HIDDEN, "n_latent": N_LATENT, "n_labels": N_LABELS}
UNMASKED = torch.zeros(1, N_VARS, dtype=torch.bool)


@pytest.fixture
def encoded() -> EncoderOutput:
    tokens = torch.randn(N_OBS, N_TOKENS, N_HIDDEN, dtype=torch.float64)
    return EncoderOutput(tokens, torch.randn(N_OBS, N_LATENT, dtype=torch.float64))


@pytest.fixture
def expression() -> torch.Tensor:
    return 3.0 * torch.rand(N_OBS, N_VARS, dtype=torch.float64)


@pytest.fixture
def context() -> Context:
    return Context(*(3.0 * torch.rand(2, 1, N_VARS, dtype=torch.float64)))


def masked(is_masked: torch.Tensor, *values: torch.Tensor) -> list[torch.Tensor]:
    return [each.masked_fill(is_masked, 0.0) for each in values]


class TestCellTypeHead:
    @pytest.fixture
    def experts(self) -> dict[str, torch.Tensor]:
        """What ``set_experts`` takes."""
        weight, directions = torch.randn(2, N_LABELS, N_VARS, dtype=torch.float64)
        intercept, mean = torch.randn(N_LABELS).double(), torch.rand(N_VARS).double()
        return {"weight": weight, "intercept": intercept, "directions": directions, "mean_expression": mean}

    @pytest.fixture
    def head(self) -> CellTypeHead:
        return CellTypeHead(**SIZES, dropout_rate=0.5, n_networks=2).double().eval()

    @pytest.fixture
    def full_head(self, head, experts) -> CellTypeHead:
        head.set_experts(**experts, shares=Shares(deep=0.4, linear=0.7, cosine=0.3))
        return head

    @staticmethod
    def deep(head: CellTypeHead, encoded: EncoderOutput) -> torch.Tensor:
        """Logits of every network ``(n_networks, n_obs, n_labels)``."""
        states = F.gelu(encoded.cell_state).split(N_LATENT // len(head.to_logits), dim=1)
        return torch.stack([x @ one.weight.T + one.bias for x, one in zip(states, head.to_logits, strict=True)])

    @staticmethod
    def alone(head: CellTypeHead, expert: str, *inputs: Any) -> torch.Tensor:
        """Logits of one expert."""
        with head.weighted(Shares(deep=0.0)._replace(**{expert: 1.0})), torch.no_grad():
            return head(*inputs)

    def test_deep_expert_alone_until_there_are_others(self, head, encoded, expression, context):
        found = head(encoded, expression, UNMASKED, context)
        torch.testing.assert_close(found, self.deep(head, encoded).log_softmax(dim=-1).mean(dim=0))

    @pytest.mark.parametrize("n_networks", [1, 2])
    def test_probabilities_of_networks_are_multiplied(self, n_networks, encoded, expression, context):
        head = CellTypeHead(**SIZES, dropout_rate=0.5, n_networks=n_networks).double().eval()
        found = head(encoded, expression, UNMASKED, context).softmax(dim=1).detach().numpy()
        expected = self.deep(head, encoded).softmax(dim=-1).detach().numpy().prod(axis=0) ** (1 / n_networks)
        np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True))

    def test_linear_expert_is_the_regression_it_was_given(self, full_head, experts, encoded, expression):
        context = Context(torch.rand(1, N_VARS).double(), experts["mean_expression"][None, :])
        found = self.alone(full_head, "linear", encoded, expression, UNMASKED, context)
        torch.testing.assert_close(found, expression @ experts["weight"].T + experts["intercept"])

    @pytest.mark.parametrize("n_rows", [1, N_OBS], ids=["one mask", "mask per cell"])
    def test_linear_expert_counts_masked_genes_as_average(self, n_rows, full_head, experts, encoded, expression):
        is_masked = torch.rand(n_rows, N_VARS) < 0.4
        mean = experts["mean_expression"]
        average = torch.where(is_masked, mean, expression)
        seen, center, known = masked(is_masked, expression, torch.rand(1, N_VARS).double(), mean)
        found = self.alone(full_head, "linear", encoded, seen, is_masked, Context(center, known))
        torch.testing.assert_close(found, average @ experts["weight"].T + experts["intercept"])

    @pytest.mark.parametrize(
        "n_rows", [1, N_OBS, N_LABELS], ids=["one mask", "mask per cell", "as many cells as types"]
    )
    def test_cosine_expert_equals_numpy(self, n_rows, full_head, experts, encoded, expression, context):
        n_obs = N_OBS if n_rows == 1 else n_rows
        is_masked = torch.rand(n_rows, N_VARS) < 0.4
        seen, center, mean = masked(is_masked, expression[:n_obs], *context[:2])
        encoded = EncoderOutput(*(part[:n_obs] for part in encoded))
        found = self.alone(full_head, "cosine", encoded, seen, is_masked, Context(center, mean)).numpy()
        assert found.shape == (n_obs, N_LABELS)
        for n in range(n_obs):
            kept = ~is_masked[n % n_rows].numpy()
            cell = (expression[n] - context.center[0]).numpy()[kept]
            for label in range(N_LABELS):
                direction = experts["directions"][label].numpy()[kept]
                cosine = cell @ direction / np.linalg.norm(cell) / np.linalg.norm(direction)
                assert found[n, label] == pytest.approx(COSINE_SCALE * cosine, rel=1e-6)

    def test_cosine_expert_does_not_see_a_shift_of_every_gene(self, full_head, encoded, expression, context):
        """Nor how strongly a cell deviates."""
        shift = torch.randn(1, N_VARS).double()
        shifted = Context(context.center + shift, context.mean)
        expected = self.alone(full_head, "cosine", encoded, expression, UNMASKED, context)
        found = self.alone(full_head, "cosine", encoded, expression + shift, UNMASKED, shifted)
        torch.testing.assert_close(found, expected)
        further = context.center + 3.0 * (expression - context.center)
        found = self.alone(full_head, "cosine", encoded, further, UNMASKED, context)
        torch.testing.assert_close(found, expected)

    def test_cosines_by_another_distance(self, full_head, encoded, expression, context):
        """As on the way from a baseline to a cell."""
        expected = self.alone(full_head, "cosine", encoded, expression, UNMASKED, context)
        further = context._replace(length=2 * (expression - context.center).norm(dim=1))
        found = self.alone(full_head, "cosine", encoded, expression, UNMASKED, further)
        torch.testing.assert_close(2 * found, expected)

    def test_type_without_cells_has_the_lowest_cosine(self, head, experts, encoded, expression, context):
        experts["directions"][1] = 0.0
        head.set_experts(**experts, shares=Shares(deep=0.0, cosine=1.0))
        found = head(encoded, expression, UNMASKED, context)
        assert (found[:, 1] == -COSINE_SCALE).all()
        assert (found[:, [0, 2]] > -COSINE_SCALE).all()

    @pytest.mark.parametrize("what", ["cell", "genes"])
    def test_cosines_without_a_direction_are_zero(self, what, full_head, encoded, context):
        """A cell that is the center, and a data set that measured no gene of the model."""
        is_masked = torch.full((1, N_VARS), what == "genes")
        center, mean = masked(is_masked, *context[:2])
        expression = center.expand(N_OBS, -1)
        found = self.alone(full_head, "cosine", encoded, expression, is_masked, Context(center, mean))
        torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-9)

    def test_logits_are_the_weighted_sum_of_the_experts(self, full_head, encoded, expression, context):
        inputs = encoded, expression, UNMASKED, context
        found = [self.alone(full_head, expert, *inputs) for expert in Shares._fields]
        expected = 0.4 * found[0] + 0.7 * found[1] + 0.3 * found[2]
        torch.testing.assert_close(full_head(*inputs).detach(), expected, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("n_masked", [0, 4])
    def test_sparse_expression_gives_what_dense_does(self, n_masked, full_head, encoded, expression, context):
        head, encoded = full_head.float(), EncoderOutput(*(part.float() for part in encoded))
        is_masked = (torch.arange(N_VARS) < n_masked)[None, :]
        seen, center, mean = (x.float() for x in masked(is_masked | (expression < 2), expression, *context[:2]))
        csr = sp.csr_matrix(seen.numpy())
        sparse = sparse_rows(*map(torch.from_numpy, (csr.indptr, csr.indices, csr.data)), n_vars=N_VARS)
        context = Context(center[:1], mean[:1])
        found, expected = (head(encoded, x, is_masked, context) for x in (sparse, seen))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("n_networks", [1, 2])
    def test_networks_learn_alone(self, n_networks, experts, encoded, expression, context):
        head = CellTypeHead(**SIZES, dropout_rate=0.0, n_networks=n_networks).double().train()
        head.set_experts(**experts, shares=Shares(0.4, 0.7, 0.3))
        found = head(encoded, expression, UNMASKED, context)
        assert found.shape == (n_networks, N_OBS, N_LABELS)
        torch.testing.assert_close(found, self.deep(head, encoded))

    def test_other_shares_for_a_while(self, full_head, encoded, expression, context):
        inputs = encoded, expression, UNMASKED, context
        before = full_head(*inputs)
        with pytest.raises(RuntimeError, match="meanwhile"), full_head.weighted(Shares(deep=1.0)):
            torch.testing.assert_close(full_head(*inputs), self.deep(full_head, encoded).log_softmax(-1).mean(0))
            raise RuntimeError("meanwhile")
        assert torch.equal(full_head(*inputs), before)

    def test_dropout_in_training_only(self, head, encoded, expression, context):
        inputs = encoded, expression, UNMASKED, context
        assert torch.equal(head(*inputs), head(*inputs))
        head.train()
        assert not torch.equal(head(*inputs), head(*inputs))

    @pytest.mark.parametrize("name", ["linear_weight", "linear_bias", "directions", "shares"])
    def test_experts_are_saved_but_not_trained(self, name, head):
        assert name in head.state_dict()
        assert name not in dict(head.named_parameters())


class TestConvHead:
    @pytest.fixture
    def head(self) -> ConvHead:
        return ConvHead(**SIZES, dropout_rate=0.5).double().eval()

    def test_is_the_convolution_of_the_paper(self, head, encoded, expression, context):
        """Against torch's two-dimensional convolution and plain matrix products."""
        with torch.no_grad():
            kernel = head.convolution.weight.view(1, 1, 1, N_HIDDEN)
            x = F.conv2d(encoded.tokens[:, None], kernel, head.convolution.bias).relu().reshape(N_OBS, N_TOKENS)
            linear = [layer for layer in head.perceptron if isinstance(layer, torch.nn.Linear)]
            assert [layer.out_features for layer in linear] == [512, 128, N_LABELS]
            for i, layer in enumerate(linear):
                x = (x.relu() if i else x) @ layer.weight.T + layer.bias
            found = head(encoded, expression, UNMASKED, context)
        torch.testing.assert_close(found, x)

    def test_every_weight_learns(self, head, encoded, expression, context):
        head(encoded, expression, UNMASKED, context).square().sum().backward()
        assert [n for n, p in head.named_parameters() if not p.grad.abs().sum() > 0] == []

    def test_dropout_in_training_only(self, head, encoded, expression, context):
        inputs = encoded, expression, UNMASKED, context
        assert torch.equal(head(*inputs), head(*inputs))
        head.train()
        assert not torch.equal(head(*inputs), head(*inputs))


class TestTokenExpressionHead:
    def test_reads_the_tokens_of_the_genes(self, encoded):
        head = TokenExpressionHead(n_hidden=N_HIDDEN).double()
        genes = torch.tensor([7, 0, 12, 3, 3])
        found = head(encoded, torch.randn(N_OBS, N_HIDDEN), genes)
        assert found.shape == (N_OBS, N_BINS + 1, 5)
        for j, gene in enumerate(genes):
            torch.testing.assert_close(
                found[:, :, j], encoded.tokens[:, gene] @ head.to_bins.weight.T + head.to_bins.bias
            )


class TestExpressionHead:
    @pytest.fixture
    def head(self) -> ExpressionHead:
        head = ExpressionHead(n_latent=N_LATENT, n_hidden=N_HIDDEN, n_vars=N_VARS, n_bins=N_BINS).double()
        torch.nn.init.normal_(head.gene_bias)
        return head

    @pytest.fixture
    def inputs(self, encoded) -> tuple[EncoderOutput, torch.Tensor]:
        return encoded, torch.randn(N_OBS, N_HIDDEN, dtype=torch.float64)

    def test_equals_loops(self, head, inputs):
        with torch.no_grad():
            logits = head(*inputs, torch.arange(N_VARS)).numpy()
            projected = head.to_bins(torch.cat([inputs[0].cell_state, inputs[1]], dim=1)).numpy()
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
        encoded, batch = inputs
        genes = torch.arange(N_VARS)
        assert not torch.allclose(head(encoded, batch, genes), head(encoded, -batch, genes))


def test_expression_starts_at_the_frequencies_of_the_bins():
    n_per_bin = torch.tensor([[8, 0], [1, 4], [0, 5]])
    head = ExpressionHead(n_latent=N_LATENT, n_hidden=4, n_vars=2, n_bins=3)
    with torch.no_grad():
        head.gene_embedding.zero_()
        head.initialize(n_per_bin)
    encoded = EncoderOutput(torch.zeros(1, 1, 4), torch.randn(1, N_LATENT))
    probabilities = head(encoded, torch.randn(1, 4), torch.arange(2)).softmax(dim=1)[0]
    torch.testing.assert_close(probabilities, torch.tensor([[9, 1], [2, 5], [1, 6]]) / 12)
