"""What held on other studies: limits that were chosen on pairs of studies of which a model saw only one.

No reference can say how far its types are from the same types in another laboratory, since it holds no cells of one. Pairs of
studies can: over 12 of them, ``python -m benchmarks trust`` finds the limits at which the share of known cells among those called
"Unknown", and the share of sets that hold the right type, are what was asked for, on average over the studies of the queries. The
numbers are those of all studies together; how far they hold for a study that took no part in the choice is in
``benchmarks/results/trust/trust.md``.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

NOVELTY_LIMITS: dict[float, float] = {0.05: 3.8, 0.1: 2.45, 0.2: 1.95, 0.3: 1.65, 0.5: 1.35}
"""false discovery rate -> novelty above which a cell is called "Unknown\""""
MEASURED: dict[float, tuple[float, float]] = {
    0.05: (0.05, 0.06),
    0.1: (0.19, 0.10),
    0.2: (0.25, 0.20),
    0.3: (0.27, 0.27),
    0.5: (0.31, 0.34),
}
"""false discovery rate -> share of unknown cells that was found, and of known cells among those called: means over studies that had
no say in the limit"""
PROBABILITY_LIMITS: dict[float, float] = {0.5: 0.9466, 0.8: 0.6514, 0.9: 0.1824, 0.95: 0.0474, 0.99: 0.0086}
"""coverage -> probability from which on a type is in the set of a cell"""


def novelty_limit(fdr: float) -> float:
    """Rate of false discoveries -> novelty above which a cell is called "Unknown"; outside of what was chosen, the nearest."""
    return float(np.interp(fdr, list(NOVELTY_LIMITS), list(NOVELTY_LIMITS.values())))


def what_to_expect(fdr: float) -> str:
    """Rate of false discoveries -> a sentence on what it was worth on other studies."""
    found, false = (np.interp(fdr, list(MEASURED), values) for values in zip(*MEASURED.values(), strict=True))
    return (
        f"On other studies fdr={fdr:g} found {found:.0%} of the unknown cells on average, and {false:.0%} of the cells that it called Unknown were "
        "known after all; in single queries both differed much."
    )


def probability_limit(coverage: float) -> float:
    """Share of the sets that hold the right type -> probability from which on a type is in the set.

    Between the coverages for which limits were chosen it is interpolated, and beyond them towards the certain limits: no set holds
    all of nothing, and every set of all types holds the right one.
    """
    known = np.array([1e-9, *PROBABILITY_LIMITS, 1.0 - 1e-9])
    limits = np.array([1.0 - 1e-9, *PROBABILITY_LIMITS.values(), 1e-9])
    return float(expit(np.interp(logit(coverage), logit(known), logit(limits))))
