from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from transanno._refine import nearest_neighbors, neighbor_average, refine_probabilities

N_OBS, N_VARS, N_LABELS = 211, 37, 3


def make_probabilities(n_obs: int = N_OBS, seed: int = 0, alpha=(0.3, 0.5, 0.9)) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(alpha, size=n_obs)


def make_counts(n_obs: int = N_OBS, n_vars: int = N_VARS) -> sp.csr_matrix:
    rng = np.random.default_rng(1)
    mean = rng.gamma(0.5, 8.0, size=(n_obs, n_vars))
    return sp.csr_matrix(rng.poisson(mean).astype("float32"))


class TestNearestNeighbors:
    @pytest.mark.parametrize("shape", [(61, 37), (67, 23), (11, 37)], ids=str)
    def test_equals_brute_force(self, shape):
        counts = make_counts(*shape)
        found = nearest_neighbors(counts)
        x = counts.toarray().astype(float)
        x = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
        x -= x.mean(axis=0)
        u, s, _ = np.linalg.svd(x, full_matrices=False)
        n_components = min(30, shape[0] - 1, shape[1] - 1)
        x = u[:, :n_components] * s[:n_components]
        distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))
        np.fill_diagonal(distance, np.inf)
        k = min(15, shape[0] - 1)
        assert found.shape == (shape[0], k)
        assert not (found == np.arange(shape[0])[:, None]).any()
        assert all(len(set(row)) == k for row in found)
        ours = np.sort(np.take_along_axis(distance, found, axis=1), axis=1)
        np.testing.assert_allclose(ours, np.sort(distance, axis=1)[:, :k], rtol=1e-3)

    def test_other_genes_only_count_in_the_total(self):
        counts, is_other = make_counts(61), np.arange(N_VARS) == N_VARS - 1
        strong = counts.toarray()
        strong[:, -1] = np.random.default_rng(2).integers(0, 5000, 61)
        found = nearest_neighbors(sp.csr_matrix(strong), is_other)
        scaled = np.log1p(strong[:, :-1] / strong.sum(axis=1, keepdims=True) * 1e4)
        u, s, _ = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
        x = u[:, :30] * s[:30]
        distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))
        np.fill_diagonal(distance, np.inf)
        ours = np.sort(np.take_along_axis(distance, found, axis=1), axis=1)
        np.testing.assert_allclose(ours, np.sort(distance, axis=1)[:, :15], rtol=1e-3)

    def test_counts_stay_as_they_are(self):
        counts = make_counts(61)
        before = counts.copy()
        nearest_neighbors(counts)
        assert (counts != before).nnz == 0


@pytest.mark.parametrize("n_obs", [50, 61])
def test_identical_cells_have_some_neighbors(n_obs):
    neighbors = nearest_neighbors(sp.csr_matrix(np.tile([3.0, 0.0, 1.0], (n_obs, 1))))
    assert neighbors.shape == (n_obs, 15)
    assert all(len(set(row)) == 15 and cell not in row for cell, row in enumerate(neighbors))


def test_neighbor_average_equals_loops():
    probabilities = make_probabilities(31)
    neighbors = np.random.default_rng(0).integers(0, 31, size=(31, 7))
    expected = [[np.mean([probabilities[j, k] for j in row]) for k in range(N_LABELS)] for row in neighbors]
    np.testing.assert_allclose(neighbor_average(probabilities, neighbors), expected)


class TestRefineProbabilities:
    def test_is_half_of_the_neighbors(self):
        probabilities, counts = make_probabilities(alpha=(0.8, 0.6, 0.7)), make_counts()
        called = probabilities.argmax(axis=1)
        assert (np.bincount(called) >= 30).all()
        neighbors = nearest_neighbors(counts)
        expected = np.stack(
            [0.5 * probabilities[i] + 0.5 * probabilities[neighbors[i]].mean(axis=0) for i in range(N_OBS)]
        )
        refined = refine_probabilities(probabilities, counts)
        np.testing.assert_allclose(refined, expected)
        np.testing.assert_allclose(refined.sum(axis=1), 1.0)

    def test_calls_of_a_rare_type_are_kept(self):
        probabilities = make_probabilities(alpha=(1.0, 2.0, 0.2))
        called = probabilities.argmax(axis=1)
        assert 0 < (called == 2).sum() < 30 <= (called == 0).sum()
        before = probabilities.copy()
        refined = refine_probabilities(probabilities, make_counts())
        np.testing.assert_array_equal(refined[called == 2], before[called == 2])
        assert not np.isclose(refined[called < 2], before[called < 2]).all(axis=1).any()
        np.testing.assert_allclose(refined.sum(axis=1), 1.0)

    @pytest.mark.parametrize(("n_rare", "is_kept"), [(29, True), (30, False)])
    def test_bound_of_rare(self, n_rare, is_kept):
        probabilities = np.where(np.arange(N_OBS)[:, None] < n_rare, [0.1, 0.1, 0.8], [0.7, 0.2, 0.1])
        refined = refine_probabilities(probabilities, make_counts())
        assert np.array_equal(refined[:n_rare], probabilities[:n_rare]) == is_kept

    @pytest.mark.parametrize(("n_obs", "is_same"), [(1, True), (49, True), (50, False), (61, False)])
    def test_few_cells_are_left_alone(self, n_obs, is_same):
        probabilities = make_probabilities(n_obs, alpha=(9.0, 1.0, 1.0))
        refined = refine_probabilities(probabilities, make_counts(n_obs))
        assert np.array_equal(refined, probabilities) == is_same
