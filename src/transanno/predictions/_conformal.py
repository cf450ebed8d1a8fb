"""Conformal inference: held-out reference cells say how unusual a cell is, or which types it may be of.

All of it holds for cells that are exchangeable with the held-out ones: drawn in the same way from the same population.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import false_discovery_control

from transanno.checks._warn import warn

# A type, or the cells called one, are compared with their like if there are so many of these, and else with all.
_MIN_CELLS_OF_TYPE = 200
# Share of the held-out cells that say how fast the tail of their scores falls.
_TAIL = 0.1
# Distance of the p-values from uniform, beyond chance, from which on it is worth a warning: cells that are harmless
# but from another laboratory reach 0.1.
_MIN_DISTANCE = 0.2
# Kolmogorov and Smirnov's distance that two samples of one distribution exceed once in a thousand times, in units of
# its standard error.
_KS_CRITICAL = 1.95


def conformal_p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Scores ``(n_cells,)``, those of held-out cells ``(n_held_out,)`` -> share that are as high, ``(n_cells,)`` in (0, 1].

    The cell itself counts as one of them, so that the share is at most p with probability p.
    """
    n_lower = np.searchsorted(np.sort(calibration), scores, side="left")
    return (1.0 + len(calibration) - n_lower) / (1.0 + len(calibration))


def extrapolated_p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Conformal p-values that go on falling where a score is higher than those of all held-out cells.

    n cells alone give no p-value below 1 / (n + 1), and among many tests none of these would be a discovery. Beyond the
    highest score, the tail is taken to be exponential, with the mean excess over the upper tenth; distributions with
    lighter tails than that get p-values that are too high, on the safe side.
    """
    start = np.quantile(calibration, 1.0 - _TAIL)
    excess = (calibration[calibration >= start] - start).mean()
    beyond = np.maximum(scores - calibration.max(), 0.0) / max(excess, 1e-12)
    return conformal_p_values(scores, calibration) * np.exp(-beyond)


def p_values_by_type(
    scores: np.ndarray, called: np.ndarray, calibration: np.ndarray, calibration_called: np.ndarray
) -> np.ndarray:
    """:func:`extrapolated_p_values` within cells of one call: scores and calls ``(n_cells,)``, and those of held-out cells ``(n_held_out,)``.

    Cells of a call that fewer than 200 held-out cells have are compared with all held-out cells.
    """
    p_values = extrapolated_p_values(scores, calibration)
    for code in np.flatnonzero(np.bincount(calibration_called) >= _MIN_CELLS_OF_TYPE):
        is_called = called == code
        p_values[is_called] = extrapolated_p_values(scores[is_called], calibration[calibration_called == code])
    return p_values


def is_discovery(p_values: np.ndarray, fdr: float) -> np.ndarray:
    """p-values ``(n_cells,)`` -> bool, True where Benjamini and Hochberg's procedure rejects :cite:p:`benjamini1995fdr`."""
    if len(p_values) == 0:
        return np.zeros(0, dtype=bool)
    return false_discovery_control(p_values) <= fdr


def label_sets(
    probabilities: np.ndarray, coverage: float, calibration: np.ndarray, calibration_codes: np.ndarray
) -> np.ndarray:
    """Probabilities ``(n_cells, n_labels)`` -> bool, True for types that a cell may be of :cite:p:`vovk2005algorithmic`.

    ``calibration (n_held_out,)`` are the probabilities of their true types, ``calibration_codes``, in held-out cells. A
    type is in the set unless the probability is lower than in all but 1 - ``coverage`` of the held-out cells of that type;
    a type with too few of these to be ever left out is compared with all held-out cells.
    """
    sets = np.zeros(probabilities.shape, dtype=bool)
    for code in range(probabilities.shape[1]):
        own = calibration[calibration_codes == code]
        # Strictly: 1 / (n + 1) is the lowest p-value that n cells can give.
        compared = own if 1.0 / (len(own) + 1) <= 1.0 - coverage + 1e-9 else calibration
        sets[:, code] = conformal_p_values(-probabilities[:, code], -compared) > 1.0 - coverage + 1e-9
    return sets


def warn_if_shifted(p_values: np.ndarray, n_held_out: int) -> None:
    """Warn if more cells have low p-values than exchangeable ones would, by a one-sided Kolmogorov-Smirnov distance."""
    if len(p_values) == 0:
        return
    ordered = np.sort(p_values)
    distance = float((np.arange(1, len(ordered) + 1) / len(ordered) - ordered).max())
    by_chance = _KS_CRITICAL * np.sqrt(1.0 / len(ordered) + 1.0 / n_held_out)
    if distance > max(by_chance, _MIN_DISTANCE):
        warn(
            f"The query is unlike the reference: {np.mean(p_values <= 0.1):.0%} of its cells have a novelty of at most 0.1, "
            "which 10% of the reference's own held-out cells have. Label sets cover less than they promise, and more known "
            'cells than promised may be called "Unknown". Either the query differs technically (protocol, depth, genes that '
            "are missing), or many of its cells are of types or in states that the reference lacks. Look at novelty per "
            "cluster; a reference with batches like the query's, and its batch_key, helps."
        )
