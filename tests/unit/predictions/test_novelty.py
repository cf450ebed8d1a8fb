from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from transanno.predictions._novelty import fit_space

N_GENES = 23
NONE_MISSING = np.zeros(N_GENES, dtype=bool)


def _cells(n_cells: int, *, seed: int, new_gene: bool = False) -> tuple[np.ndarray, sp.csr_matrix, np.ndarray]:
    """Two types; cells of a new one look like the first in their states, and express gene 7."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2, size=n_cells)
    z = rng.normal(size=(n_cells, 5)) + 4.0 * codes[:, None]
    expression = np.maximum(rng.normal(1.0, 0.5, size=(n_cells, N_GENES)), 0.0)
    expression[:, 3] += 2.0 * codes
    expression[:, 7] = 4.0 * new_gene
    return z, sp.csr_matrix(expression), codes


def _distances(space, z, expression, is_missing=NONE_MISSING):
    return space.distances(z, sp.csr_matrix(expression) @ space.components, is_missing, None)


def test_new_direction_of_expression_is_seen_where_components_have_it():
    z, expression, codes = _cells(211, seed=0)
    lifted = expression.tolil()
    lifted[:41, 7] = 1.5  # some cells of the reference express it, too, though less
    space = fit_space(z, lifted.tocsr(), codes)
    known = _distances(space, *_cells(101, seed=1)[:2])
    new = _distances(space, *_cells(101, seed=2, new_gene=True)[:2])
    assert (new > np.quantile(known, 0.95)).mean() > 0.7  # by one of two distances; by chance 0.05


def test_new_direction_of_the_state_is_seen():
    z, expression, codes = _cells(211, seed=0)
    space = fit_space(z, expression, codes)
    z_known, expression_known, _ = _cells(101, seed=1)
    known = _distances(space, z_known, expression_known)
    new = _distances(space, z_known + np.array([8.0, -8.0, 0, 0, 0]), expression_known)
    assert (new > known).all()


def test_missing_genes_count_as_average():
    z, expression, codes = _cells(211, seed=0)
    space = fit_space(z, expression, codes)
    is_missing = np.arange(N_GENES) < 11
    silent, average = expression.tolil(), expression.tolil()
    silent[:, :11] = 0.0
    average[:, :11] = space.mean[:11]
    np.testing.assert_allclose(_distances(space, z, silent, is_missing), _distances(space, z, average), rtol=1e-4)


@pytest.mark.parametrize("n_missing", [0, 11])
def test_a_table_of_gene_embeddings_takes_the_place_of_states(n_missing):
    """As states that are the reading of a cell minus that of the mean cell, in which missing genes count as average."""
    _, expression, codes = _cells(211, seed=0)
    table, is_missing = np.random.default_rng(3).normal(size=(N_GENES, 4)), np.arange(N_GENES) < n_missing
    space = fit_space(None, expression, codes, table=table)
    reading = expression @ table - space.mean @ table
    of_states = fit_space(reading, expression, codes)
    np.testing.assert_allclose(space.state.centers, of_states.state.centers)
    cells = sp.csr_matrix(_cells(101, seed=1)[1].multiply(~is_missing))
    projected = cells @ space.axes(table)
    assert projected.shape[1] == space.components.shape[1] + 4
    found = space.distances(np.zeros((len(codes), 0)), projected, is_missing, table)
    reading = cells @ table - (space.mean * ~is_missing) @ table
    np.testing.assert_allclose(found, _distances(of_states, reading, cells, is_missing), rtol=1e-6)


def test_without_a_table_expression_is_projected_on_components_only():
    space = fit_space(*_cells(211, seed=0))
    assert space.axes(None) is space.components


def test_centers_are_around_the_mean_cell_as_in_saved_models():
    z, expression, codes = _cells(211, seed=0)
    centers = fit_space(z, expression, codes).expression.centers
    np.testing.assert_allclose(np.bincount(codes) @ centers / len(codes), 0.0, atol=1e-3)


@pytest.mark.parametrize(
    ("n_cells", "expression"),
    [(2, np.eye(5)[:2]), (7, np.ones((7, 5))), (7, np.zeros((7, 5))), (7, np.arange(7.0)[:, None])],
)
def test_without_variation_there_is_no_space(n_cells, expression):
    assert fit_space(np.zeros((n_cells, 3)), sp.csr_matrix(expression), np.zeros(n_cells, int)) is None
