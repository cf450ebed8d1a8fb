"""Warnings that point at the user's own line."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep


# What was warned of since the outermost call that wants to repeat nothing.
_told: ContextVar[set[str] | None] = ContextVar("told", default=None)


class TransAnnoWarning(UserWarning):
    """Everything that this package warns of: results that may be worse than expected, and what was repaired."""


@contextmanager
def telling_once() -> Iterator[None]:
    """Within the outermost of these contexts nothing is warned of twice, be it of other numbers of cells."""
    if _told.get() is not None:
        yield
        return
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)


@contextmanager
def telling_nothing() -> Iterator[None]:
    """No warnings of ours in this context, which may then still be given after it."""
    token = _told.set(set())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        _told.reset(token)


def warn(message: str) -> None:
    """Warn at the line of the call by which the package was entered, whatever is in between."""
    told = _told.get()
    if told is not None:
        fact = re.sub(r"\d[\d,.]*", "#", message)
        if fact in told:
            return
        told.add(fact)
    frame = entry = sys._getframe()
    while frame.f_back is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            entry = frame.f_back
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        TransAnnoWarning,
        entry.f_code.co_filename,
        entry.f_lineno,
        module=entry.f_globals.get("__name__"),
        registry=entry.f_globals.setdefault("__warningregistry__", {}),
    )
