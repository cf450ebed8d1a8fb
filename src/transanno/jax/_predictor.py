"""An exported model that predicts: load, then annotate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from transanno._constants import KEY_ADDED
from transanno.data._batches import codes_in, read_batches
from transanno.data._cells import align
from transanno.evidence._explained import Explained, check_explanation, code_of, contrasts
from transanno.jax._attributions import attribute_cells
from transanno.jax._backend import JaxBackend, center_of, rows_per_block
from transanno.jax._weights import Weights
from transanno.predictions._predict import Asked, Judge
from transanno.predictions._run import Cells, Outputs, run
from transanno.saving._export import ExportedModel, read_export


def load_predictor(dir_path: str | Path) -> Predictor:
    """Load a model that :meth:`transanno.TransAnno.export` wrote, without torch and scvi-tools. Nothing in it is executed.

    Parameters
    ----------
    dir_path
        Folder of the exported model.

    Returns
    -------
    Predictor.

    Raises
    ------
    ValueError
        If the folder holds no exported model, a damaged one, or one of another format.

    Examples
    --------
    >>> predictor = transanno.jax.load_predictor("exported/")
    >>> labels = predictor.predict(query)
    """
    return Predictor(read_export(dir_path))


class Predictor:
    """A trained model that predicts by JAX; :func:`load_predictor` makes it.

    Predictions are those of the :class:`transanno.TransAnno` model that was exported, but for rounding. Cells of batches
    that the model does not know are predicted as after :meth:`transanno.TransAnno.load_query_data`.

    Parameters
    ----------
    exported
        What the files of the model hold.
    """

    weights: Weights
    """what :func:`forward` takes"""
    labels: np.ndarray
    """cell types ``(n_labels,)`` str, in the order of the logits"""
    genes: pd.Index
    """gene vocabulary, in the order of the weights"""

    def __init__(self, exported: ExportedModel) -> None:
        self.weights = Weights.of(exported)
        self.labels, self.genes = exported.labels, exported.genes
        self._exported = exported
        # Cell states of views depend on the other cells, so that novelty is measured in what the table reads.
        has_table = exported.architecture["encoder"] == "views"
        self._judge = Judge(
            exported.labels,
            exported.is_gene,
            exported.genes.to_numpy(),
            exported.calibration,
            exported.novelty_space,
            exported.weights["encoder.gene_embedding"][exported.is_gene] if has_table else None,
            exported.label_colors,
        )

    def __repr__(self) -> str:
        sizes = f"{len(self.genes)} genes, {len(self.labels)} cell types, {len(self._exported.batches)} batches"
        return f"Predictor of a TransAnno model with encoder {self._exported.architecture['encoder']!r}: {sizes}"

    def predict(
        self,
        adata: AnnData | MuData,
        soft: bool = False,
        *,
        fdr: float | None = None,
        sets: bool = False,
        coverage: float = 0.9,
        refine: bool = False,
        key_added: str | None = KEY_ADDED,
    ) -> np.ndarray | pd.DataFrame:
        """Predict cell types, and write them into ``obs`` of the data.

        Parameters
        ----------
        adata
            Cells with raw counts; genes are matched by name, and counts restored where that is certain.
        soft
            Return probabilities instead of labels.
        fdr, sets, coverage, refine
            See :meth:`transanno.TransAnno.predict`.
        key_added
            Column of ``obs`` to write, and what the names of others begin with, as :meth:`transanno.TransAnno.predict` does;
            ``None`` writes nothing.

        Returns
        -------
        Labels ``(n_cells,)``, or with ``soft`` a DataFrame of probabilities in [0, 1], cells × types.

        Raises
        ------
        ValueError
            If the counts are not raw, too few genes are shared, ``fdr`` or ``coverage`` is out of its range, or the model was
            not calibrated and ``fdr`` or ``sets`` are asked for.

        Examples
        --------
        >>> labels = predictor.predict(query, fdr=0.1)
        >>> query.obs["transanno"], query.obs["transanno_confidence"]
        """
        asked = Asked(refine=refine, fdr=fdr, sets=sets, coverage=coverage)
        asked.check(self.labels)
        if asked.fdr is not None or asked.sets:
            self._judge.check_is_calibrated(asked)
        cells = self._cells(adata)
        positions = np.arange(adata.n_obs)
        outputs = self._run(cells, axes=self._judge.axes if asked.fdr is not None else None)
        predictions = self._judge.predictions(outputs, cells, positions, adata.obs_names, None, asked)
        if key_added is not None:
            predictions.write(adata, key_added)
        return predictions.to_frame() if soft else predictions.labels

    def get_latent_representation(self, adata: AnnData | MuData) -> np.ndarray:
        """Cell states, for neighbors, UMAP or clustering.

        Parameters
        ----------
        adata
            Cells with raw counts; genes are matched by name.

        Returns
        -------
        Cell states ``(n_cells, n_latent)``.

        Raises
        ------
        ValueError
            If the counts are not raw or too few genes are shared.
        """
        return self._run(self._cells(adata)).z

    def get_gene_attributions(
        self,
        adata: AnnData | MuData,
        groupby: str | Sequence[object] | np.ndarray | pd.Categorical | None = None,
        *,
        label: str | None = None,
        against: str | None = None,
        baseline: str = "average",
        n_steps: int | None = None,
    ) -> pd.DataFrame:
        """How much every gene contributes to the label of every group of cells, by integrated gradients.

        Parameters
        ----------
        adata
            Cells with raw counts; genes are matched by name.
        groupby, label, against, baseline, n_steps
            See :meth:`transanno.TransAnno.get_gene_attributions`.

        Returns
        -------
        DataFrame, groups (by default labels) × genes of the model, in units of a logit (nats), the same as with torch but for
        rounding. ``.attrs["labels"]`` says which label was explained for which group.

        Raises
        ------
        ValueError
            If a label or the baseline is unknown, no cells are left, or ``groupby`` has another length than the cells.
        KeyError
            If there is no such column.

        Examples
        --------
        >>> predictor.get_gene_attributions(query).loc["B cell"].nlargest(10)
        """
        n_steps = check_explanation(self.labels.tolist(), label, against, baseline, n_steps)
        cells = self._cells(adata)
        center = center_of(self.weights, cells)
        logits = self._run(cells, center=center).logits
        explained = Explained.of(logits, self.labels, groupby, adata, np.arange(adata.n_obs), label)
        other = None if against is None else code_of(self.labels, against)
        found = attribute_cells(
            self.weights,
            cells,
            explained.codes,
            contrasts(explained.labels, other, len(self.labels)),
            center=center,
            baseline=baseline,
            n_steps=n_steps,
            cells_per_pass=self._exported.cells_per_pass,
        )
        return explained.table(found[:, self._exported.is_gene], self.genes, self.labels, groupby)

    def _cells(self, adata: Any) -> Cells:
        """The user's object -> its cells as the model reads them."""
        exported = self._exported
        aligned = align(adata, exported.spec, shares=exported.gene_shares, name="adata")
        batch = np.zeros(len(aligned.obs), dtype=np.int64)
        if exported.spec.batch_key is not None:
            batch = codes_in(read_batches(aligned.obs, exported.spec.batch_key), exported.batches)
        return Cells(aligned.counts, batch, aligned.is_missing, aligned.obs)

    def _run(self, cells: Cells, *, axes: np.ndarray | None = None, center: np.ndarray | None = None) -> Outputs:
        """Cells of one data set -> outputs; ``center`` is their mean where that is known already."""
        center = center_of(self.weights, cells) if center is None else center
        n_cells = cells.counts.shape[0]
        n_rows = rows_per_block(n_cells, self._exported.cells_per_pass["outputs"])
        backend = JaxBackend(self.weights, n_rows=n_rows, center=center, axes=axes)
        return run(backend, cells, np.arange(n_cells), batch_size=n_rows)
