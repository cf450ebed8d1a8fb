from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from transanno.nn import Context, PerformerEncoder, bin_expression, normalize_counts

SMALL = {"n_vars": 23, "n_hidden": 12, "n_layers": 2, "n_heads": 3, "head_dim": 7, "n_features": 11}
N_OBS = 5


def no_context(n_vars: int = 23) -> Context:
    """What the Performer is told of the data set, and does not read."""
    return Context(torch.full((1, n_vars), torch.nan), torch.full((1, n_vars), torch.nan))


def make_encoder(**kwargs: Any) -> PerformerEncoder:
    return PerformerEncoder(**(SMALL | kwargs))


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Context]:
    is_masked = torch.rand(N_OBS, 23) < 0.3
    counts = torch.poisson(torch.full((N_OBS, 23), 0.7))
    return normalize_counts(counts, is_masked), is_masked, torch.randn(N_OBS, 12), no_context()


def projections(encoder: PerformerEncoder) -> list[torch.Tensor]:
    return [layer.projection.clone() for layer in encoder.layers]


class TestDefaults:
    def test_are_the_paper_s(self):
        encoder = PerformerEncoder(n_vars=3)
        layer = encoder.layers[0]
        assert (encoder.n_hidden, encoder.n_latent, len(encoder.layers), layer.n_heads) == (200, 200, 6, 10)
        assert layer.to_query.weight.shape == (640, 200)
        assert layer.to_query.bias is None
        assert layer.to_out.bias is not None
        assert layer.projection.shape == (266, 64)
        assert layer.feed_forward[0].out_features == 800
        assert encoder.token_embedding.num_embeddings == 7
        assert encoder.redraw_interval == 1000


class TestTokens:
    @staticmethod
    def tokens_read(encoder: PerformerEncoder, *inputs: torch.Tensor) -> torch.Tensor:
        """What the first layer is given."""
        seen = []
        handle = encoder.layers[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        encoder(*inputs)
        handle.remove()
        return seen[0]

    def test_are_bin_or_mask_plus_gene(self, inputs):
        encoder = make_encoder()
        expression, is_masked, batch, context = inputs
        tokens = self.tokens_read(encoder, *inputs)
        for i in range(N_OBS):
            for gene in range(23):
                token = 6 if is_masked[i, gene] else min(int(math.log2(math.exp(expression[i, gene]) + 1e-6)), 5)
                expected = encoder.token_embedding.weight[token] + encoder.gene_embedding[gene]
                assert torch.equal(tokens[i, gene], expected)

    def test_batch_is_added_to_the_appended_token_only(self, inputs):
        encoder = make_encoder()
        expression, is_masked, batch, context = inputs
        tokens = self.tokens_read(encoder, expression, is_masked, batch, context)
        appended = encoder.token_embedding.weight[0] + encoder.appended_embedding
        torch.testing.assert_close(tokens[:, -1], appended + batch)
        assert torch.equal(tokens[:, :-1], self.tokens_read(encoder, expression, is_masked, -batch, context)[:, :-1])

    def test_bins_are_those_of_the_objective(self):
        """At the edges of the bins, too: 2^k - 1 counts in a cell of 10,000."""
        counts = torch.zeros(1, 9)
        counts[0, :7] = 2.0 ** torch.arange(7) - 1
        counts[0, 7] = 2
        counts[0, 8] = 1e4 - counts.sum()
        encoder = make_encoder(n_vars=9)
        is_masked = torch.zeros(1, 9, dtype=torch.bool)
        expression = normalize_counts(counts, is_masked)
        tokens = self.tokens_read(encoder, expression, is_masked, torch.zeros(1, 12), no_context(9))
        bins = bin_expression(counts, counts.sum(dim=1, keepdim=True))
        assert bins.tolist() == [[0, 1, 2, 3, 4, 5, 5, 1, 5]]
        torch.testing.assert_close(tokens[:, :-1] - encoder.gene_embedding, encoder.token_embedding(bins))

    def test_cell_state_is_the_mean_over_measured_genes(self, inputs):
        tokens, state = make_encoder()(*inputs)
        for i in range(N_OBS):
            torch.testing.assert_close(state[i], tokens[i, :-1][~inputs[1][i]].mean(dim=0))

    def test_one_mask_for_all_cells(self, inputs):
        encoder, is_masked = make_encoder(), inputs[1][:1]
        expression = inputs[0].masked_fill(is_masked, 0.0)
        one, each = (encoder(expression, mask, *inputs[2:]) for mask in (is_masked, is_masked.expand(N_OBS, -1)))
        torch.testing.assert_close(one.tokens, each.tokens)
        torch.testing.assert_close(one.cell_state, each.cell_state)

    def test_cell_without_measured_genes_is_finite(self):
        nothing = torch.zeros(1, 23), torch.ones(1, 23, dtype=torch.bool), torch.zeros(1, 12)
        output = make_encoder()(*nothing, no_context())
        assert torch.isfinite(output.tokens).all()
        assert torch.equal(output.cell_state, torch.zeros(1, 12))

    def test_genes_start_at_random_whatever_the_data(self):
        encoder = make_encoder()
        before = encoder.gene_embedding.detach().clone()
        encoder.initialize_genes(torch.rand(31, 23))
        assert torch.equal(encoder.gene_embedding, before)


class TestRedraw:
    def train_passes(self, encoder: PerformerEncoder, inputs, n: int) -> None:
        for _ in range(n):
            encoder(*inputs)

    def test_every_interval_of_training_passes(self, inputs):
        encoder = make_encoder(redraw_interval=3)
        before = projections(encoder)
        self.train_passes(encoder, inputs, 3)
        assert all(map(torch.equal, projections(encoder), before))
        self.train_passes(encoder, inputs, 1)
        after = projections(encoder)
        assert not any(map(torch.equal, after, before))
        self.train_passes(encoder, inputs, 2)
        assert all(map(torch.equal, projections(encoder), after))
        self.train_passes(encoder, inputs, 1)
        assert not any(map(torch.equal, projections(encoder), after))

    def test_never_in_evaluation(self, inputs):
        encoder = make_encoder(redraw_interval=1).eval()
        before = projections(encoder)
        first = encoder(*inputs).tokens
        self.train_passes(encoder, inputs, 3)
        assert all(map(torch.equal, projections(encoder), before))
        assert torch.equal(encoder(*inputs).tokens, first)

    def test_never_while_everything_is_frozen(self, inputs):
        encoder = make_encoder(redraw_interval=1).requires_grad_(False)
        before = projections(encoder)
        self.train_passes(encoder, inputs, 3)
        assert all(map(torch.equal, projections(encoder), before))
        encoder.norm.requires_grad_(True)  # the paper's rule of fine-tuning
        self.train_passes(encoder, inputs, 2)
        assert not any(map(torch.equal, projections(encoder), before))

    def test_is_seeded(self, inputs):
        found = []
        for _ in range(2):
            torch.manual_seed(5)
            encoder = make_encoder(redraw_interval=1)
            self.train_passes(encoder, inputs, 3)
            found.append(projections(encoder))
        assert all(map(torch.equal, *found))

    def test_features_are_saved(self):
        assert {f"layers.{i}.projection" for i in range(2)} <= make_encoder().state_dict().keys()


class TestMemory:
    @staticmethod
    def saved(n_vars: int) -> tuple[int, int]:
        """Training pass of one cell -> bytes kept for the backward pass, elements of the largest tensor."""
        encoder = make_encoder(n_vars=n_vars, n_layers=1)
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        is_masked = torch.zeros(1, n_vars, dtype=torch.bool)
        inputs = torch.rand(1, n_vars), is_masked, torch.zeros(1, 12), no_context(n_vars)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            encoder(*inputs).tokens.sum()
        return 4 * sum(sizes.values()), max(sizes.values())

    def test_is_linear_in_the_number_of_genes(self):
        (small, _), (large, largest) = self.saved(2_113), self.saved(8_453)
        assert large / small == pytest.approx(4, rel=0.05)
        assert largest <= 8_454 * 4 * 12  # the feed-forward layer

    def test_all_genes_of_the_paper(self):
        n_bytes, largest = self.saved(16_906)
        assert largest < 16_907 * 64  # one attention map would be 16,907 times 16,907
        assert n_bytes < 50e6


class TestInferenceBatchSize:
    @pytest.mark.parametrize(("n_vars", "n_features", "expected"), [(23, 11, 1024), (16_906, 266, 9), (10**6, 266, 1)])
    def test_bounds_the_feature_array(self, n_vars, n_features, expected):
        assert make_encoder(n_vars=n_vars, n_features=n_features, n_layers=0).inference_batch_size == expected


@pytest.mark.parametrize("n_vars", [40, 61])
def test_equals_performer_pytorch(n_vars, make_original, original_sizes):
    """Same weights, same tokens, same output at every position, after the whole encoder."""
    original = make_original(n_vars)
    encoder = PerformerEncoder(n_vars=n_vars, **original_sizes).eval()
    theirs = original.performer.net.layers
    with torch.no_grad():
        encoder.token_embedding.weight.copy_(original.token_emb.weight)
        encoder.gene_embedding.copy_(original.pos_emb.emb.weight[:-1])
        encoder.appended_embedding.copy_(original.pos_emb.emb.weight[-1])
        encoder.norm.load_state_dict(original.norm.state_dict())
        for layer, (attention, feed_forward) in zip(encoder.layers, theirs, strict=True):
            layer.attention_norm.load_state_dict(attention.norm.state_dict())
            layer.to_query.load_state_dict(attention.fn.to_q.state_dict())
            layer.to_key.load_state_dict(attention.fn.to_k.state_dict())
            layer.to_value.load_state_dict(attention.fn.to_v.state_dict())
            layer.to_out.load_state_dict(attention.fn.to_out.state_dict())
            layer.projection.copy_(attention.fn.fast_attention.projection_matrix)
            layer.feed_forward_norm.load_state_dict(feed_forward.norm.state_dict())
            layer.feed_forward[0].load_state_dict(feed_forward.fn.fn.w1.state_dict())
            layer.feed_forward[2].load_state_dict(feed_forward.fn.fn.w2.state_dict())
        bins = torch.randint(0, 6, (N_OBS, n_vars))
        is_masked = torch.rand(N_OBS, n_vars) < 0.2
        expression = ((2.0**bins + 0.3) - 1).log1p().masked_fill(is_masked, 0.0)
        tokens = torch.cat([bins.masked_fill(is_masked, 6), torch.zeros(N_OBS, 1, dtype=torch.long)], dim=1)
        expected = original(tokens, return_encodings=True)
        no_batch = torch.zeros(N_OBS, original_sizes["n_hidden"])
        found = encoder(expression, is_masked, no_batch, no_context(n_vars)).tokens
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
