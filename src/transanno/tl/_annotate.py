"""Cell types for a query, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anndata import AnnData
from mudata import MuData

from transanno._constants import KEY_ADDED, LATENT_KEY, UNLABELED_CATEGORY
from transanno.checks._arguments import check_adata, check_annotation
from transanno.checks._progress import bars
from transanno.checks._warn import telling_once
from transanno.models import TransAnno, TransAnnoPretrain
from transanno.models._predict import write_predictions
from transanno.predictions._predict import Asked
from transanno.tl._in_pieces import as_one_object
from transanno.tl._map import fit_for_query, map_and_predict

# Lightning's argument.
_BAR = "enable_progress_bar"


def annotate(
    query: AnnData | MuData,
    reference: AnnData | None = None,
    *,
    model: TransAnno | str | Path | None = None,
    labels_key: str | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    unlabeled_category: str = UNLABELED_CATEGORY,
    n_top_genes: int = 2000,
    pretrained: TransAnnoPretrain | str | Path | None = None,
    refine: bool = True,
    unassigned_threshold: float | None = None,
    fdr: float | None = None,
    key_added: str = KEY_ADDED,
    seed: int | None = 0,
    accelerator: str = "auto",
    **train_kwargs: Any,
) -> TransAnno:
    """Annotate a query with the cell types of a reference, or of a trained model.

    Parameters
    ----------
    query
        Cells with raw counts. Only ``obs``, ``obsm`` and ``uns`` are written to. Counts are restored from normalized or logged
        values, and genes found under other names, where that is certain; see :func:`transanno.pp.check`.
    reference
        Labeled cells with raw counts, or values that they can be restored from; not changed. May be all that
        :func:`fit_reference` takes. Give either this or ``model``.
    model
        Trained model, or the folder or name of one, such as ``"blood"``: see :meth:`transanno.TransAnno.from_hub`.
    labels_key
        Column of ``reference.obs`` with the cell types; required with ``reference``.
    batch_key
        Column of ``obs`` with technical batches; the query may lack it.
    layer
        Layer of raw counts, in reference and query; of the one that lacks it, ``X`` is used. Default: ``X``.
    unlabeled_category
        Label that marks unlabeled reference cells; NaN does, too.
    n_top_genes
        Number of highly variable genes that the model uses.
    pretrained
        :class:`transanno.TransAnnoPretrain` model or folder to start from.
    refine
        Refine the predictions by what the query's cells have in common, see
        :meth:`transanno.TransAnno.predict`.
    unassigned_threshold
        Call cells whose highest probability is below this ``"Unassigned"``. Default: every cell gets a type.
    fdr
        Call cells that are unlike the reference ``"Unknown"``, with this share of known cells among them on average over
        queries, see :meth:`transanno.TransAnno.predict`. Default: none.
    key_added
        Column of ``query.obs`` to write.
    seed
        Seed of all randomness; your session's generators are restored afterwards. ``None``: not seeded.
    accelerator
        Where to compute, see :class:`scvi.train.Trainer`.
    **train_kwargs
        Arguments of :meth:`transanno.TransAnno.train`, such as ``max_epochs``; only with ``reference``, except
        ``enable_progress_bar``, which also decides on the bar of a large query on disk.

    Returns
    -------
    Model of the query, for :meth:`~transanno.TransAnno.save` or further predictions.

    Writes
    ------
    ``query.obs[key_added]``
        Categorical, the predicted type, ``"Unassigned"`` or ``"Unknown"``.
    ``query.obs[key_added + "_confidence"]``
        Probability of the most probable type in [0, 1].
    ``query.obs[key_added + "_novelty"]``, ``query.obs[key_added + "_group"]``, ``query.uns[key_added + "_groups"]``
        With ``fdr``: how much a cell is unlike the reference, and groups of ``"Unknown"`` cells with their markers.
    ``query.uns[key_added + "_colors"]``
        Of types that have colors in ``reference.uns[labels_key + "_colors"]``, the same; see
        :meth:`transanno.TransAnno.predict`.
    ``query.obsm["X_transanno"]``
        Cell states ``(n_obs, n_latent)``, for neighbors and UMAP.

    Raises
    ------
    ValueError
        If counts are neither there nor can be restored, too few genes are shared, or fewer than two types are labeled.
    KeyError
        If a column or the layer does not exist.

    Warns
    -----
    TransAnnoWarning
        If query or reference were repaired, with what was done.

    Examples
    --------
    >>> import transanno
    >>> transanno.tl.annotate(query, reference, labels_key="cell_type")
    >>> query.obs["transanno"].value_counts()
    """
    if (reference is None) == (model is None):
        raise ValueError("Pass either reference=, to train on it, or model=, to use a trained one.")
    check_annotation(query, key_added=key_added, seed=seed, refine=refine, accelerator=accelerator, layer=layer)
    for argument, key in (("labels_key", labels_key), ("batch_key", batch_key)):
        if key == key_added and key in query.obs:
            raise ValueError(
                f"key_added={key_added!r} is the column that {argument} names, which the predictions would replace. Name another "
                "column."
            )
    has_bar = bool(train_kwargs.get(_BAR, True))
    asked = Asked(refine=refine, unassigned_threshold=unassigned_threshold, fdr=fdr)
    with telling_once():
        if model is None:
            if labels_key is None:
                raise ValueError("labels_key is missing: name the column of reference.obs that holds the cell types.")
            with as_one_object(
                reference, layer=layer, name="reference", unlabeled_category=unlabeled_category, has_bar=has_bar
            ) as reference:
                check_adata(reference, name="reference", may_be_lazy=True)
                assert reference is not None
                model, layer = fit_for_query(
                    query,
                    reference,
                    labels_key,
                    layer=layer,
                    unlabeled_category=unlabeled_category,
                    asked=asked,
                    batch_key=batch_key,
                    n_top_genes=n_top_genes,
                    pretrained=pretrained,
                    seed=seed,
                    accelerator=accelerator,
                    **train_kwargs,
                )
        elif train_kwargs.keys() - {_BAR} or pretrained is not None:
            unused = [*(train_kwargs.keys() - {_BAR}), *(["pretrained"] if pretrained is not None else [])]
            raise TypeError(f"{', '.join(unused)} only concern training, but model= is trained. Leave them out.")
        with bars(has_bar):
            query_model, predictions = map_and_predict(
                query, model, asked, layer=layer, seed=seed, accelerator=accelerator
            )
    write_predictions(query_model, predictions, query, key_added, asked)
    query.obsm[LATENT_KEY] = predictions.z
    return query_model
