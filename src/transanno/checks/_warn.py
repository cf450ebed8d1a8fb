"""Warnings that point at the user's own line."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep


class TransAnnoWarning(UserWarning):
    """Everything that this package warns of: results that may be worse than expected, and what was repaired."""


def warn(message: str) -> None:
    """Warn at the line of the call by which the package was entered, whatever is in between."""
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
