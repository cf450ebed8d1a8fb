"""PNGs of a command: the query's UMAP and confusion matrix."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import scanpy as sc
from anndata import AnnData

from transanno import pl
from transanno._cli._console import Console
from transanno._constants import CONFIDENCE_SUFFIX, LATENT_KEY

# Cells in the UMAP: more take long and show no more. And as few as neighbors can be computed for.
_MAX_CELLS, _MIN_CELLS = 50_000, 10


def write_figures(
    query: AnnData, folder: Path, labels_key: str, key_added: str, unlabeled_category: str, console: Console
) -> None:
    """Annotated query -> ``umap.png`` and, if it has labels, ``confusion_matrix.png`` in the folder."""
    matplotlib.use("agg")  # needs no display, whatever the environment names
    # Apart from the user's object, which may have neighbors and a UMAP of its own.
    shown = AnnData(
        obs=query.obs[[key_added, f"{key_added}{CONFIDENCE_SUFFIX}"]].copy(),
        obsm={LATENT_KEY: query.obsm[LATENT_KEY]},
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
    if shown.n_obs < _MIN_CELLS:
        console.warn(f"No UMAP was drawn: the query has {shown.n_obs} cells, and at least {_MIN_CELLS} are needed.")
        return
    if shown.n_obs > _MAX_CELLS:
        drawn = np.random.default_rng(0).choice(shown.n_obs, _MAX_CELLS, replace=False)
        shown = shown[np.sort(drawn)].copy()
    console.step(f"Computing a UMAP of {shown.n_obs} cells")
    sc.pp.neighbors(shown, n_neighbors=min(15, shown.n_obs // 2), use_rep=LATENT_KEY, random_state=0)
    sc.tl.umap(shown, random_state=0)
    pl.umap(shown, labels_key if has_labels else None, key_added, save=folder / "umap.png")
    console.step(f"Wrote {folder / 'umap.png'}")
