from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from transanno.nn import CellTypeHead, ConvHead, EncoderOutput, ExpressionHead, TokenExpressionHead

N_OBS, N_VARS, N_LATENT, N_LABELS, N_HIDDEN, N_BINS, N_TOKENS = 5, 13, 11, 3, 7, 6, 17
SIZES = {"n_vars": N_VARS, "n_tokens": N_TOKENS, "n_hidden": N_HIDDEN, "n_latent": N_LATENT, "n_labels": N_LABELS}


def per_200(expression: torch.Tensor) -> torch.Tensor:
    """log1p of counts per 10,000 -> log1p of counts per 200."""
    return torch.log1p((torch.exp(expression) - 1) / 50)


@pytest.fixture
def encoded() -> EncoderOutput:
    tokens = torch.randn(N_OBS, N_TOKENS, N_HIDDEN, dtype=torch.float64)
    return EncoderOutput(tokens, torch.randn(N_OBS, N_LATENT, dtype=torch.float64))


class TestCellTypeHead:
    @pytest.fixture
    def head(self) -> CellTypeHead:
        head = CellTypeHead(**SIZES, dropout_rate=0.5).double().eval()
        head.mean_expression.copy_(torch.rand(N_VARS))
        return head

    @pytest.fixture
    def expression(self) -> torch.Tensor:
        return torch.rand(N_OBS, N_VARS, dtype=torch.float64)

    @pytest.fixture
    def wide_head(self, head) -> CellTypeHead:
        weight, intercept = torch.randn(N_LABELS, N_VARS), torch.randn(N_LABELS)
        head.set_wide(weight.double(), intercept.double(), deep_share=0.4, wide_share=0.7)
        return head

    def test_deep_path_alone_until_there_is_a_wide_one(self, head, encoded, expression):
        is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
        torch.testing.assert_close(head(encoded, expression, is_masked), head.to_logits(F.gelu(encoded.cell_state)))

    @pytest.mark.parametrize("n_rows", [1, N_OBS], ids=["one mask", "mask per cell"])
    def test_equals_loops(self, n_rows, wide_head, encoded, expression):
        is_masked = torch.rand(n_rows, N_VARS) < 0.4
        expression = expression.masked_fill(is_masked, 0.0)
        expected = 0.4 * wide_head.to_logits(F.gelu(encoded.cell_state)).detach() + 0.7 * wide_head.wide_bias
        for n in range(N_OBS):
            for label in range(N_LABELS):
                for g in range(N_VARS):
                    if not is_masked[n % n_rows, g]:
                        deviation = per_200(expression[n, g]) - per_200(wide_head.mean_expression[g])
                        expected[n, label] += 0.7 * wide_head.wide_weight[label, g] * deviation
        torch.testing.assert_close(wide_head(encoded, expression, is_masked).detach(), expected)

    def test_wide_path_is_the_regression_it_was_given(self, head, encoded, expression):
        weight, intercept = torch.randn(N_LABELS, N_VARS).double(), torch.randn(N_LABELS).double()
        head.set_wide(weight, intercept, deep_share=0.0, wide_share=1.0)
        found = head(encoded, expression, torch.zeros(1, N_VARS, dtype=torch.bool))
        torch.testing.assert_close(found, per_200(expression) @ weight.T + intercept)

    def test_deep_path_learns_alone(self, wide_head, encoded, expression):
        wide_head.dropout.p = 0.0
        is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
        found = wide_head.train()(encoded, expression, is_masked)
        torch.testing.assert_close(found, wide_head.to_logits(F.gelu(encoded.cell_state)))

    def test_one_path_alone_for_a_while(self, wide_head, encoded, expression):
        inputs = encoded, expression, torch.zeros(1, N_VARS, dtype=torch.bool)
        both, deep = wide_head(*inputs), wide_head.to_logits(F.gelu(encoded.cell_state))
        with wide_head.alone("wide"):
            torch.testing.assert_close(wide_head(*inputs), both - 0.4 * deep)
        with pytest.raises(RuntimeError, match="meanwhile"), wide_head.alone("deep"):
            torch.testing.assert_close(wide_head(*inputs), deep)
            raise RuntimeError("meanwhile")
        assert torch.equal(wide_head(*inputs), both)

    def test_masked_gene_counts_as_average(self, wide_head, encoded, expression):
        head = wide_head
        is_masked = torch.arange(N_VARS)[None, :] % 3 == 0
        average = torch.where(is_masked, head.mean_expression, expression)
        expression = expression.masked_fill(is_masked, 0.0)
        unmasked = torch.zeros(1, N_VARS, dtype=torch.bool)
        torch.testing.assert_close(head(encoded, expression, is_masked), head(encoded, average, unmasked))

    def test_dropout_in_training_only(self, head, encoded, expression):
        is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
        assert torch.equal(head(encoded, expression, is_masked), head(encoded, expression, is_masked))
        head.train()
        assert not torch.equal(head(encoded, expression, is_masked), head(encoded, expression, is_masked))

    @pytest.mark.parametrize(
        "name", ["mean_expression", "wide_weight", "wide_bias", "deep_share", "wide_share", "wide_sum"]
    )
    def test_wide_path_is_saved_but_not_trained(self, name, head):
        assert name in head.state_dict()
        assert name not in dict(head.named_parameters())

    def test_head_of_an_older_model_reads_counts_per_10_000_in_shares_of_one(self, wide_head, encoded, expression):
        state = wide_head.state_dict()
        del state["wide_sum"], state["deep_share"]
        loaded = CellTypeHead(**SIZES, dropout_rate=0.5).double().eval()
        loaded.load_state_dict(state)
        deviation = expression - wide_head.mean_expression
        wide = deviation @ wide_head.wide_weight.T + wide_head.wide_bias
        expected = 0.3 * wide_head.to_logits(F.gelu(encoded.cell_state)) + 0.7 * wide
        found = loaded(encoded, expression, torch.zeros(1, N_VARS, dtype=torch.bool))
        torch.testing.assert_close(found, expected)

    def test_starts_from_the_mean(self, head):
        head.initialize(torch.arange(13.0))
        assert torch.equal(head.mean_expression, torch.arange(13.0, dtype=torch.float64))


class TestConvHead:
    @pytest.fixture
    def head(self) -> ConvHead:
        return ConvHead(**SIZES, dropout_rate=0.5).double().eval()

    def test_is_the_convolution_of_the_paper(self, head, encoded):
        """Against torch's two-dimensional convolution and plain matrix products."""
        with torch.no_grad():
            kernel = head.convolution.weight.view(1, 1, 1, N_HIDDEN)
            x = F.conv2d(encoded.tokens[:, None], kernel, head.convolution.bias).relu().reshape(N_OBS, N_TOKENS)
            linear = [layer for layer in head.perceptron if isinstance(layer, torch.nn.Linear)]
            assert [layer.out_features for layer in linear] == [512, 128, N_LABELS]
            for i, layer in enumerate(linear):
                x = (x.relu() if i else x) @ layer.weight.T + layer.bias
            found = head(encoded, torch.rand(N_OBS, N_VARS), torch.zeros(1, N_VARS, dtype=torch.bool))
        torch.testing.assert_close(found, x)

    def test_every_weight_learns(self, head, encoded):
        head(encoded, torch.rand(N_OBS, N_VARS), torch.zeros(1, N_VARS, dtype=torch.bool)).square().sum().backward()
        assert [n for n, p in head.named_parameters() if not p.grad.abs().sum() > 0] == []

    def test_dropout_in_training_only(self, head, encoded):
        inputs = encoded, torch.rand(N_OBS, N_VARS), torch.zeros(1, N_VARS, dtype=torch.bool)
        assert torch.equal(head(*inputs), head(*inputs))
        head.train()
        assert not torch.equal(head(*inputs), head(*inputs))

    def test_random_start_does_not_depend_on_the_data(self, head):
        before = {name: weight.clone() for name, weight in head.state_dict().items()}
        head.initialize(torch.rand(N_VARS))
        assert all(torch.equal(weight, before[name]) for name, weight in head.state_dict().items())


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
