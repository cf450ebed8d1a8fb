"""What a report says -> a page of its own, which loads nothing from anywhere."""

from __future__ import annotations

from transanno.html._render import render
from transanno.report._contents import Contents


def as_page(contents: Contents) -> str:
    """-> the text of an HTML file."""
    return render("report.html", report=contents, has_preflight=not isinstance(contents.preflight, str))
