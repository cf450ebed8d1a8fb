from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import kstest

from transanno.predictions._conformal import (
    conformal_p_values,
    extrapolated_p_values,
    is_discovery,
    label_sets,
    p_values_by_type,
    warn_if_shifted,
)


def test_p_value_is_the_share_of_held_out_scores_that_are_as_high():
    found = conformal_p_values(np.array([0.0, 2.0, 2.5, 9.0]), np.array([3.0, 1.0, 2.0]))
    np.testing.assert_allclose(found, [4 / 4, 3 / 4, 2 / 4, 1 / 4])


def test_p_values_of_exchangeable_cells_are_uniform():
    rng = np.random.default_rng(0)
    p_values = np.concatenate(
        [conformal_p_values(rng.gamma(2.0, size=1), rng.gamma(2.0, size=997)) for _ in range(997)]
    )
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_p_values_by_type_are_uniform_for_every_type():
    rng = np.random.default_rng(0)

    def draw(n_cells: int) -> tuple[np.ndarray, np.ndarray]:
        called = rng.integers(0, 2, size=n_cells)
        return rng.normal(size=n_cells) + 5.0 * called, called

    p_values, called = [], []
    for _ in range(211):
        (scores, types), held_out = draw(5), draw(601)
        p_values.append(p_values_by_type(scores, types, *held_out))
        called.append(types)
    for code in (0, 1):
        assert kstest(np.concatenate(p_values)[np.concatenate(called) == code], "uniform").pvalue > 0.01


def test_rare_types_are_compared_with_all_cells():
    calibration, calibration_called = np.arange(211.0), np.r_[np.zeros(205, int), np.ones(6, int)]
    scores = np.array([210.0, 204.0])
    found = p_values_by_type(scores, np.array([1, 0]), calibration, calibration_called)
    np.testing.assert_allclose(found, [2 / 212, 2 / 206])


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(10, 500))
def test_discoveries_are_those_of_benjamini_and_hochberg(p_values, fdr):
    values, fdr = np.array(p_values) / 1000, fdr / 997  # which are never equal, up to rounding or not
    ordered = np.sort(values)
    passing = [value for rank, value in enumerate(ordered, start=1) if value * len(values) / rank <= fdr]
    np.testing.assert_array_equal(is_discovery(values, fdr), values <= max(passing, default=-1.0))


def test_no_cells_are_no_discoveries():
    assert is_discovery(np.zeros(0), 0.05).shape == (0,)


def test_p_values_beyond_all_held_out_cells_follow_an_exponential_tail():
    rng = np.random.default_rng(0)
    calibration = rng.exponential(2.0, size=97)
    found = extrapolated_p_values(calibration.max() + np.array([-1e-9, 0.0, 2.0, 4.0]), calibration)
    np.testing.assert_allclose(found[:2], 2 / 98)
    assert found[3] / found[2] == pytest.approx(np.exp(-1), rel=0.4)
    p_values = [extrapolated_p_values(rng.exponential(2.0, size=1), rng.exponential(2.0, size=97)) for _ in range(4001)]
    assert (np.concatenate(p_values) <= 0.003).mean() == pytest.approx(0.003, abs=0.003)


def test_few_held_out_cells_find_few_new_ones():
    rng = np.random.default_rng(0)
    shares, found = [], []
    for _ in range(101):
        is_new = np.arange(307) < 11
        p_values = extrapolated_p_values(rng.normal(size=307) + 9.0 * is_new, rng.normal(size=97))
        called = is_discovery(p_values, 0.1)
        shares.append((called & ~is_new).sum() / max(called.sum(), 1))
        found.append(called[is_new].mean())
    assert np.mean(shares) < 0.1
    assert np.mean(found) > 0.9


def test_false_discoveries_stay_below_their_rate():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(101):
        is_new = np.arange(307) < 101
        p_values = conformal_p_values(rng.normal(size=307) + 4.0 * is_new, rng.normal(size=997))
        found = is_discovery(p_values, 0.1)
        shares.append((found & ~is_new).sum() / max(found.sum(), 1))
    assert 0.02 < np.mean(shares) < 0.1


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_sets_cover_exchangeable_cells_of_every_type(coverage):
    """Complaint 50: a confidence that is comparable, with coverage."""
    rng = np.random.default_rng(0)

    def draw(n_cells: int) -> tuple[np.ndarray, np.ndarray]:
        codes = rng.choice(3, p=[0.6, 0.3, 0.1], size=n_cells)
        # The first type is easy, the last one hard: one threshold for all would not cover it.
        return softmax(
            rng.normal(size=(n_cells, 3)) + np.array([4.0, 2.0, 0.5])[codes, None] * np.eye(3)[codes], axis=1
        ), codes

    held_out, codes = draw(3001)
    probabilities, truth = draw(6007)
    sets = label_sets(probabilities, coverage, held_out[np.arange(3001), codes], codes)
    covered = sets[np.arange(6007), truth]
    for code in range(3):
        assert covered[truth == code].mean() == pytest.approx(coverage, abs=0.04)


def test_type_without_enough_held_out_cells_falls_back_on_all():
    codes = np.r_[np.zeros(99, int), np.ones(3, int)]
    held_out = np.r_[np.linspace(0.5, 1.0, 99), 0.9, 0.9, 0.9]
    sets = label_sets(np.array([[0.97, 0.03], [0.3, 0.7]]), 0.9, held_out, codes)
    # Alone, three cells could never leave their type out: 0.03 would be in the set.
    assert sets.tolist() == [[True, False], [False, True]]


def test_shift_is_warned_of_and_chance_is_not():
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n_cells in (0, 1, 7, 997):
            for _ in range(101):
                warn_if_shifted(rng.uniform(size=n_cells), 199)
    with pytest.warns(UserWarning, match="The query is unlike the reference"):
        warn_if_shifted(rng.uniform(size=199) ** 4, 199)
