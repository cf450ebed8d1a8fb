"""The color of every cell type: what scanpy keeps in ``uns[f"{key}_colors"]``, carried from one column to another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from transanno._constants import NOVEL_CATEGORY, UNASSIGNED_CATEGORY, UNLABELED_CATEGORY

NO_TYPE_COLORS = {UNLABELED_CATEGORY: "#d3d3d3", UNASSIGNED_CATEGORY: "#a9a9a9", NOVEL_CATEGORY: "#696969"}
"""What is no type is gray."""

# Of scanpy's longest palette, colors are left out that look gray or black, or vanish on white paper.
_LEAST_CHROMA, _LUMINANCES = 0.15, (0.05, 0.85)


def read_colors(data: AnnData | MuData, key: str) -> dict[str, str]:
    """``uns[f"{key}_colors"]`` by the categories of ``obs[key]``; nothing if there are none, or fewer than categories."""
    colors, column = data.uns.get(f"{key}_colors"), data.obs[key] if key in data.obs else None
    # Columns of lazy tables are no series, and their colors are not looked for.
    if not isinstance(column, pd.Series) or not isinstance(column.dtype, pd.CategoricalDtype):
        return {}
    names = column.cat.categories.astype(str)
    colors = colors.tolist() if isinstance(colors, np.ndarray) else colors
    if not isinstance(colors, list | tuple) or len(colors) < len(names):
        return {}
    texts = [_as_text(color) for color in colors]
    return {} if None in texts else dict(zip(names, map(str, texts), strict=False))


def _as_text(color: Any) -> str | None:
    """-> name of a color, also of red, green and blue; None if it is none."""
    if isinstance(color, str):
        return color
    from matplotlib.colors import is_color_like, to_hex

    return to_hex(color, keep_alpha=True) if is_color_like(color) else None


def write_colors(
    data: AnnData | MuData, key: str, names: Sequence[str], known: Mapping[str, str], before: Mapping[str, str]
) -> None:
    """Give the categories of ``obs[key]``, which are new and have these names, the colors that are known.

    ``before`` are those of the column that was replaced. They stay where they fit; otherwise the types that were there keep
    theirs unless another one is known. Where nothing is known nothing is written, and scanpy takes colors of its own.
    """
    if list(before) == list(names) or not (known or before):
        return
    colors = complete_colors(names, {**before, **known})
    data.uns[f"{key}_colors"] = [colors[name] for name in names]


def complete_colors(names: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """Types -> color of each: the known one, gray for what is no type, else one that no other type has."""
    names = list(dict.fromkeys(names))
    colors = {**NO_TYPE_COLORS, **known}
    new = sorted(set(names) - colors.keys())
    used = {color.lower() for color in known.values()}
    palette = _palette(len(set(names) - NO_TYPE_COLORS.keys()))
    free = [color for color in palette if color not in used] or palette
    colors.update((name, free[i % len(free)]) for i, name in enumerate(new))
    return {name: colors[name] for name in names}


def _palette(n_colors: int) -> list[str]:
    """-> at least so many colors that can be told apart, if scanpy has them."""
    from scanpy.plotting import palettes  # loads matplotlib, which checks of data can do without

    if n_colors <= len(palettes.default_20):
        return [color.lower() for color in palettes.default_20]
    return [color.lower() for color in palettes.default_102 if _is_clear(color)]


def _is_clear(color: str) -> bool:
    from matplotlib.colors import to_rgb

    rgb = np.array(to_rgb(color))
    luminance = rgb @ (0.2126, 0.7152, 0.0722)
    return bool(np.ptp(rgb) > _LEAST_CHROMA and _LUMINANCES[0] < luminance < _LUMINANCES[1])
