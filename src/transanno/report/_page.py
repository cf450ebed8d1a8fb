"""What a report says -> a page of its own, which loads nothing from anywhere."""

from __future__ import annotations

from pathlib import Path

from transanno.data._files import atomic_path
from transanno.html._render import render
from transanno.report._contents import Contents


def write_page(contents: Contents, path: str | Path) -> None:
    """Write an HTML file in one step."""
    page = render("report.html", report=contents, has_preflight=not isinstance(contents.preflight, str))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
