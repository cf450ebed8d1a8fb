"""Randomness of a run, without a trace in the user's session."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scvi
import torch

from transanno.checks._quiet import quiet_loggers

# scvi-tools adds an option of JAX to it at every seed that it is given, until programs can no longer be started.
_FLAGS = "XLA_FLAGS"


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed everything that scvi-tools draws from, and restore the generators afterwards.

    ``None`` leaves the generators, and ``scvi.settings.seed``, as they are.
    """
    if seed is None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    previous, flags = scvi.settings.seed, os.environ.get(_FLAGS)
    try:
        with quiet_loggers("lightning.fabric"):  # which reports every seed that is set
            scvi.settings.seed = seed
        yield
    finally:
        with quiet_loggers("lightning.fabric"):
            scvi.settings.seed = previous
        if flags is None:
            os.environ.pop(_FLAGS, None)
        else:
            os.environ[_FLAGS] = flags
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
