"""An annotation as one file to hand over."""

from __future__ import annotations

from pathlib import Path

from anndata import AnnData
from mudata import MuData

from transanno._constants import KEY_ADDED
from transanno.checks._arguments import check_adata
from transanno.models import TransAnno
from transanno.models._base import as_model
from transanno.report._contents import Origin
from transanno.report._gather import gather
from transanno.report._page import write_page


def report(
    adata: AnnData | MuData,
    model: TransAnno | str | Path | None = None,
    *,
    save: str | Path = "report.html",
    key_added: str = KEY_ADDED,
    layer: str | None = None,
    title: str = "Cell types",
) -> Path:
    """Write what was annotated, by what, and how far to trust it, as one HTML file for people who were not there.

    The file needs nothing beside it and loads nothing: pictures are in it, and there are no scripts. It says what was
    annotated by what, what :func:`transanno.pp.check` finds, the composition, a UMAP by type, confidence and novelty, every type
    with the genes that decided, which confusions to expect, groups of ``"Unknown"`` cells, and how to annotate the cells again. Where a
    part is missing, a sentence says why.

    Parameters
    ----------
    adata
        Annotated cells; not changed.
    model
        Model that annotated them, such as :func:`transanno.tl.annotate` returns, or the folder of one. Genes that decided, confusions,
        the overlap of genes and settings are known with it only. Arguments of the prediction are those of the model's last one of
        these cells, as long as the session lasts.
    save
        File to write; one that is there is replaced in one step.
    key_added
        Column of ``adata.obs`` that predictions were written to.
    layer
        Layer of raw counts. Default: where the model found them, else ``X``.
    title
        Heading of the page.

    Returns
    -------
    Path of the file.

    Reads
    -----
    ``obs[key_added]``, ``obs[key_added + "_confidence"]``, ``obs[key_added + "_novelty"]``, ``uns[key_added + "_groups"]``
        As predictions wrote them; all but the first may be missing.
    ``uns[key_added + "_colors"]``
        Colors of the types, if :mod:`scanpy.pl` has chosen some.
    ``obsm["X_umap"]``, ``obsm["X_transanno"]``
        Coordinates of the cells, or states that they are computed from. Of more than 20,000 cells, so many are shown, evenly spread.

    Raises
    ------
    KeyError
        If the column does not exist.
    ValueError
        If it holds no predictions, or types that the model does not know, or ``save`` does not end in ``.html``.

    Examples
    --------
    >>> model = transanno.tl.annotate(query, reference, labels_key="cell_type", fdr=0.1)
    >>> transanno.tl.report(query, model, save="report.html")
    """
    if not isinstance(adata, MuData):
        check_adata(adata, name="adata", may_be_lazy=True)
    if Path(save).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"save={str(save)!r} does not end in .html, which is the only format written. Add the suffix.")
    given = str(model) if isinstance(model, str | Path) else None
    model = None if model is None else as_model(model, TransAnno, argument="model")
    filename = getattr(adata, "filename", None)
    origin = Origin(cells=None if filename is None else str(filename), model=given)
    write_page(gather(adata, model, key_added=key_added, layer=layer, title=title, origin=origin), save)
    return Path(save)
