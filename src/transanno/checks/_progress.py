"""Bars of what takes minutes outside of training, whose bars are Lightning's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_IS_SHOWN: ContextVar[bool] = ContextVar("_IS_SHOWN", default=True)


@contextmanager
def bars(is_shown: bool) -> Iterator[None]:
    """-> context in which there are bars, or not."""
    token = _IS_SHOWN.set(is_shown and _IS_SHOWN.get())
    try:
        yield
    finally:
        _IS_SHOWN.reset(token)


def cells_bar(description: str, n_cells: int, *, is_long: bool) -> Any:
    """-> bar of so many cells, to be used as a context and updated by how many were done; without output unless it ``is_long``."""
    from tqdm.auto import tqdm

    return tqdm(
        total=n_cells, desc=description, unit=" cells", unit_scale=True, disable=not (is_long and _IS_SHOWN.get())
    )
