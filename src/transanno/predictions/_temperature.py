"""Probabilities that mean what they say: a temperature, fitted on cells that the model was not trained on."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

# Bounds of the temperature: where held-out cells are all right, or all wrong, the best one is infinitely far away.
_LOWEST, _HIGHEST = 0.05, 20.0
_N_BINS = 15


def as_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logits ``(n_cells, n_labels)`` in any precision -> probabilities in double precision."""
    return softmax(logits.astype(np.float64), axis=1)


def fit_temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    """Logits ``(n_cells, n_labels)``, codes of the true types ``(n_cells,)`` -> T.

    Of all T, the one with the highest likelihood of softmax(logits / T) :cite:p:`guo2017calibration`.
    """
    rows = np.arange(len(codes))

    def loss(log_inverse: float) -> float:
        return -log_softmax(logits * np.exp(log_inverse), axis=1)[rows, codes].mean()

    found = minimize_scalar(
        loss, bounds=(-np.log(_HIGHEST), -np.log(_LOWEST)), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(-found.x))


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log(p) / T) of probabilities ``(n_cells, n_labels)``; the order of a cell's types stays as it is.

    For p = softmax(logits) that is softmax(logits / T), and for averages of such it is defined, too.
    """
    if temperature == 1.0:
        return probabilities
    return softmax(np.log(np.maximum(probabilities, np.finfo(float).tiny)) / temperature, axis=1)


def calibration_error(probabilities: np.ndarray, codes: np.ndarray) -> float:
    """Probabilities ``(n_cells, n_labels)``, codes ``(n_cells,)`` -> expected calibration error :cite:p:`guo2017calibration`.

    The mean over cells of the distance between confidence and accuracy in 15 bins of equal width.
    """
    bins = reliability(probabilities, codes)
    return float(np.abs(bins["confidence"] - bins["accuracy"]) @ bins["n_cells"] / bins["n_cells"].sum())


def reliability(probabilities: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
    """-> mean ``confidence``, ``accuracy`` and ``n_cells`` of every bin of confidences that has a cell."""
    confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == codes
    positions = np.minimum((confidence * _N_BINS).astype(int), _N_BINS - 1)
    n_cells, summed, n_right = (
        np.bincount(positions, weights=values, minlength=_N_BINS) for values in (None, confidence, is_right)
    )
    is_used = n_cells > 0
    n_used = n_cells[is_used]
    return {"confidence": summed[is_used] / n_used, "accuracy": n_right[is_used] / n_used, "n_cells": n_used}
