"""A model of labeled cells that starts from pretrained weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anndata import AnnData
from mudata import MuData

from transanno.data._match_genes import match_genes
from transanno.models._base import as_model
from transanno.models._pretrain import TransAnnoPretrain
from transanno.training._transfer import transfer_weights

if TYPE_CHECKING:
    from transanno.models._transanno import TransAnno

logger = logging.getLogger(__name__)


def start_from_pretrained(
    cls: type[TransAnno],
    pretrained: TransAnnoPretrain | str | Path,
    adata: AnnData | MuData,
    labels_key: str | None,
    unlabeled_category: str,
    layer: str | None,
    batch_key: str | None,
    architecture: Any,
) -> Any:
    """See :meth:`transanno.TransAnno.from_pretrained`."""
    source = as_model(pretrained, TransAnnoPretrain, argument="pretrained")
    if isinstance(adata, AnnData):
        if labels_key is None:
            raise ValueError("labels_key is missing: name the column of adata.obs that holds the cell types.")
        cls.setup_anndata(adata, labels_key, unlabeled_category, layer=layer, batch_key=batch_key)
    arguments: Any = {**source.init_params_["non_kwargs"], **architecture}
    model = cls(adata, **arguments)
    match = match_genes(model.genes, source.genes, name="reference")
    transfer_weights(source.module, model.module, source_rows=match.vocabulary_columns, target_rows=match.query_columns)
    logger.info("%d of %d genes start from pretrained embeddings", match.n_shared, len(model.genes))
    model.was_pretrained_ = True
    model.n_new_genes_ = len(model.genes) - match.n_shared
    return model
