"""Neighborhoods of more cells than are in memory at once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from transanno import TransAnnoWarning
from transanno.data._counts import MatrixCounts
from transanno.predictions import _neighbors


class TestNeighborhoods:
    @pytest.fixture
    def counts(self, make_adata):
        return MatrixCounts(make_adata(431, seed=2).X)

    def test_beyond_a_size_the_drawn_cells_say_what_the_components_are(self, counts, monkeypatch):
        positions = np.arange(431)
        whole = _neighbors.Surroundings.of(counts, positions)
        monkeypatch.setattr(_neighbors, "_MAX_WHOLE", 100)
        monkeypatch.setattr(_neighbors, "CELLS_PER_BLOCK", 29)
        projected = _neighbors.Surroundings.of(counts, positions)  # of all cells, in blocks
        signs = np.sign((whole.components * projected.components).sum(axis=0))
        np.testing.assert_allclose(projected.components * signs, whole.components, atol=1e-3)
        monkeypatch.setattr(_neighbors, "_N_DRAWN", 300)
        drawn = _neighbors.Surroundings.of(counts, positions)
        assert drawn.components.shape == whole.components.shape
        shared = [len(set(a) & set(b)) for a, b in zip(drawn.neighbors, whole.neighbors, strict=True)]
        assert np.mean(shared) > 0.6 * _neighbors.N_NEIGHBORS

    def test_of_too_many_cells_are_left_out_with_a_warning(self, counts, monkeypatch):
        monkeypatch.setattr(_neighbors, "_MAX_CELLS", 430)
        with pytest.warns(TransAnnoWarning, match="among 431 cells would take more than 2 GiB .* left out"):
            assert _neighbors.Surroundings.of(counts, np.arange(431)) is None

    def test_of_identical_cells(self, monkeypatch):
        monkeypatch.setattr(_neighbors, "_MAX_WHOLE", 50)
        same = MatrixCounts(sp.csr_matrix(np.tile([3.0, 0.0, 1.0], (61, 1))))
        assert _neighbors.Surroundings.of(same, np.arange(61)).neighbors.shape == (61, 15)


def test_averages_do_not_depend_on_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    values, neighbors = rng.random((61, 5)), rng.integers(0, 61, (61, 7))
    whole = _neighbors.neighbor_average(values, neighbors)
    monkeypatch.setattr(_neighbors, "_MAX_WHOLE", 17)
    np.testing.assert_array_equal(_neighbors.neighbor_average(values, neighbors), whole)
    np.testing.assert_allclose(whole, values[neighbors].mean(axis=1))
