from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from transanno.nn import ENCODERS, EncoderOutput, SlotEncoder

SIZES = {"n_vars": 23, "n_hidden": 12, "n_latent": 11, "n_slots": 3, "n_layers": 2, "n_heads": 3}
N_OBS = 17


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    is_masked = torch.rand(N_OBS, 23) < 0.3
    expression = torch.log1p(torch.poisson(torch.full((N_OBS, 23), 2.0)) * 30).masked_fill(is_masked, 0.0)
    return expression, is_masked, torch.randn(N_OBS, 12)


@pytest.mark.parametrize("name", ENCODERS)
class TestInterface:
    """What a second encoder has to offer, too."""

    def test_shapes(self, name, inputs):
        output = ENCODERS[name](**SIZES)(*inputs)
        assert isinstance(output, EncoderOutput)
        assert output.tokens.shape[::2] == (N_OBS, 12)
        assert output.cell_state.shape == (N_OBS, 11)

    def test_arguments_are_those_of_the_slot_encoder(self, name):
        assert inspect.signature(ENCODERS[name]) == inspect.signature(SlotEncoder)

    def test_gene_embedding_is_a_parameter_with_a_row_per_gene(self, name):
        encoder = ENCODERS[name](**SIZES)
        assert encoder.gene_embedding.shape == (23, 12)
        assert any(encoder.gene_embedding is parameter for parameter in encoder.parameters())

    def test_every_weight_learns(self, name, inputs):
        encoder = ENCODERS[name](**SIZES)
        output = encoder(*inputs)
        (output.cell_state.square().sum() + output.tokens.square().sum()).backward()
        assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []

    def test_cells_do_not_see_each_other(self, name, inputs):
        encoder = ENCODERS[name](**SIZES).double()
        expression, is_masked, batch = inputs[0].double(), inputs[1], inputs[2].double()
        whole = encoder(expression, is_masked, batch).cell_state
        alone = torch.cat([encoder(expression[i : i + 1], is_masked[i : i + 1], batch[i : i + 1])[1] for i in range(5)])
        torch.testing.assert_close(alone, whole[:5])

    def test_batch_enters(self, name, inputs):
        encoder = ENCODERS[name](**SIZES)
        expression, is_masked, batch = inputs
        assert not torch.allclose(encoder(expression, is_masked, batch)[1], encoder(expression, is_masked, -batch)[1])


def test_forward_is_its_parts_in_order(inputs):
    encoder = SlotEncoder(**SIZES).double()
    expression, is_masked, batch = inputs[0].double(), inputs[1], inputs[2].double()
    tokens = encoder.attention(expression, is_masked) + batch[:, None]
    for block in encoder.blocks:
        tokens = block(tokens)
    tokens = encoder.norm(tokens)
    state = tokens.reshape(N_OBS, 36) @ encoder.to_cell_state.weight.T + encoder.to_cell_state.bias
    output = encoder(expression, is_masked, batch)
    assert len(encoder.blocks) == 2
    torch.testing.assert_close(output.tokens, tokens)
    torch.testing.assert_close(output.cell_state, state)


class TestInitializeGenes:
    def test_embeddings_are_the_principal_axes(self):
        """Rank below n_hidden, so that the embeddings have to give the covariance of the genes exactly."""
        encoder = SlotEncoder(**SIZES)
        spread = encoder.gene_embedding.std().item()
        expression = torch.randn(61, 5) @ torch.randn(5, 23) + 3 * torch.rand(23)
        encoder.initialize_genes(expression)
        embedding = encoder.gene_embedding.detach().double().numpy()
        centered = expression.double().numpy()
        centered -= centered.mean(axis=0)
        gram, covariance = embedding @ embedding.T, centered.T @ centered
        np.testing.assert_allclose(gram / np.trace(gram), covariance / np.trace(covariance), atol=1e-5)
        assert embedding.std(ddof=1) == pytest.approx(spread, rel=1e-4)

    def test_subspace_is_that_of_numpy(self):
        encoder = SlotEncoder(**SIZES)
        rng = np.random.default_rng(0)
        left, right = (np.linalg.qr(rng.normal(size=(n, 23)))[0] for n in (61, 23))
        expression = left @ np.diag(0.6 ** np.arange(23)) @ right.T * 100  # full rank
        encoder.initialize_genes(torch.from_numpy(expression).float())
        _, scale, axes = np.linalg.svd(expression - expression.mean(axis=0))
        embedding = encoder.gene_embedding.detach().numpy()
        ours = embedding / np.linalg.norm(embedding, axis=0)
        np.testing.assert_allclose(np.abs(np.sum(ours[:, :8] * axes[:8].T, axis=0)), 1.0, atol=1e-3)
        norms = np.linalg.norm(embedding, axis=0)
        np.testing.assert_allclose(norms / norms[0], scale[:12] / scale[0], rtol=1e-2)

    def test_fewer_cells_than_n_hidden(self):
        encoder = SlotEncoder(**SIZES)
        encoder.initialize_genes(torch.randn(5, 23))
        embedding = encoder.gene_embedding
        assert embedding.shape == (23, 12)
        assert torch.isfinite(embedding).all()
        assert torch.equal(embedding[:, 5:], torch.zeros(23, 7))
        assert np.linalg.matrix_rank(embedding.detach().numpy(), tol=1e-4) == 4

    def test_fewer_genes_than_n_hidden(self):
        encoder = SlotEncoder(**SIZES | {"n_vars": 7})
        encoder.initialize_genes(torch.randn(31, 7))
        assert encoder.gene_embedding.shape == (7, 12)
        assert torch.equal(encoder.gene_embedding[:, 7:], torch.zeros(7, 5))

    def test_gene_that_does_not_vary_starts_at_zero(self):
        encoder = SlotEncoder(**SIZES)
        expression = torch.rand(31, 23)
        expression[:, 3] = 2.0
        encoder.initialize_genes(expression)
        assert encoder.gene_embedding[3].abs().max() < 1e-5

    @pytest.mark.parametrize("n_obs", [1, 7])
    def test_cells_that_are_all_alike_give_finite_weights(self, n_obs):
        encoder = SlotEncoder(**SIZES)
        encoder.initialize_genes(torch.rand(23).expand(n_obs, -1))
        assert torch.isfinite(encoder.gene_embedding).all()
