from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from transanno.nn import draw_projection, favor_attention
from transanno.nn._favor import softmax_features

N_OBS, N_HEADS, N_TOKENS, HEAD_DIM = 3, 2, 31, 8


def heads(scale: float = 1.0, **kwargs) -> tuple[torch.Tensor, ...]:
    return tuple(scale * torch.randn(N_OBS, N_HEADS, N_TOKENS, HEAD_DIM, **kwargs) for _ in range(3))


class TestProjection:
    @pytest.mark.parametrize("n_features", [1, 7, 8, 19, 24])
    def test_rows_of_a_block_are_orthogonal(self, n_features):
        projection = draw_projection(n_features, HEAD_DIM).double()
        assert projection.shape == (n_features, HEAD_DIM)
        for start in range(0, n_features, HEAD_DIM):
            block = F.normalize(projection[start : start + HEAD_DIM], dim=1)
            torch.testing.assert_close(block @ block.T, torch.eye(len(block), dtype=torch.float64), atol=1e-5, rtol=0)

    def test_rows_are_distributed_as_gaussian_ones(self):
        """Their entries: mean 0, variance 1, kurtosis 3; and as long as Gaussian rows on average."""
        rows = torch.cat([draw_projection(HEAD_DIM, HEAD_DIM) for _ in range(4000)]).double().numpy()
        np.testing.assert_allclose(rows.mean(axis=0), 0.0, atol=0.02)
        np.testing.assert_allclose(np.cov(rows.T), np.eye(HEAD_DIM), atol=0.03)
        np.testing.assert_allclose((rows**4).mean(axis=0), 3.0, rtol=0.1)
        expected = math.sqrt(2) * math.gamma((HEAD_DIM + 1) / 2) / math.gamma(HEAD_DIM / 2)
        assert np.linalg.norm(rows, axis=1).mean() == pytest.approx(expected, rel=0.01)

    def test_is_seeded(self):
        torch.manual_seed(3)
        first = draw_projection(19, HEAD_DIM)
        second = draw_projection(19, HEAD_DIM)
        torch.manual_seed(3)
        assert torch.equal(draw_projection(19, HEAD_DIM), first)
        assert not torch.equal(first, second)


class TestFeatures:
    def test_are_an_unbiased_estimate_of_the_kernel(self):
        """exp(q·k/√d), up to the maxima that were taken off and cancel in the attention."""
        query, key, _ = heads(0.25, dtype=torch.float64)
        projection = torch.cat([draw_projection(HEAD_DIM, HEAD_DIM) for _ in range(2000)]).double()
        x = query * HEAD_DIM**-0.25, key * HEAD_DIM**-0.25
        projected = [side @ projection.T for side in x]
        largest = projected[0].amax(dim=-1, keepdim=True), projected[1].amax(dim=(-1, -2), keepdim=True)
        query_features = (softmax_features(query, projection, is_query=True) - 1e-4) * largest[0].exp()
        key_features = (softmax_features(key, projection, is_query=False) - 1e-4) * largest[1].exp()
        estimate = query_features @ key_features.transpose(-1, -2) / len(projection)
        exact = (query @ key.transpose(-1, -2) / math.sqrt(HEAD_DIM)).exp()
        torch.testing.assert_close(estimate, exact, rtol=0.1, atol=0.0)


class TestAttention:
    def test_equals_performer_pytorch(self):
        from performer_pytorch import FastAttention

        original = FastAttention(HEAD_DIM, nb_features=19)
        query, key, value = heads()
        found = favor_attention(query, key, value, original.projection_matrix)
        torch.testing.assert_close(found, original(query, key, value), atol=1e-5, rtol=0)

    def test_equals_loops(self):
        query, key, value = (x[:1, :1] for x in heads(dtype=torch.float64))
        projection = draw_projection(5, HEAD_DIM).double()
        features = [softmax_features(x, projection, is_query=i == 0)[0, 0] for i, x in enumerate((query, key))]
        found = favor_attention(query, key, value, projection)[0, 0]
        for i in range(N_TOKENS):
            weights = torch.stack([features[0][i] @ features[1][j] for j in range(N_TOKENS)])
            expected = sum(w * v for w, v in zip(weights / weights.sum(), value[0, 0], strict=True))
            torch.testing.assert_close(found[i], expected)

    def test_converges_to_exact_softmax_attention(self):
        """The error falls as one over the root of the number of features.

        For queries and keys so short that the constant of the original, which keeps denominators away from zero,
        does not matter: with longer ones it leaves a bias.
        """
        query, key, value = (x * scale for x, scale in zip(heads(dtype=torch.float64), (0.3, 0.3, 1.0), strict=True))
        exact = F.scaled_dot_product_attention(query, key, value)
        n_features = [16, 64, 256, 1024]
        errors = []
        for m in n_features:
            runs = [favor_attention(query, key, value, draw_projection(m, HEAD_DIM)) - exact for _ in range(16)]
            errors.append(torch.stack(runs).square().mean().sqrt().item())
        slope = np.polyfit(np.log(n_features), np.log(errors), 1)[0]
        assert slope == pytest.approx(-0.5, abs=0.08), errors
        assert errors[-1] < 0.05 * exact.std().item(), errors

    def test_cells_and_heads_do_not_see_each_other(self):
        query, key, value = heads(dtype=torch.float64)
        projection = draw_projection(19, HEAD_DIM)
        whole = favor_attention(query, key, value, projection)
        for i in range(N_OBS):
            for h in range(N_HEADS):
                part = (slice(i, i + 1), slice(h, h + 1))
                alone = favor_attention(query[part], key[part], value[part], projection)
                torch.testing.assert_close(alone, whole[part])

    def test_order_of_keys_does_not_matter(self):
        query, key, value = heads(dtype=torch.float64)
        projection, order = draw_projection(19, HEAD_DIM), torch.randperm(N_TOKENS)
        torch.testing.assert_close(
            favor_attention(query, key[:, :, order], value[:, :, order], projection),
            favor_attention(query, key, value, projection),
        )

    @pytest.mark.parametrize("scale", [0.0, 1e-3, 30.0, 1e3])
    def test_extreme_inputs_stay_finite(self, scale):
        inputs = [x.requires_grad_() for x in heads(scale)]
        attended = favor_attention(*inputs, draw_projection(19, HEAD_DIM))
        attended.square().sum().backward()
        assert torch.isfinite(attended).all()
        assert all(torch.isfinite(x.grad).all() for x in inputs)
