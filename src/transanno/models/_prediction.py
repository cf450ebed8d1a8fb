"""Cell types for cells."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS

from transanno._constants import KEY_ADDED, UNASSIGNED_CATEGORY
from transanno.data._cells import AlignedData
from transanno.data._labels import as_strings
from transanno.models._calibration import MIN_HELD_OUT, CalibrationMixin
from transanno.predictions._conformal import is_discovery, label_sets, warn_if_shifted
from transanno.predictions._refine import refine_probabilities
from transanno.predictions._result import Predictions, check_coverage, check_fdr, check_unassigned_threshold
from transanno.training._minibatches import Minibatch, as_positions


class PredictionMixin(CalibrationMixin):
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
        fdr: float | None = None,
        sets: bool = False,
        coverage: float = 0.9,
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
            together, and then with those of a regression that learned the surer calls from the principal components of
            these cells. More accurate on most queries, but then a cell's prediction depends on the others, and not only on
            their mean. Has no effect on fewer than 50 cells.
        unassigned_threshold
            Call cells whose highest probability is below this ``"Unassigned"``: possibly of a type that the reference
            lacks. The paper uses 0.5 :cite:p:`transannonet2025`. Default: every cell gets a type.
        fdr
            Call cells that are unlike the reference ``"Unknown"``, so many that the expected share of known cells among
            them stays below this (Benjamini-Hochberg on the novelty). Default: none.
        sets
            Write the types that a cell may be of, too: conformal sets of the cell's own probabilities, without ``refine``.
        coverage
            Share of the cells of each type whose set holds it, where query and held-out reference cells are
            exchangeable; the user guide says what that means.
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
            Categorical, the most probable type, ``"Unassigned"`` or ``"Unknown"``; missing for cells outside ``indices``.
            Cells without a count are ``"Unassigned"``, too.
        ``obs[key_added + "_confidence"]``
            Probability of the most probable type in [0, 1], also where the cell is given none.
        ``obs[key_added + "_novelty"]``
            If the model was calibrated: p-value in (0, 1], the share of held-out reference cells that are at least as far
            from the known types. Small where a cell is unlike the reference.
        ``obsm[key_added + "_sets"]``, ``obs[key_added + "_set"]``
            With ``sets``: bool ``(n_obs, n_labels)`` in the order of :attr:`labels`, and the same as text, ``"A|B"``.

        Raises
        ------
        ValueError
            If the counts are not raw, too few genes are shared, ``unassigned_threshold``, ``fdr`` or ``coverage`` is out of
            its range, the reference has a type called "Unassigned" or "Unknown" next to the first two, or the model
            was not calibrated and ``fdr`` or ``sets`` are asked for.

        Warns
        -----
        UserWarning
            If cells have no counts. With ``fdr`` or ``sets``, if the query is visibly unlike the held-out cells of the reference.
        """
        check_unassigned_threshold(unassigned_threshold, self.labels)
        check_fdr(fdr, self.labels)
        check_coverage(coverage)
        self._check_if_trained()
        is_judged = fdr is not None or sets
        if is_judged:
            self._check_is_calibrated(with_dataloader=dataloader is not None)
        judged: list[np.ndarray] = []
        if dataloader is not None:
            if adata is not None or indices is not None:
                raise ValueError("Both dataloader and adata or indices are given. Pass one of them.")
            logits = self._infer("logits", None, np.zeros(0, int), None, dataloader)
            positions, names, target = np.arange(len(logits)), pd.RangeIndex(len(logits)).astype(str), None
        else:
            target, aligned = self._resolve(adata)
            positions, names = as_positions(indices, target.n_obs), target.obs_names
            if self.calibration_ is not None and (is_judged or key_added is not None):
                logits, *judged = self._infer_judged(aligned, positions, batch_size)
            else:
                logits = self._infer("logits", aligned, positions, batch_size)
        own = probabilities = torch.from_numpy(logits).double().softmax(dim=1).numpy()
        if refine:
            if target is None:
                raise ValueError("refine=True needs all cells at once. Pass adata instead of dataloader.")
            probabilities = refine_probabilities(probabilities, self._counts(aligned, positions), ~self._is_gene)
        # After the refinement, so that no label depends on the temperature.
        probabilities = self._temper(probabilities, refined=refine)
        is_empty = None if target is None else self._which_are_empty(aligned, positions)
        if is_empty is not None:
            probabilities, own = (np.where(is_empty[:, None], 1 / len(self.labels), p) for p in (probabilities, own))
        novelty = self._novelty(aligned, judged[0], judged[1], own.argmax(axis=1)) if judged else None
        is_novel = None if fdr is None or novelty is None else is_discovery(novelty, fdr)
        found = None
        if sets and self.calibration_ is not None:
            held_out = self.calibration_["probability"], self.calibration_["codes"]
            found = label_sets(self._temper(own), coverage, *held_out)
        if is_judged and novelty is not None and self.calibration_ is not None:
            warn_if_shifted(novelty, self.calibration_["n_cells"])
        if keep_known:
            if target is None:
                raise ValueError("keep_known=True needs the labels of the cells. Pass adata instead of dataloader.")
            known = self._known_codes(aligned)[positions]
            is_known = known >= 0
            certain = np.eye(len(self.labels))[known[is_known]]
            probabilities = probabilities.copy()
            probabilities[is_known] = certain
            if is_novel is not None:
                is_novel = is_novel & ~is_known
            if is_empty is not None:
                is_empty = is_empty & ~is_known
            if found is not None:
                found[is_known] = certain.astype(bool)
        predictions = Predictions(
            probabilities, self.labels, positions, names, unassigned_threshold, novelty, is_novel, found, is_empty
        )
        if key_added is not None and target is not None:
            predictions.write(target, key_added)
        return predictions.to_frame() if soft else predictions.labels

    def _check_is_calibrated(self, *, with_dataloader: bool) -> None:
        """Raise `ValueError` unless cells can be compared with held-out cells of the reference."""
        if with_dataloader:
            raise ValueError("fdr and sets need the counts of the cells. Pass adata instead of dataloader.")
        if self.calibration_ is None or self.calibration_["distance"] is None:
            raise ValueError(
                "fdr and sets compare cells with reference cells that were held out from training, but this model has none: "
                f"it was trained with calibrate=False or train_size=1, fewer than {MIN_HELD_OUT} labeled cells were held "
                "out, it was adapted to labels of the query, or it is of an older version. Train it again with "
                "tl.fit_reference, on more cells if there were too few, or leave fdr and sets out."
            )

    def _which_are_empty(self, aligned: AlignedData | None, positions: np.ndarray) -> np.ndarray | None:
        """-> cells without a count in any gene of the model ``(n_cells,)``, with a warning; None if there is none."""
        counts = self._counts(aligned, positions)
        is_empty = np.asarray(counts[:, np.flatnonzero(self._is_gene)].sum(axis=1)).ravel() == 0
        if not is_empty.any():
            return None
        warnings.warn(
            f"{np.count_nonzero(is_empty)} of {len(is_empty)} cells have no count in any gene of the model, so nothing is known "
            f"of them: they are called {UNASSIGNED_CATEGORY!r}, and all types are equally probable. Remove empty cells first, "
            "for example with scanpy.pp.filter_cells(adata, min_counts=1).",
            UserWarning,
            stacklevel=2,
        )
        return is_empty

    def _known_codes(self, aligned: AlignedData | None) -> np.ndarray:
        """-> position among the model's types of every cell's label ``(n_obs,)``, -1 for cells without one."""
        if aligned is None:
            return self._label_codes()
        if aligned.spec.labels_key not in aligned.obs:
            return np.full(len(aligned.obs), -1)
        unlabeled_category = self.registry["setup_args"]["unlabeled_category"]
        labels = as_strings(aligned.obs[aligned.spec.labels_key], missing=unlabeled_category)
        return pd.Index(self.labels, dtype=object).get_indexer(pd.Index(labels, dtype=object))
