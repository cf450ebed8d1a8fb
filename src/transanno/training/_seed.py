"""Randomness of a run, without a trace in the user's session."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import scvi
import torch

from transanno.checks._quiet import quiet_loggers

# scvi-tools adds an option of JAX to it at every seed that it is given, until programs can no longer be started.
_FLAGS = "XLA_FLAGS"


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed everything that scvi-tools draws from, and restore the generators afterwards.

    ``None`` leaves the generators, and ``scvi.settings.seed``, as they are. What a session has told torch otherwise, that nothing
    is to be differentiated or that tensors are to be elsewhere, is not for what is made and trained in here.
    """
    with torch.inference_mode(False), torch.enable_grad(), _tensors_on_cpu(), _seeded(seed):
        yield


def _tensors_on_cpu() -> AbstractContextManager[Any]:
    # A mode that looks at every call, which takes time: only where there is a need.
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
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
