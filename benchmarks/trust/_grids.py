"""The limits that are tried."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

NOVELTY_GRID = np.linspace(0.0, 6.0, 121)
"""novelty above which a cell is called "Unknown\""""
PROBABILITY_GRID = expit(np.linspace(4.5, -7.5, 97))
"""probability from which on a type is in the set of a cell"""
