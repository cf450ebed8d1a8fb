"""Neighbors of cells among each other, by hand."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors

from transanno.data._counts import MatrixCounts
from transanno.predictions import _neighbors
from transanno.predictions._neighbors import (
    Surroundings,
    nearest_neighbors,
    neighbor_average,
    principal_components,
)

N_VARS = 37


def make_counts(n_obs: int = 211, n_vars: int = N_VARS) -> sp.csr_matrix:
    rng = np.random.default_rng(1)
    mean = rng.gamma(0.5, 8.0, size=(n_obs, n_vars))
    return sp.csr_matrix(rng.poisson(mean).astype("float32"))


class TestNearestNeighbors:
    @pytest.mark.parametrize("shape", [(61, 37), (67, 23), (11, 37)], ids=str)
    def test_equals_brute_force(self, shape):
        counts = make_counts(*shape)
        found = nearest_neighbors(principal_components(counts))
        x = counts.toarray().astype(float)
        x = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
        x -= x.mean(axis=0)
        u, s, _ = np.linalg.svd(x, full_matrices=False)
        n_components = min(50, shape[0] - 1, shape[1] - 1)
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
        found = nearest_neighbors(principal_components(sp.csr_matrix(strong), is_other))
        scaled = np.log1p(strong[:, :-1] / strong.sum(axis=1, keepdims=True) * 1e4)
        u, s, _ = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
        x = u[:, :35] * s[:35]  # one less than there are genes
        distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))
        np.fill_diagonal(distance, np.inf)
        ours = np.sort(np.take_along_axis(distance, found, axis=1), axis=1)
        np.testing.assert_allclose(ours, np.sort(distance, axis=1)[:, :15], rtol=1e-3)

    def test_counts_stay_as_they_are(self):
        counts = make_counts(61)
        before = counts.copy()
        principal_components(counts)
        assert (counts != before).nnz == 0


@pytest.mark.parametrize("n_obs", [50, 61])
def test_identical_cells_have_some_neighbors(n_obs):
    neighbors = nearest_neighbors(principal_components(sp.csr_matrix(np.tile([3.0, 0.0, 1.0], (n_obs, 1)))))
    assert neighbors.shape == (n_obs, 15)
    assert all(len(set(row)) == 15 and cell not in row for cell, row in enumerate(neighbors))


def test_neighbor_average_equals_loops():
    values = np.random.default_rng(1).normal(size=(31, 3))
    neighbors = np.random.default_rng(0).integers(0, 31, size=(31, 7))
    expected = [[np.mean([values[j, k] for j in row]) for k in range(3)] for row in neighbors]
    np.testing.assert_allclose(neighbor_average(values, neighbors), expected)
    np.testing.assert_allclose(neighbor_average(values[:, 1], neighbors), np.array(expected)[:, 1])


def test_approximate_search_leaves_cells_themselves_out(monkeypatch):
    """By a stand-in for the search, which takes a minute to compile."""

    class NNDescent:
        def __init__(self, components, n_neighbors, random_state):
            search = NearestNeighbors(n_neighbors=n_neighbors).fit(components)
            self.neighbor_graph = search.kneighbors(components)[::-1]

    components = principal_components(make_counts())
    exact = nearest_neighbors(components)
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=NNDescent))
    monkeypatch.setattr(_neighbors, "_MAX_EXACT", 210)
    np.testing.assert_array_equal(nearest_neighbors(components), exact)


class TestSurroundings:
    @pytest.mark.parametrize("shape", [(0, 37), (1, 37), (49, 37), (61, 1)], ids=str)
    def test_few_cells_or_one_gene_have_none(self, shape):
        assert Surroundings.of(MatrixCounts(make_counts(*shape)), np.arange(shape[0])) is None

    def test_are_components_and_neighbors_in_them(self):
        counts, is_other = make_counts(50), np.arange(N_VARS) == N_VARS - 1
        found = Surroundings.of(MatrixCounts(counts), np.arange(counts.shape[0]), is_other)
        components = principal_components(counts, is_other)
        np.testing.assert_array_equal(found.components, components)
        np.testing.assert_array_equal(found.neighbors, nearest_neighbors(components))
        assert components.shape == (50, 35)  # one less than there are genes
