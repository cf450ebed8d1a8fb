"""PNGs of a command: the query's UMAP and confusion matrix."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from anndata import AnnData

from transanno import pl
from transanno._cli._console import Console
from transanno._constants import CONFIDENCE_SUFFIX
from transanno.report._umap import Placed


def write_figures(
    query: AnnData,
    placed: Placed | str,
    folder: Path,
    labels_key: str,
    key_added: str,
    unlabeled_category: str,
    console: Console,
) -> None:
    """Annotated query, and where its cells are or why that is not known -> ``umap.png`` and, if it has labels, ``confusion_matrix.png`` in the folder."""
    matplotlib.use("agg")  # needs no display, whatever the environment names
    shown = AnnData(
        obs=query.obs[[key_added, f"{key_added}{CONFIDENCE_SUFFIX}"]].copy(),
        uns={
            key: colors
            for key in (f"{key_added}_colors", f"{labels_key}_colors")
            if (colors := query.uns.get(key)) is not None
        },
    )
    has_labels = False
    if labels_key in query.obs:
        labels = query.obs[labels_key]
        shown.obs[labels_key] = labels.where(labels.astype(object).astype(str) != unlabeled_category)
        has_labels = bool(shown.obs[labels_key].notna().any())
    if has_labels:
        pl.confusion_matrix(shown, labels_key, key_added, save=folder / "confusion_matrix.png")
        console.step(f"Wrote {folder / 'confusion_matrix.png'}")
    if isinstance(placed, str):
        console.warn(placed)
        return
    shown = shown[placed.positions].copy()
    shown.obsm["X_umap"] = placed.xy
    pl.umap(shown, labels_key if has_labels else None, key_added, save=folder / "umap.png")
    console.step(f"Wrote {folder / 'umap.png'}")
