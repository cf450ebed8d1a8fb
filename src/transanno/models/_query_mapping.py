"""From a trained model to a query: mapping without the reference's data, and guarded adaptation."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi.model.base import ArchesMixin

from transanno._genes import match_genes, missing_genes
from transanno._labels import as_strings
from transanno._query import DataSpec, align
from transanno._repair import find_names
from transanno.models._base import as_model
from transanno.models._prediction import PredictionMixin
from transanno.models._saving import ignored_gene_warnings
from transanno.nn import CellTypeHead

# Calls above this probability are what an adaptation to the query has to agree with, and in what share of cells; and in how
# many fewer cells the two paths of the head may agree afterwards.
_SURE, _MIN_AGREEMENT, _MAX_LOSS = 0.9, 0.95, 0.01


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
        that the reference does not have, and nothing else, to the query; labels that the query has are not used, and
        the adaptation is undone if it contradicts calls that the Transformer alone was sure of, or leads it away from the
        regression beside it.

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

    def _registered_probabilities(self, path: Literal["deep", "wide"]) -> np.ndarray:
        """Probabilities of the registered cells by one path of the head ``(n_obs, n_labels)``."""
        head = self.module.classifier
        with head.alone(path) if isinstance(head, CellTypeHead) else nullcontext():
            logits = self._infer("logits", None, np.arange(self.adata.n_obs), None)
        return torch.from_numpy(logits).softmax(dim=1).numpy()

    def _undo_unless_calls_agree(self, before: np.ndarray, batch_embedding: torch.Tensor) -> None:
        """Take an adaptation back that contradicts what the Transformer was sure of, or leads it away from the wide path.

        Reconstructing the query better need not mean annotating it better: where batch and type coincide in the
        reference, the embedding of a new batch can drift to where it stands for a type. The wide path knows no batches, so it
        is an independent witness.
        """
        reason = self._why_harmful(before)
        if reason is None:
            return
        with torch.no_grad():
            self.module.batch_embedding.weight.copy_(batch_embedding)
        warnings.warn(
            f"The adaptation to the query was undone: {reason}. Predictions are those before train().",
            UserWarning,
            stacklevel=3,
        )

    def _why_harmful(self, before: np.ndarray) -> str | None:
        """The Transformer's probabilities before an adaptation ``(n_obs, n_labels)`` -> what speaks against it, if anything."""
        is_sure, called_before = before.max(axis=1) >= _SURE, before.argmax(axis=1)
        calls = self._registered_probabilities("deep").argmax(axis=1)
        agreement = (called_before == calls)[is_sure].mean() if is_sure.any() else 0.0
        if agreement < _MIN_AGREEMENT:
            return (
                f"only {agreement:.0%} of the calls that the Transformer alone was sure of stayed as they were (at least "
                f"{_MIN_AGREEMENT:.0%} have to)"
            )
        head = self.module.classifier
        if not isinstance(head, CellTypeHead) or head.wide_share == 0:
            return None
        witness = self._registered_probabilities("wide").argmax(axis=1)
        agreed_before, agreed = (called_before == witness).mean(), (calls == witness).mean()
        if agreed >= agreed_before - _MAX_LOSS:
            return None
        return (
            f"the Transformer agrees with the regression, which knows no batches, in {agreed:.1%} of the cells, after "
            f"{agreed_before:.1%} before"
        )


def _mask_unseen_labels(obs: pd.DataFrame, spec: DataSpec, classes: np.ndarray, unlabeled_category: str) -> None:
    """Turn labels that the model does not know into the unlabeled category, in our copy of ``obs``."""
    if spec.labels_key in obs:
        labels = as_strings(obs[spec.labels_key], missing=unlabeled_category)
        obs[spec.labels_key] = np.where(np.isin(labels, classes.astype(str)), labels, unlabeled_category)
