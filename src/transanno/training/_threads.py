"""How many threads a training run takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def at_most_threads(n_threads: int | None) -> Iterator[None]:
    """-> context in which torch has no more threads than these; None: as many as it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, n_threads or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
