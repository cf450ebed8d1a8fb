"""From a trained model to a query: mapping without the reference's data, and adaptation to its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.model.base import ArchesMixin

from transanno.data._cells import DataSpec, align
from transanno.data._find_counts import find_names
from transanno.data._labels import as_strings
from transanno.data._match_genes import match_genes, missing_genes
from transanno.models._base import as_model
from transanno.models._prediction import PredictionMixin
from transanno.models._saving import ignored_gene_warnings


class QueryMappingMixin(PredictionMixin, ArchesMixin):
    """scArches-style mapping :cite:p:`Lotfollahi21`, with our own rules for genes and for what trains."""

    # Number of batches of the reference, for a model that load_query_data made; None for a reference model.
    n_reference_batches_: int | None = None
    # What train() changes beside the embeddings of new batches.
    query_trains_: dict[str, bool]

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData | MuData,
        reference_model: Self | str | Path,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        unfrozen: bool = False,
        freeze_classifier: bool = True,
        *,
        layer: str | None = None,
        unseen_labels: Literal["error", "mask"] = "error",
    ) -> Self:
        """Carry a trained model to a query, without the reference's data :cite:p:`Lotfollahi21`.

        Genes are matched by name, in any order; genes that the query lacks are masked, extra ones ignored. The
        query needs neither a label nor a batch column, and nothing of it is changed: :meth:`predict` writes
        into its ``obs`` later. The model can predict at once. :meth:`train` adapts the embeddings of batches
        that the reference does not have, and nothing else, to the query, by predicting its hidden genes: a reference that was
        not pretrained should have been trained with a ``reconstruction_weight``. Labels that the query has are not used.

        Parameters
        ----------
        adata
            Query with raw counts. Counts are restored from normalized or logged values, and genes found under other
            names, where that is certain, in a copy and with a warning; see :func:`transanno.pp.check`.
        reference_model
            Trained model, or the folder that it was saved in.
        inplace_subset_query_vars
            For compatibility with scvi-tools; has no effect, since genes are matched without touching the query.
        accelerator, device
            Where the model is put, see :meth:`scvi.model.base.BaseModelClass.load`.
        unfrozen
            Let :meth:`train` change all weights, and learn from the query's labels, if it has any.
        freeze_classifier
            If False, :meth:`train` changes the cell-type head, too, and learns from the query's labels.
        layer
            Layer of raw counts in the query. Default: the one that the reference was set up with.
        unseen_labels
            What to do with labels that the reference does not have: ``"error"``, or ``"mask"`` to treat these cells
            as unlabeled.

        Returns
        -------
        Model of the query.

        Raises
        ------
        ValueError
            If too few genes are shared, the counts are not raw, a label is unknown, or the folder holds no model.
        """
        if unseen_labels not in ("error", "mask"):
            raise ValueError(f"unseen_labels={unseen_labels!r}. Allowed: 'error', 'mask'.")
        reference = as_model(reference_model, cls, argument="reference_model")
        spec = reference._spec
        aligned = align(adata, spec, shares=reference.gene_shares_, layer=layer)
        if unseen_labels == "mask":
            _mask_unseen_labels(
                aligned.obs, spec, reference.labels, reference.registry["setup_args"]["unlabeled_category"]
            )
        with ignored_gene_warnings():
            model = super().load_query_data(
                aligned.to_registrable(), reference, accelerator=accelerator, device=device, unfrozen=True
            )
        n_reference_batches = reference.module.batch_embedding.num_embeddings
        model.module.start_new_batches(n_reference_batches)
        model.n_reference_batches_ = n_reference_batches
        model.query_trains_ = {"unfrozen": unfrozen, "classifier": not freeze_classifier}
        model._attach(adata, aligned, layer=layer)
        # scvi-tools hands the reference's training record down to the query model.
        model.history_ = None
        model.train_indices_ = model.validation_indices_ = model.test_indices_ = None
        model.is_trained_ = True
        return model

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: QueryMappingMixin | str | Path,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """Check that a query shares enough genes with the model.

        scANVI needs this step to pad and sort genes. Here :meth:`load_query_data` matches genes itself, because
        padding would turn unmeasured genes into measured zeros; so the query is only checked and never changed.

        Parameters
        ----------
        adata
            Query.
        reference_model
            Trained model, or the folder that it was saved in.
        return_reference_var_names
            Return the genes of the model.
        inplace
            If False, return ``adata`` itself.

        Returns
        -------
        The genes, ``adata`` or None.
        """
        reference = as_model(reference_model, cls, argument="reference_model")
        if return_reference_var_names:
            return reference.genes
        names, _, _ = find_names(adata.var, reference.genes, name="query")
        match_genes(names, reference.genes, var=adata.var, is_missing=missing_genes(adata.var))
        return None if inplace else adata

    def _freeze_for_query(self, n_reference_batches: int) -> None:
        if self.query_trains_["unfrozen"]:
            return
        self.module.freeze_for_query(n_reference_batches)
        if self.query_trains_["classifier"] and self.module.classifier is not None:
            self.module.classifier.requires_grad_(True)


def _mask_unseen_labels(obs: pd.DataFrame, spec: DataSpec, classes: np.ndarray, unlabeled_category: str) -> None:
    """Turn labels that the model does not know into the unlabeled category, in our copy of ``obs``."""
    if spec.labels_key in obs:
        labels = as_strings(obs[spec.labels_key], missing=unlabeled_category)
        obs[spec.labels_key] = np.where(np.isin(labels, classes.astype(str)), labels, unlabeled_category)
