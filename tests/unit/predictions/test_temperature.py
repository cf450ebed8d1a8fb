from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from transanno.predictions._temperature import calibration_error, fit_temperature, reliability, temper


def _cells(n_cells: int = 401, *, seed: int = 0, sharpness: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, `sharpness` times too large, and types drawn from what they should have been."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_cells, 5)) * 2
    codes = np.array([rng.choice(5, p=row) for row in softmax(logits, axis=1)])
    return logits * sharpness, codes


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_temperature_is_the_minimum_of_a_search_by_brute_force(sharpness):
    logits, codes = _cells(sharpness=sharpness)
    grid = np.exp(np.linspace(np.log(0.2), np.log(8.0), 1500))
    losses = [-np.log(softmax(logits / t, axis=1)[np.arange(len(codes)), codes]).mean() for t in grid]
    assert fit_temperature(logits, codes) == pytest.approx(grid[np.argmin(losses)], rel=5e-3)


def test_temperature_of_logits_that_are_too_large_by_a_factor_is_the_factor():
    logits, codes = _cells(20_011, sharpness=3.0)
    assert fit_temperature(logits, codes) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("is_right", [True, False])
def test_cells_that_are_all_right_or_all_wrong_have_a_temperature(is_right):
    logits = np.eye(3)[[0, 1, 2, 0]] * 4
    codes = np.array([0, 1, 2, 0]) if is_right else np.array([1, 2, 0, 1])
    assert 0.05 <= fit_temperature(logits, codes) <= 20.0


def test_tempering_probabilities_is_dividing_logits():
    logits, _ = _cells()
    np.testing.assert_allclose(temper(softmax(logits, axis=1), 1.7), softmax(logits / 1.7, axis=1), atol=1e-12)


def test_tempering_keeps_the_order_of_types_and_survives_zeros():
    probabilities = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    for temperature in (0.3, 1.0, 4.0):
        tempered = temper(probabilities, temperature)
        np.testing.assert_array_equal(tempered.argmax(axis=1), [2, 0])
        np.testing.assert_allclose(tempered.sum(axis=1), 1.0)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.65, 0.35]])
    codes = np.array([0, 1, 1, 1])
    # 0.9: half of two right; 0.7 and 0.65 fall into bins 10 and 9, right and wrong.
    assert calibration_error(probabilities, codes) == pytest.approx((2 * 0.4 + 0.3 + 0.65) / 4)
    assert reliability(probabilities, codes)["n_cells"].tolist() == [1, 1, 2]


def test_temperature_lowers_the_calibration_error_of_unseen_cells():
    logits, codes = _cells(4001)
    new_logits, new_codes = _cells(4001, seed=1)
    raw = softmax(new_logits, axis=1)
    calibrated = temper(raw, fit_temperature(logits, codes))
    assert calibration_error(calibrated, new_codes) < 0.03 < calibration_error(raw, new_codes)
