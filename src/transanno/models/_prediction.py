"""Cell types for cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS

from transanno._constants import KEY_ADDED
from transanno._labels import as_strings
from transanno._predictions import Predictions, check_unassigned_threshold
from transanno._query import AlignedData
from transanno._refine import refine_probabilities
from transanno.models._base import TransAnnoBase
from transanno.models._minibatches import Minibatch, as_positions


class PredictionMixin(TransAnnoBase):
    """Probabilities of a trained classifier, refined and written on request."""

    @property
    def labels(self) -> np.ndarray:
        """Cell types that the model predicts ``(n_labels,)`` str, in the order of the logits."""
        # The field keeps the unlabeled category last.
        state = self.registry["field_registries"][REGISTRY_KEYS.LABELS_KEY]["state_registry"]
        return np.asarray(state["categorical_mapping"], dtype=object)[:-1].astype(str)

    def predict(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
        *,
        refine: bool = False,
        unassigned_threshold: float | None = None,
        keep_known: bool = False,
        key_added: str | None = KEY_ADDED,
        dataloader: Iterable[Minibatch] | None = None,
    ) -> np.ndarray | pd.DataFrame:
        """Predict cell types, and write them into ``obs`` of the data.

        Parameters
        ----------
        adata
            Cells with raw counts; genes are matched by name. Default: the data of the model, which for a query model
            is the object that :meth:`load_query_data` was given. Cells of batches that the model does not know are
            an error, see :meth:`load_query_data`.
        indices
            Positions or boolean mask of the cells to predict. Default: all.
        soft
            Return probabilities instead of labels.
        batch_size
            Cells in a minibatch; has no influence on the result.
        refine
            Average the probabilities of a cell with those of its nearest neighbors among the cells that are predicted
            together. More accurate on most queries, but then a cell's prediction depends on the others. Has no
            effect on fewer than 50 cells.
        unassigned_threshold
            Call cells whose highest probability is below this ``"Unassigned"``: possibly of a type that the reference
            lacks. The paper uses 0.5 :cite:p:`transannonet2025`. Default: every cell gets a type.
        keep_known
            Keep the label of cells that have one in ``obs[labels_key]``, with probability 1; only the others are
            predicted. Labels that the model does not know count as none.
        key_added
            Column of ``obs`` to write; ``None`` writes nothing.
        dataloader
            Minibatches as dictionaries of tensors, instead of ``adata``; nothing is written.

        Returns
        -------
        Labels ``(n_cells,)``, or with ``soft`` a DataFrame of probabilities in [0, 1], cells × types. Both are in the
        order of ``indices``.

        Writes
        ------
        ``obs[key_added]``
            Categorical, the most probable type or ``"Unassigned"``; missing for cells outside ``indices``.
        ``obs[key_added + "_confidence"]``
            Probability of the most probable type in [0, 1], also where the cell is unassigned.

        Raises
        ------
        ValueError
            If the counts are not raw, too few genes are shared, ``unassigned_threshold`` is no probability, or the
            reference has a type called "Unassigned" next to it.
        """
        check_unassigned_threshold(unassigned_threshold, self.labels)
        self._check_if_trained()
        if dataloader is not None:
            if adata is not None or indices is not None:
                raise ValueError("Both dataloader and adata or indices are given. Pass one of them.")
            logits = self._infer("logits", None, np.zeros(0, int), None, dataloader)
            positions, names, target = np.arange(len(logits)), pd.RangeIndex(len(logits)).astype(str), None
        else:
            target, aligned = self._resolve(adata)
            positions, names = as_positions(indices, target.n_obs), target.obs_names
            logits = self._infer("logits", aligned, positions, batch_size)
        probabilities = torch.from_numpy(logits).double().softmax(dim=1).numpy()
        if refine:
            if target is None:
                raise ValueError("refine=True needs all cells at once. Pass adata instead of dataloader.")
            probabilities = refine_probabilities(probabilities, self._counts(aligned, positions), ~self._is_gene)
        if keep_known:
            if target is None:
                raise ValueError("keep_known=True needs the labels of the cells. Pass adata instead of dataloader.")
            known = self._known_codes(aligned)[positions]
            is_known = known >= 0
            probabilities[is_known] = np.eye(len(self.labels))[known[is_known]]
        predictions = Predictions(probabilities, self.labels, positions, names, unassigned_threshold)
        if key_added is not None and target is not None:
            predictions.write(target, key_added)
        return predictions.to_frame() if soft else predictions.labels

    def _known_codes(self, aligned: AlignedData | None) -> np.ndarray:
        """-> position among the model's types of every cell's label ``(n_obs,)``, -1 for cells without one."""
        if aligned is None:
            codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel().astype(np.int64)
            return np.where(codes < len(self.labels), codes, -1)
        if aligned.spec.labels_key not in aligned.obs:
            return np.full(len(aligned.obs), -1)
        unlabeled_category = self.registry["setup_args"]["unlabeled_category"]
        labels = as_strings(aligned.obs[aligned.spec.labels_key], missing=unlabeled_category)
        return pd.Index(self.labels, dtype=object).get_indexer(pd.Index(labels, dtype=object))
