"""Novelty on one scale, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from transanno.predictions._neighbors import nearest_neighbors
from transanno.predictions._studies import NOVELTY_LIMITS, novelty_limit
from transanno.predictions._unknown import NoveltyScale

LOWEST_LIMIT, HIGHEST_LIMIT = novelty_limit(max(NOVELTY_LIMITS)), novelty_limit(min(NOVELTY_LIMITS))
N_LABELS = 3
UNIT = NoveltyScale(np.tile([0.0, -1.0], (N_LABELS, 1)), np.ones((N_LABELS, 2)))
"""Distances are units themselves, and so are logarithms of doubt, from -1 on."""

quick = settings(max_examples=30, deadline=None, database=None)
seeds = st.integers(0, 2**32 - 1)


def make_probabilities(called: np.ndarray, log_doubt: np.ndarray | float) -> np.ndarray:
    """-> probabilities that call cells so, with as much doubt ``(n_cells, 3)``."""
    doubt = np.broadcast_to(np.exp(log_doubt), len(called))[:, None]
    return np.where(np.eye(N_LABELS)[called] == 1, 1 - doubt, doubt / (N_LABELS - 1))


def draw(n_cells: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """-> distances and probabilities of cells that the reference could hold; every type has its own distance."""
    called = rng.integers(0, N_LABELS, size=n_cells)
    distance = rng.normal(np.array([5.0, 7.0, 6.0])[called], 0.5)
    return distance, make_probabilities(called, rng.normal(-3.0, 0.4, size=n_cells).clip(-6.0, -1.2))


def draw_query(
    seed: int, *, n_known: int = 180, n_new: int = 31
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """-> distances, probabilities, neighbors and which cells are new: far away, doubtful, and on their own."""
    rng = np.random.default_rng(seed)
    distance, probabilities = draw(n_known + n_new, rng)
    is_new = np.arange(n_known + n_new) >= n_known
    distance[is_new] += 6.0
    probabilities[is_new] = make_probabilities(probabilities[is_new].argmax(axis=1), -0.6)
    components = rng.normal(size=(n_known + n_new, 4))
    components[:, 0] += 30.0 * np.where(is_new, N_LABELS, probabilities.argmax(axis=1))
    return distance, probabilities, nearest_neighbors(components), is_new


def novelty_of(
    scale: NoveltyScale,
    distance: np.ndarray,
    probabilities: np.ndarray,
    neighbors: np.ndarray | None,
    is_empty: np.ndarray | None = None,
) -> np.ndarray:
    is_empty = np.zeros(len(distance), dtype=bool) if is_empty is None else is_empty
    return scale.novelty(distance, probabilities, neighbors, is_empty)


@pytest.fixture(scope="module")
def scale() -> NoveltyScale:
    return NoveltyScale.fit(*draw(401, np.random.default_rng(0)))


class TestFit:
    def test_center_and_spread_by_hand(self):
        """Twenty cells of the first type weigh half, five of the second a fifth, and of the third there are none."""
        called = np.repeat([0, 1], [20, 5])
        distance = np.r_[np.tile([0.0, 4.0], 10), [10.0, 11.0, 12.0, 13.0, 14.0]]
        probabilities = np.where(called[:, None] == 0, [0.9, 0.1, 0.0], [0.3, 0.5, 0.2])
        found = NoveltyScale.fit(distance, probabilities)
        # Medians are 2, 12 and of all 4; absolute deviations from these 2, 1 and of all 4.
        np.testing.assert_allclose(found.center[:, 0], [4 - 0.5 * 2, 4 + 0.2 * 8, 4], atol=1e-5)
        np.testing.assert_allclose(found.spread[:, 0] / 1.482602, [4 - 0.5 * 2, 4 - 0.2 * 3, 4], atol=1e-5)
        expected = [np.log(0.1), np.log(0.1) + 0.2 * np.log(5), np.log(0.1)]
        np.testing.assert_allclose(found.center[:, 1], expected, atol=1e-5)

    def test_order_of_held_out_cells_does_not_matter(self):
        distance, probabilities = draw(211, np.random.default_rng(1))
        order = np.random.default_rng(2).permutation(211)
        found = [NoveltyScale.fit(distance, probabilities), NoveltyScale.fit(distance[order], probabilities[order])]
        np.testing.assert_allclose(found[0].center, found[1].center, atol=2e-5)
        np.testing.assert_allclose(found[0].spread, found[1].spread, atol=2e-5)

    def test_many_cells_of_a_type_have_their_own_scale(self):
        distance, probabilities = draw(6007, np.random.default_rng(1))
        found = NoveltyScale.fit(distance, probabilities)
        np.testing.assert_allclose(found.center[:, 0], [5.0, 7.0, 6.0], atol=0.06)
        np.testing.assert_allclose(found.spread, np.tile([0.5, 0.4], (N_LABELS, 1)), atol=0.06)

    def test_outliers_hardly_change_it(self):
        distance, probabilities = draw(2003, np.random.default_rng(1))
        expected = NoveltyScale.fit(distance, probabilities)
        distance[:100] = 1e9
        found = NoveltyScale.fit(distance, probabilities)
        np.testing.assert_allclose(found.center, expected.center, atol=0.1)
        np.testing.assert_allclose(found.spread, expected.spread, rtol=0.15)

    def test_identical_cells_have_some_spread(self):
        found = NoveltyScale.fit(np.ones(40), np.tile([0.0, 1.0, 0.0], (40, 1)))
        assert (found.spread > 0).all()
        assert np.isfinite(found.center).all()  # and certainty is no infinite one

    def test_given_arrays_stay_as_they_are(self):
        distance, probabilities = draw(211, np.random.default_rng(1))
        before = distance.copy(), probabilities.copy()
        scale = NoveltyScale.fit(distance, probabilities)
        novelty_of(scale, distance, probabilities, None)
        np.testing.assert_array_equal(distance, before[0])
        np.testing.assert_array_equal(probabilities, before[1])


class TestNovelty:
    def test_no_cells(self):
        for neighbors in (None, np.zeros((0, 15), dtype=int)):
            assert novelty_of(UNIT, np.zeros(0), np.zeros((0, N_LABELS)), neighbors).shape == (0,)

    def test_few_cells_are_compared_with_held_out_ones_only(self):
        """Three units of distance and half one of doubt are 1.75."""
        found = novelty_of(UNIT, np.full(49, 3.0), make_probabilities(np.full(49, 1), -0.5), None)
        np.testing.assert_allclose(found, 1.75)

    def test_empty_cells_are_no_yardstick(self, scale):
        """They are called by chance, and all alike."""
        distance, probabilities, neighbors, is_new = draw_query(4)
        expected = novelty_of(scale, distance, probabilities, neighbors)
        n_empty, n_cells = 97, len(distance)
        is_empty = np.arange(n_cells + n_empty) >= n_cells
        others = n_cells + np.random.default_rng(0).integers(0, n_empty, size=(n_empty, neighbors.shape[1]))
        found = novelty_of(
            scale,
            np.r_[distance, np.full(n_empty, 99.0)],
            np.vstack([probabilities, np.full((n_empty, N_LABELS), 1 / N_LABELS)]),
            np.vstack([neighbors, others]),
            is_empty,
        )
        np.testing.assert_allclose(found[:n_cells], expected)
        assert np.isnan(found[is_empty]).all()

    @pytest.mark.parametrize("n_cells", [60, 97, 180, 601])
    def test_small_queries_of_another_laboratory_hold_few_new_cells(self, scale, n_cells):
        distance, probabilities, neighbors, _ = draw_query(5, n_known=n_cells, n_new=0)
        doubt = np.log(1 - probabilities.max(axis=1)) + 1.0
        probabilities = make_probabilities(probabilities.argmax(axis=1), doubt)
        novelty = novelty_of(scale, distance + 4.0, probabilities, neighbors)
        assert (novelty > novelty_limit(0.1)).mean() < 0.05

    def test_of_equals_none_is_new(self, scale):
        """However far they all are."""
        probabilities = make_probabilities(np.arange(97) % N_LABELS, -0.5)
        novelty = novelty_of(
            scale, np.full(97, 99.0), probabilities, np.random.default_rng(0).integers(0, 97, (97, 15))
        )
        assert novelty.max() < LOWEST_LIMIT

    def test_equals_loops(self, scale):
        distance, probabilities, neighbors, _ = draw_query(3)
        called = probabilities.argmax(axis=1)
        own = []
        for cell, label in enumerate(called):
            units = [distance[cell], np.log(1 - probabilities[cell, label])]
            units = [np.clip((units[i] - scale.center[label, i]) / scale.spread[label, i], -8, 8) for i in range(2)]
            own.append(np.mean(units))
        once = [np.mean([own[other] for other in row]) for row in neighbors]
        twice = [np.mean([once[other] for other in row]) for row in neighbors]
        smooth = (np.array(once) + twice) / 2

        def center_and_spread(values, prior):
            middle, share = np.median(values), len(values) / (len(values) + 20)
            below = (middle - np.quantile(values, 0.1)) / norm.ppf(0.9)
            return share * middle + (1 - share) * prior[0], share * below + (1 - share) * prior[1]

        overall = center_and_spread(smooth, (np.median(smooth), 1.0))
        expected = []
        for cell, label in enumerate(called):
            center, spread = center_and_spread(smooth[called == label], overall)
            expected.append(min(smooth[cell], (smooth[cell] - center) / max(spread, 0.25)))
        np.testing.assert_allclose(novelty_of(scale, distance, probabilities, neighbors), expected, rtol=1e-9)

    def test_cells_like_the_held_out_ones_are_not_novel(self, scale):
        for seed in range(5):
            distance, probabilities, neighbors, is_new = draw_query(seed, n_new=0)
            assert not is_new.any()
            assert novelty_of(scale, distance, probabilities, neighbors).max() < LOWEST_LIMIT

    @pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.0])
    def test_what_all_cells_of_a_query_share_is_not_novel_and_a_cluster_of_its_own_is(self, scale, shift):
        """Up to four standard deviations of a held-out cell."""
        distance, probabilities, neighbors, is_new = draw_query(4)
        novelty = novelty_of(scale, distance + shift, probabilities, neighbors)
        assert novelty[~is_new].max() < HIGHEST_LIMIT
        assert (novelty[~is_new] > LOWEST_LIMIT).mean() < 0.03
        assert novelty[is_new].min() > HIGHEST_LIMIT

    def test_where_all_cells_are_as_unlike_none_is_novel(self, scale):
        """A new type alone cannot be told from another laboratory."""
        distance, probabilities, neighbors, _ = draw_query(5, n_known=601, n_new=0)
        doubt = np.log(1 - probabilities.max(axis=1)) + 1.0
        probabilities = make_probabilities(probabilities.argmax(axis=1), doubt)
        novelty = novelty_of(scale, distance + 2.0, probabilities, neighbors)
        assert novelty.max() < HIGHEST_LIMIT
        assert (novelty > LOWEST_LIMIT).mean() < 0.12  # as of a normal distribution
        among_few = novelty_of(scale, distance[:5] + 2.0, probabilities[:5], None)
        assert np.median(among_few) > LOWEST_LIMIT

    def test_the_less_unlike_count_only_as_far_as_they_are_unlike_the_reference(self, scale):
        """Cells that are nearer than held-out ones are not novel where all others are nearer still."""
        distance, probabilities, neighbors, is_new = draw_query(6)
        distance = np.where(is_new, distance - 8.0, distance - 20.0)
        novelty = novelty_of(scale, distance, np.tile([0.05, 0.9, 0.05], (len(distance), 1)), neighbors)
        assert novelty[is_new].min() > novelty[~is_new].max()
        assert novelty.max() < LOWEST_LIMIT

    @pytest.mark.parametrize("broken", [1e3, 1e300, np.inf])
    def test_one_broken_cell_does_not_decide_for_its_neighbors(self, scale, broken):
        distance, probabilities, neighbors, _ = draw_query(7, n_new=0)
        before = novelty_of(scale, distance, probabilities, neighbors)
        distance[5] = broken
        probabilities[5] = 1 / N_LABELS
        novelty = novelty_of(scale, distance, probabilities, neighbors)
        assert (neighbors == 5).any(axis=1).sum() > 5
        assert novelty.max() < LOWEST_LIMIT
        assert np.abs(novelty - before).max() < 1.5

    def test_without_neighbors_an_odd_cell_stands_for_itself(self, scale):
        distance, probabilities, _, _ = draw_query(8, n_known=40, n_new=0)
        distance[5] += 6.0
        probabilities[5] = make_probabilities(probabilities[[5]].argmax(axis=1), -0.5)[0]
        novelty = novelty_of(scale, distance, probabilities, None)
        assert novelty.argmax() == 5
        assert novelty[5] > HIGHEST_LIMIT

    def test_certain_cells_are_all_as_certain(self):
        doubts = np.array([0.0, 1e-12, 1e-5, 1e-4])
        wide = replace(UNIT, spread=10 * UNIT.spread)  # so that none of them is as sure as counts at all
        found = [novelty_of(wide, np.zeros(1), np.array([[1 - doubt, doubt, 0.0]]), None)[0] for doubt in doubts]
        np.testing.assert_allclose(found, found[0])
        assert novelty_of(wide, np.zeros(1), np.array([[0.999, 0.001, 0.0]]), None) > found[0]


class TestInvariance:
    @quick
    @given(seed=seeds, n_known=st.integers(16, 180), n_new=st.integers(0, 31))
    def test_order_of_cells_does_not_matter(self, seed, n_known, n_new, scale):
        distance, probabilities, neighbors, _ = draw_query(seed, n_known=n_known, n_new=n_new)
        order = np.random.default_rng(seed).permutation(len(distance))
        moved = np.argsort(order)[neighbors[order]]
        expected = novelty_of(scale, distance, probabilities, neighbors)[order]
        np.testing.assert_allclose(novelty_of(scale, distance[order], probabilities[order], moved), expected, atol=1e-9)

    @quick
    @given(seed=seeds, constant=st.floats(-50.0, 50.0), factor=st.floats(0.5, 20.0))
    def test_zero_and_unit_of_distances_do_not_matter(self, seed, constant, factor):
        """As long as those of held-out cells and of the query have the same."""
        held_out = draw(211, np.random.default_rng(seed))
        distance, probabilities, neighbors, _ = draw_query(seed)
        expected = novelty_of(NoveltyScale.fit(*held_out), distance, probabilities, neighbors)
        other = NoveltyScale.fit(factor * held_out[0] + constant, held_out[1])
        found = novelty_of(other, factor * distance + constant, probabilities, neighbors)
        np.testing.assert_allclose(found, expected, atol=1e-3)

    @quick
    @given(seed=seeds, label_order=st.permutations(range(N_LABELS)))
    def test_order_of_types_does_not_matter(self, seed, label_order):
        held_out = draw(211, np.random.default_rng(seed))
        distance, probabilities, neighbors, _ = draw_query(seed)
        expected = novelty_of(NoveltyScale.fit(*held_out), distance, probabilities, neighbors)
        other = NoveltyScale.fit(held_out[0], held_out[1][:, label_order])
        found = novelty_of(other, distance, probabilities[:, label_order], neighbors)
        np.testing.assert_allclose(found, expected, atol=1e-9)

    @quick
    @given(seed=seeds, n_cells=st.integers(1, 70), size=st.floats(0.0, 1e12), sure=st.booleans())
    def test_any_distances_and_probabilities_have_a_finite_novelty(self, seed, n_cells, size, sure, scale):
        rng = np.random.default_rng(seed)
        probabilities = rng.dirichlet([0.3] * N_LABELS, size=n_cells)
        if sure:
            probabilities = np.eye(N_LABELS)[probabilities.argmax(axis=1)]
        neighbors = nearest_neighbors(rng.normal(size=(n_cells, 3))) if n_cells > 15 else None
        novelty = novelty_of(scale, size * rng.normal(size=n_cells), probabilities, neighbors)
        assert novelty.shape == (n_cells,)
        assert np.isfinite(novelty).all()
        assert novelty.max() <= 8
