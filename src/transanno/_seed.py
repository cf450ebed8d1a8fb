"""Randomness of a run, without a trace in the user's session."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scvi
import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed everything that scvi-tools draws from, and restore the generators afterwards.

    ``None`` leaves the generators, and ``scvi.settings.seed``, as they are.
    """
    if seed is None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    previous = scvi.settings.seed
    lightning = logging.getLogger("lightning.fabric.utilities.seed")  # reports every seed it sets
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        scvi.settings.seed = seed
        yield
    finally:
        scvi.settings.seed = previous
        lightning.setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
