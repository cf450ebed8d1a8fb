"""Values and a template of ours -> HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header, the first column naming the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def render(template: str, **values: Any) -> str:
    """Name of a template, what it shows -> HTML, in which every text that was given is text."""
    return _environment().get_template(template).render(**values)


def summary(title: str, *, lines: Sequence[str] = (), tables: Sequence[Table] = ()) -> str:
    """A title, lines and tables -> HTML for ``_repr_html_``."""
    return render("summary.html", title=title, lines=lines, tables=tables)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only for those who look

    return Environment(
        loader=PackageLoader("transanno.html"),
        autoescape=True,
        undefined=StrictUndefined,  # a slip of ours must not pass for an empty text
        trim_blocks=True,
        lstrip_blocks=True,
    )
