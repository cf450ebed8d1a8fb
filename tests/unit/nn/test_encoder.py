from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from transanno.nn import ENCODERS, Context, EncoderOutput, ViewEncoder, build_expression_head, sparse_rows

SIZES = {"n_vars": 23, "n_hidden": 12, "n_latent": 10, "n_networks": 2, "n_layers": 2, "n_heads": 3}
PERFORMER = {"n_vars": 23, "n_hidden": 12, "n_layers": 2, "n_heads": 3, "head_dim": 7, "n_features": 11}
N_OBS, N_VARS = 17, 23


def make_encoder(name: str, **kwargs: Any):
    return ENCODERS[name](**({"views": SIZES, "performer": PERFORMER}[name] | kwargs))


def make_context(is_masked: torch.Tensor, dtype: torch.dtype = torch.float32) -> Context:
    """Means that differ from each other and from any cell, zero where masked."""
    center, mean = 4.0 * torch.rand(2, 1, is_masked.shape[1], dtype=dtype)
    return Context(center.masked_fill(is_masked, 0.0), mean.masked_fill(is_masked, 0.0))


def make_expression(is_masked: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    counts = torch.poisson(torch.full((N_OBS, is_masked.shape[1]), 2.0, dtype=dtype))
    return torch.log1p(counts * 30).masked_fill(is_masked, 0.0)


def as_sparse(expression: torch.Tensor) -> torch.Tensor:
    csr = sp.csr_matrix(expression.numpy())
    return sparse_rows(*map(torch.from_numpy, (csr.indptr, csr.indices, csr.data)), n_vars=csr.shape[1])


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Context]:
    is_masked = torch.rand(N_OBS, N_VARS) < 0.3
    return make_expression(is_masked), is_masked, torch.randn(N_OBS, 12), make_context(is_masked)


def doubled(inputs: tuple) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Context]:
    expression, is_masked, batch, context = inputs
    return expression.double(), is_masked, batch.double(), Context(*(values.double() for values in context[:2]))


def rows(inputs: tuple, chosen: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Context]:
    expression, is_masked, batch, context = inputs
    return expression[chosen], is_masked[chosen], batch[chosen], Context(*(values[chosen] for values in context[:2]))


@pytest.mark.parametrize("name", ENCODERS)
class TestInterface:
    """What a second encoder has to offer, too."""

    def test_shapes(self, name, inputs):
        encoder = make_encoder(name)
        output = encoder(*inputs)
        assert isinstance(output, EncoderOutput)
        assert encoder.n_hidden == 12
        assert output.tokens.shape == (N_OBS, encoder.n_tokens, 12)
        assert output.cell_state.shape == (N_OBS, encoder.n_latent)

    def test_all_arguments_but_the_number_of_genes_have_defaults(self, name):
        parameters = inspect.signature(ENCODERS[name]).parameters
        assert [n for n, p in parameters.items() if p.default is inspect.Parameter.empty] == ["n_vars"]

    def test_says_how_many_cells_fit_into_a_pass(self, name):
        assert 1 <= make_encoder(name, n_vars=16_906).inference_batch_size <= 1024

    def test_expression_head_fits(self, name, inputs):
        encoder = make_encoder(name)
        head = build_expression_head(encoder, n_vars=N_VARS)
        assert head(encoder(*inputs), inputs[2], torch.tensor([3, 5, 22, 0])).shape[::2] == (N_OBS, 4)

    def test_gene_embedding_is_a_parameter_with_a_row_per_gene(self, name):
        encoder = make_encoder(name)
        assert encoder.gene_embedding.shape == (N_VARS, 12 * encoder.n_networks)
        assert any(encoder.gene_embedding is parameter for parameter in encoder.parameters())

    def test_every_weight_learns(self, name, inputs):
        encoder = make_encoder(name)
        output = encoder(*inputs)
        (output.cell_state.square().sum() + output.tokens.square().sum()).backward()
        assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []

    def test_cells_do_not_see_each_other(self, name, inputs):
        encoder, inputs = make_encoder(name).double(), doubled(inputs)
        whole = encoder(*inputs).cell_state
        alone = torch.cat([encoder(*rows(inputs, slice(i, i + 1)))[1] for i in range(5)])
        torch.testing.assert_close(alone, whole[:5])

    def test_batch_enters(self, name, inputs):
        encoder = make_encoder(name)
        expression, is_masked, batch, context = inputs
        found = [encoder(expression, is_masked, sign * batch, context)[1] for sign in (1, -1)]
        assert not torch.allclose(*found)

    def test_reading_and_encoding_are_the_forward_pass_in_two_parts(self, name, inputs):
        encoder = make_encoder(name).eval()
        whole, parts = encoder(*inputs), encoder.encode(encoder.read(*inputs[:2]), *inputs[1:])
        assert torch.equal(whole.cell_state, parts.cell_state)
        assert torch.equal(whole.tokens, parts.tokens)

    def test_tunable_layers_are_layers_of_the_encoder(self, name):
        encoder = make_encoder(name)
        layers = list(map(id, encoder.modules()))
        assert encoder.tunable_layers
        assert all(id(layer) in layers for layer in encoder.tunable_layers)


class TestViews:
    """The three tokens of a cell, before anything is added to them."""

    @pytest.fixture
    def encoder(self) -> ViewEncoder:
        encoder = make_encoder("views").double()
        with torch.no_grad():
            for parameter in encoder.parameters():  # nothing at its start value
                parameter.add_(0.2 * torch.randn_like(parameter))
        return encoder

    @staticmethod
    def views(encoder: ViewEncoder, *inputs: Any) -> torch.Tensor:
        """What the maps to the tokens are given ``(n_networks, 3, n_obs, n_hidden)``."""
        seen: list[torch.Tensor] = []
        maps = [to_token for network in encoder.networks for to_token in network.to_tokens]
        handles = [one.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0])) for one in maps]
        with torch.no_grad():
            encoder(*inputs)
        for handle in handles:
            handle.remove()
        return torch.stack(seen).unflatten(0, (encoder.n_networks, 3))

    @pytest.mark.parametrize("n_rows", [1, N_OBS], ids=["one mask", "mask per cell"])
    def test_equal_loops(self, n_rows, encoder, inputs):
        expression, is_masked, batch, context = (each for each in doubled(inputs))
        if n_rows == 1:
            is_masked = is_masked[:1]
            expression, context = make_expression(is_masked).double(), make_context(is_masked, torch.float64)
        found = self.views(encoder, expression, is_masked, batch, context)
        embedding = encoder.gene_embedding.detach().numpy()
        for i in range(N_OBS):
            x, m, mean = expression[i].numpy(), *(values[i % n_rows].numpy() for values in context[:2])
            direction = 30 * (x - m) / np.sqrt(((x - m) ** 2).sum())
            for k in range(2):
                table = embedding[:, 12 * k : 12 * (k + 1)]
                for view, values in enumerate((x, direction, m - mean)):
                    np.testing.assert_allclose(found[k, view, i], values @ table, rtol=1e-9, atol=1e-12)

    def test_forward_is_its_parts_in_order(self, encoder, inputs):
        inputs = doubled(inputs)
        batch, tokens, states = inputs[2], [], []
        with torch.no_grad():
            for network, views in zip(encoder.networks, self.views(encoder, *inputs), strict=True):
                maps = zip(network.to_tokens, views, strict=True)
                found = torch.stack([view @ one.weight.T + one.bias for one, view in maps], dim=1) + batch[:, None]
                found = network.token_norm(found)
                for block in network.blocks:
                    found = block(found)
                tokens.append(found)
                flat = network.norm(found.reshape(N_OBS, 36))
                states.append(flat @ network.to_cell_state.weight.T + network.to_cell_state.bias)
                assert len(network.blocks) == 2
            output = encoder(*inputs)
        torch.testing.assert_close(output.tokens, torch.cat(tokens, dim=1))
        torch.testing.assert_close(output.cell_state, torch.cat(states, dim=1))

    def test_direction_does_not_see_a_shift_of_every_gene(self, encoder, inputs):
        """As that of a platform: the same for all cells of a data set, so also of its mean."""
        expression, is_masked, batch, context = doubled(inputs)
        nothing = torch.zeros(1, N_VARS, dtype=torch.bool)
        shift = torch.randn(1, N_VARS, dtype=torch.float64)
        shifted = Context(context.center + shift, context.mean)
        before = self.views(encoder, expression, nothing, batch, context)
        after = self.views(encoder, expression + shift, nothing, batch, shifted)
        torch.testing.assert_close(after[:, 1], before[:, 1])
        for view in (0, 2):  # what is not equal says how far the data set is from the reference
            assert not torch.isclose(after[:, view], before[:, view]).any()

    def test_direction_does_not_see_how_far_a_cell_is(self, encoder, inputs):
        expression, is_masked, batch, context = doubled(inputs)
        nothing = torch.zeros(1, N_VARS, dtype=torch.bool)
        further = context.center + 3.0 * (expression - context.center)
        found = [self.views(encoder, x, nothing, batch, context)[:, 1] for x in (expression, further)]
        torch.testing.assert_close(*found)

    def test_distance_may_be_that_of_other_cells(self, encoder, inputs):
        """As on the way from a baseline to a cell; otherwise it is that of the cells themselves."""
        expression, is_masked, batch, context = doubled(inputs)
        length = (expression - context.center).norm(dim=1)
        found, same, half = (
            self.views(encoder, expression, is_masked, batch, context._replace(length=each))
            for each in (None, length, 2 * length)
        )
        torch.testing.assert_close(same, found)
        torch.testing.assert_close(2 * half[:, 1], found[:, 1])

    def test_dataset_like_the_reference_has_an_empty_third_view(self, encoder, inputs):
        expression, is_masked, batch, context = doubled(inputs)
        found = self.views(encoder, expression, is_masked, batch, Context(context.center, context.center))
        assert (found[:, 2] == 0).all()
        assert (found[:, :2] != 0).all()

    def test_cell_that_is_all_there_is_of_its_data_set(self, encoder):
        """It has no direction, and neither its output nor a gradient may be NaN."""
        is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
        expression = torch.rand(1, N_VARS, dtype=torch.float64).requires_grad_()
        context = Context(expression.detach().clone(), torch.rand(1, N_VARS, dtype=torch.float64))
        batch = torch.randn(1, 12, dtype=torch.float64)
        assert (self.views(encoder, expression.detach(), is_masked, batch, context)[:, 1] == 0).all()
        output = encoder(expression, is_masked, batch, context)
        (output.cell_state.sum() + output.tokens.sum()).backward()
        assert output.cell_state.isfinite().all()
        assert expression.grad.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())

    def test_cells_without_counts_or_without_measured_genes_are_finite(self, encoder):
        is_masked = torch.stack([torch.zeros(N_VARS), torch.ones(N_VARS)]).bool()
        context = make_context(is_masked, torch.float64)
        output = encoder(torch.zeros(2, N_VARS).double(), is_masked, torch.randn(2, 12).double(), context)
        assert output.cell_state.isfinite().all()
        output.cell_state.square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


class TestMaskedGenes:
    def test_are_absent(self):
        """As though the encoder had been built without them, whatever their embeddings are."""
        encoder = make_encoder("views").double()
        is_masked = torch.arange(N_VARS) % 3 == 0
        mask = is_masked[None, :]
        expression, batch = make_expression(mask, torch.float64), torch.randn(N_OBS, 12).double()
        context = make_context(mask, torch.float64)
        with torch.no_grad():
            expected = encoder(expression, mask, batch, context)
            encoder.gene_embedding[is_masked] = 1e3 * torch.randn(int(is_masked.sum()), 24, dtype=torch.float64)
            torch.testing.assert_close(encoder(expression, mask, batch, context), expected)
            smaller = make_encoder("views", n_vars=int((~is_masked).sum())).double()
            smaller.load_state_dict(encoder.state_dict() | {"gene_embedding": encoder.gene_embedding[~is_masked]})
            seen = Context(*(values[:, ~is_masked] for values in context[:2]))
            found = smaller(expression[:, ~is_masked], mask[:, ~is_masked], batch, seen)
        torch.testing.assert_close(found, expected)

    def test_one_mask_for_all_cells_equals_it_repeated(self):
        encoder = make_encoder("views").double()
        is_masked = torch.arange(N_VARS)[None, :] % 3 == 0
        expression, batch = make_expression(is_masked, torch.float64), torch.randn(N_OBS, 12).double()
        context = make_context(is_masked, torch.float64)
        repeated = Context(*(values.expand(N_OBS, -1) for values in context[:2]))
        found = encoder(expression, is_masked.expand(N_OBS, -1), batch, repeated)
        torch.testing.assert_close(found, encoder(expression, is_masked, batch, context))

    def test_silent_measured_gene_differs_from_a_masked_one(self):
        encoder = make_encoder("views").double()
        nothing, is_masked = torch.zeros(1, N_VARS, dtype=torch.bool), torch.arange(N_VARS)[None, :] == 0
        expression, batch = make_expression(is_masked, torch.float64), torch.randn(N_OBS, 12).double()
        context = make_context(nothing, torch.float64)
        without = Context(*(values.masked_fill(is_masked, 0.0) for values in context[:2]))
        silent = encoder(expression, nothing, batch, context).cell_state
        assert not torch.allclose(encoder(expression, is_masked, batch, without).cell_state, silent)


@pytest.mark.parametrize("n_masked", [0, 7])
def test_sparse_expression_gives_what_dense_does(n_masked):
    encoder = make_encoder("views").eval()
    is_masked = (torch.arange(N_VARS) < n_masked)[None, :]
    expression, batch, context = make_expression(is_masked), torch.randn(N_OBS, 12), make_context(is_masked)
    expression[4] = 0.0
    with torch.no_grad():
        dense, sparse = (encoder(x, is_masked, batch, context) for x in (expression, as_sparse(expression)))
    torch.testing.assert_close(sparse.tokens, dense.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sparse.cell_state, dense.cell_state, rtol=1e-4, atol=1e-5)


class TestNetworks:
    def test_read_the_same_cells_apart(self, inputs):
        """What one of them makes of a cell depends on no weight of the other."""
        encoder, inputs = make_encoder("views").double(), doubled(inputs)
        with torch.no_grad():
            before = encoder(*inputs)
            encoder.gene_embedding[:, :12] += 1.0
            for parameter in encoder.networks[0].parameters():
                parameter.add_(torch.randn_like(parameter))
            after = encoder(*inputs)
        assert torch.equal(after.cell_state[:, 5:], before.cell_state[:, 5:])
        assert torch.equal(after.tokens[:, 3:], before.tokens[:, 3:])
        assert not torch.isclose(after.cell_state[:, :5], before.cell_state[:, :5]).any()

    def test_one_of_them_is_an_encoder_of_its_own(self, inputs):
        encoder, inputs = make_encoder("views").double(), doubled(inputs)
        single = make_encoder("views", n_networks=1, n_latent=5).double()
        state = {name.replace(".1.", ".0.", 1): w for name, w in encoder.state_dict().items() if "networks.1." in name}
        single.load_state_dict(state | {"gene_embedding": encoder.gene_embedding.detach()[:, 12:]})
        torch.testing.assert_close(single(*inputs).cell_state, encoder(*inputs).cell_state[:, 5:])

    @pytest.mark.parametrize(
        ("arguments", "found"),
        [
            ({"n_heads": 5}, "n_hidden=12 is not a multiple of n_heads=5"),
            ({"n_networks": 3}, "n_latent=10 is not a multiple of n_networks=3"),
        ],
    )
    def test_sizes_that_do_not_divide(self, arguments, found):
        with pytest.raises(ValueError, match=f"{found}. Choose one that is."):
            make_encoder("views", **arguments)


class TestInitializeGenes:
    def test_embeddings_are_the_principal_axes(self):
        """Rank below n_hidden, so that the embeddings have to give the covariance of the genes exactly."""
        encoder = make_encoder("views")
        expression = torch.randn(61, 5) @ torch.randn(5, N_VARS) + 3 * torch.rand(N_VARS)
        encoder.initialize_genes(expression)
        centered = expression.double().numpy()
        centered -= centered.mean(axis=0)
        covariance = centered.T @ centered
        for embedding in encoder.gene_embedding.detach().double().numpy().reshape(N_VARS, 2, 12).swapaxes(0, 1):
            gram = embedding @ embedding.T
            np.testing.assert_allclose(gram / np.trace(gram), covariance / np.trace(covariance), atol=1e-5)
            # A cell's reading is of the order of one.
            assert np.sqrt((embedding**2).mean()) == pytest.approx(2 / np.sqrt(N_VARS), rel=0.02)

    def test_networks_start_from_different_rotations(self):
        encoder = make_encoder("views", n_networks=5)
        encoder.initialize_genes(torch.rand(61, N_VARS))
        parts = encoder.gene_embedding.detach().split(12, dim=1)
        for i in range(5):
            for j in range(i):
                assert not torch.isclose(parts[i], parts[j], atol=1e-4).all(dim=0).any()

    def test_subspace_is_that_of_numpy(self):
        encoder = make_encoder("views")
        rng = np.random.default_rng(0)
        left, right = (np.linalg.qr(rng.normal(size=(n, N_VARS)))[0] for n in (61, N_VARS))
        expression = left @ np.diag(0.6 ** np.arange(N_VARS)) @ right.T * 100  # full rank
        encoder.initialize_genes(torch.from_numpy(expression).float())
        _, scale, axes = np.linalg.svd(expression - expression.mean(axis=0))
        embedding = encoder.gene_embedding.detach().numpy()[:, :12]
        ours = embedding / np.linalg.norm(embedding, axis=0)
        np.testing.assert_allclose(np.abs(np.sum(ours[:, :8] * axes[:8].T, axis=0)), 1.0, atol=1e-3)
        norms = np.linalg.norm(embedding, axis=0)
        np.testing.assert_allclose(norms / norms[0], scale[:12] / scale[0], rtol=1e-2)

    def test_fewer_cells_than_n_hidden(self):
        encoder = make_encoder("views")
        encoder.initialize_genes(torch.randn(5, N_VARS))
        embedding = encoder.gene_embedding
        assert embedding.shape == (N_VARS, 24)
        assert torch.isfinite(embedding).all()
        assert torch.equal(embedding[:, 5:12], torch.zeros(N_VARS, 7))
        assert np.linalg.matrix_rank(embedding.detach().numpy()[:, :12], tol=1e-4) == 4

    def test_fewer_genes_than_n_hidden(self):
        encoder = make_encoder("views", n_vars=7)
        encoder.initialize_genes(torch.randn(31, 7))
        assert encoder.gene_embedding.shape == (7, 24)
        assert torch.equal(encoder.gene_embedding[:, 7:12], torch.zeros(7, 5))

    def test_gene_that_does_not_vary_starts_at_zero(self):
        encoder = make_encoder("views")
        expression = torch.rand(31, N_VARS)
        expression[:, 3] = 2.0
        encoder.initialize_genes(expression)
        assert encoder.gene_embedding[3].abs().max() < 1e-5

    @pytest.mark.parametrize("n_obs", [1, 7])
    def test_cells_that_are_all_alike_give_finite_weights(self, n_obs):
        encoder = make_encoder("views")
        encoder.initialize_genes(torch.rand(N_VARS).expand(n_obs, -1))
        assert torch.isfinite(encoder.gene_embedding).all()
