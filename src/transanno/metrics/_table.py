"""Tables as text."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts, the first of them the header -> lines, first column to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def format_per_class(per_class: pd.DataFrame) -> str:
    """Per-class table -> text."""
    return format_table(per_class_rows(per_class))


def per_class_rows(per_class: pd.DataFrame) -> list[list[str]]:
    """Per-class table -> texts, the header first; whole numbers stay whole."""
    rows = [["true type", *per_class.columns]]
    for name, row in zip(per_class.index, per_class.itertuples(index=False), strict=True):
        rows.append([str(name), *(f"{value:.3f}" if isinstance(value, float) else f"{value}" for value in row)])
    return rows


def format_examples(names: Sequence[str]) -> str:
    """``a, b, c, …``, five of them at most."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
