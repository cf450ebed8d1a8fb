"""Models that start from weights: pretrained ones, or an original checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pandas as pd
from anndata import AnnData
from mudata import MuData

from transanno._constants import UNLABELED_CATEGORY
from transanno.data._match_genes import match_genes
from transanno.models._base import as_model
from transanno.models._from_original import check_labels, model_without_data, read_genes
from transanno.models._pretrain import TransAnnoPretrain
from transanno.models._query_mapping import QueryMappingMixin
from transanno.saving._original import load_weights, read_checkpoint
from transanno.training._transfer import transfer_weights

logger = logging.getLogger(__name__)


class PretrainedMixin(QueryMappingMixin):
    """Ways to a model of labeled cells that do not start from random weights."""

    # Whether gene embeddings come from pretraining, so that training does not start them from the data.
    was_pretrained_: bool
    # Genes that pretraining has not seen.
    n_new_genes_: int = 0

    @classmethod
    def from_pretrained(
        cls,
        pretrained: TransAnnoPretrain | str | Path,
        adata: AnnData | MuData,
        labels_key: str | None = None,
        unlabeled_category: str = UNLABELED_CATEGORY,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Make a model for a labeled reference that starts from pretrained weights.

        Gene embeddings are carried over by gene name, the rest of the encoder and of the expression head as they are;
        batches and the cell-type head start afresh. Architecture arguments come from the pretrained model.

        Parameters
        ----------
        pretrained
            Trained :class:`TransAnnoPretrain`, or the folder that it was saved in.
        adata
            Labeled reference. An AnnData is registered here; a MuData has to be registered with
            :meth:`setup_mudata` before.
        labels_key, unlabeled_category, layer, batch_key
            See :meth:`setup_anndata`; ``labels_key`` is required for an AnnData.
        **model_kwargs
            Arguments of the model that replace those of the pretrained one.

        Returns
        -------
        Model ready for :meth:`train`.

        Raises
        ------
        ValueError
            If the pretrained model is untrained, shares too few genes with the reference, or another width is asked
            for than its weights have.
        """
        source = as_model(pretrained, TransAnnoPretrain, argument="pretrained")
        if isinstance(adata, AnnData):
            if labels_key is None:
                raise ValueError("labels_key is missing: name the column of adata.obs that holds the cell types.")
            cls.setup_anndata(adata, labels_key, unlabeled_category, layer=layer, batch_key=batch_key)
        arguments = {**source.init_params_["non_kwargs"], **model_kwargs}
        model = cls(adata, **arguments)
        match = match_genes(model.genes, source.genes, name="reference")
        transfer_weights(
            source.module, model.module, source_rows=match.vocabulary_columns, target_rows=match.query_columns
        )
        logger.info("%d of %d genes start from pretrained embeddings", match.n_shared, len(model.genes))
        model.was_pretrained_ = True
        model.n_new_genes_ = len(model.genes) - match.n_shared
        return model

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        genes: Sequence[str] | str | Path,
        labels: Sequence[str],
        *,
        labels_key: str = "cell_type",
        unlabeled_category: str = UNLABELED_CATEGORY,
    ) -> Self:
        """Load a fine-tuned checkpoint of TransAnno-Net :cite:p:`transannonet2025` or scBERT :cite:p:`yang2022scbert`.

        The model holds no cells and can :meth:`predict` at once. Cells that have all genes get the logits of the
        original; genes that a query lacks are masked, where the original took them as silent. A checkpoint without a
        classifier is loaded by :meth:`transanno.TransAnnoPretrain.from_checkpoint`.

        Parameters
        ----------
        path
            File that ``torch.save`` wrote: a state dictionary, or one under ``"model_state_dict"`` or
            ``"state_dict"``. It is read with ``weights_only=True``.
        genes
            Names of the genes in the order of their positions, or a file of them, see
            :func:`transanno.pp.read_vocabulary`.
        labels
            Names of the cell types in the order of the logits.
        labels_key
            Column of ``obs`` in which :meth:`load_query_data` looks for labels of a query.
        unlabeled_category
            Value of ``labels_key`` that marks cells without a label.

        Returns
        -------
        Trained model, on the CPU.

        Raises
        ------
        ValueError
            If the file cannot be read, has no classifier, or weights are missing, left over or of another shape; it
            lists them.

        Examples
        --------
        >>> import transanno
        >>> model = transanno.TransAnno.from_checkpoint("finetune_best.pth", genes="genes.txt", labels=["B", "T"])
        >>> model.predict(query)
        """
        checkpoint = read_checkpoint(path)
        if not checkpoint.has_classifier:
            raise ValueError(
                f"{path} holds no classifier (no weights to_out.conv1, to_out.fc1 to fc3), so it predicts no cell types. "
                "Load it with `TransAnnoPretrain.from_checkpoint(path, genes)`, and fine-tune it on a reference with "
                "`TransAnno.from_pretrained`."
            )
        names = check_labels(labels, checkpoint, unlabeled_category=unlabeled_category)
        model = model_without_data(
            cls,
            read_genes(genes, checkpoint),
            pd.DataFrame({labels_key: names}, index=[f"placeholder{i}" for i in range(len(names))]),
            setup={"labels_key": labels_key, "unlabeled_category": unlabeled_category},
            model={"encoder": "performer", "head": "conv", "dropout_rate": 0.0, **checkpoint.architecture},
        )
        load_weights(model.module, checkpoint, label_order=[names.index(label) for label in model.labels])
        model.module.eval()
        model.is_trained_ = True
        return model
