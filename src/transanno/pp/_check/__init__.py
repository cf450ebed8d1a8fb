"""What is wrong with data before a model sees them."""

from __future__ import annotations

from transanno.pp._check._check import check
from transanno.pp._check._report import CheckReport, Finding

__all__ = ["CheckReport", "Finding", "check"]
