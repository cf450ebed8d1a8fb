"""Result of a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from transanno.html._render import Table, summary
from transanno.metrics._evaluation import Evaluation
from transanno.metrics._table import format_examples, format_per_class, format_table, per_class_rows


@dataclass(frozen=True, repr=False)
class CrossValidation:
    """Scores of models on cells that they were not trained on; printing it shows a table."""

    evaluations: Mapping[str, Evaluation]
    """scores of each fold, by its name: its number, or the groups that were held out"""
    pooled: Evaluation
    """scores over the cells of all folds, each predicted once, by the model that was not trained on it; without AUC,
    because probabilities of different models do not rank cells together"""
    predictions: pd.DataFrame
    """a row per cell of the data: ``fold``, ``predicted`` and its ``confidence`` in [0, 1]; missing where no model
    predicted the cell, because it has no label or is a copy that was dropped"""
    n_duplicates: pd.Series
    """number of held-out cells of each fold that have an identical cell among its training cells"""
    n_dropped: int
    """cells that were dropped as copies before the split"""
    rare: pd.Series
    """number of cells of each type that is not in the held-out cells of every fold"""

    @property
    def folds(self) -> pd.DataFrame:
        """Tidy table, a row per ``fold`` and ``metric`` with its ``value``; see :attr:`Evaluation.summary`."""
        table = pd.DataFrame({name: evaluation.summary for name, evaluation in self.evaluations.items()})
        table.loc["n_duplicates"] = self.n_duplicates.astype(float)
        tidy = table.rename_axis("metric").reset_index().melt(id_vars="metric", var_name="fold", value_name="value")
        return tidy[["fold", "metric", "value"]]

    @property
    def summary(self) -> pd.DataFrame:
        """A row per score: ``mean`` and ``sd`` over the folds where it is defined, and how many these are (``n``)."""
        scores = pd.DataFrame({name: evaluation.summary for name, evaluation in self.evaluations.items()})
        scores = scores[~scores.index.str.startswith("n_")]
        return pd.DataFrame({"mean": scores.mean(axis=1), "sd": scores.std(axis=1), "n": scores.count(axis=1)})

    @property
    def per_class(self) -> pd.DataFrame:
        """A row per true type: ``precision``, ``recall`` and ``f1`` over the cells of all folds, ``f1_sd`` over folds."""
        by_fold = pd.DataFrame({name: evaluation.per_class["f1"] for name, evaluation in self.evaluations.items()})
        table = self.pooled.per_class.copy()
        table.insert(3, "f1_sd", by_fold.std(axis=1).reindex(table.index))
        return table

    @property
    def confusion_matrix(self) -> pd.DataFrame:
        """Numbers of cells over all folds, true × predicted types."""
        return self.pooled.confusion_matrix

    @property
    def unseen(self) -> pd.Series:
        """Number of cells of each type that were held out while no cell of the type was left to train on."""
        return self.pooled.unseen

    @property
    def headline(self) -> str:
        """Mean ± standard deviation of the scores, and what was found on the way."""
        return "\n".join([format_table(self._score_rows), *self._notes])

    @property
    def _score_rows(self) -> list[list[str]]:
        rows = [["", "mean", "sd"]]
        for name, row in self.summary.loc[self._shown].iterrows():
            rows.append([str(name), f"{row['mean']:.4f}", "–" if pd.isna(row["sd"]) else f"{row['sd']:.4f}"])
        return rows

    @property
    def _notes(self) -> list[str]:
        scores = self.pooled.summary
        lines = [
            f"folds: {len(self.evaluations)}, labeled cells: {scores['n_cells'] + scores['n_cells_unseen']:.0f}, "
            f"types: {len(self.pooled.per_class)}",
        ]
        if len(self.unseen):
            lines.append(
                f"unseen in training, and left out of all scores but those that say so: {self.unseen.sum()} cells, "
                f"types: {len(self.unseen)} ({format_examples(list(self.unseen.index))})"
            )
        if len(self.rare):
            lines.append(
                f"not held out in every fold, types: {len(self.rare)} ({format_examples(list(self.rare.index))})"
            )
        if self.n_duplicates.any():
            lines.append(f"held-out cells with a copy among the training cells: {self.n_duplicates.sum()}")
        if self.n_dropped:
            lines.append(f"copies that were dropped: {self.n_dropped} cells")
        if self.pooled.n_unlabeled:
            lines.append(f"left out, because they have no true type: {self.pooled.n_unlabeled} cells")
        return lines

    @property
    def _shown(self) -> list[str]:
        """Scores that say something: those of coverage do if cells are unassigned, those of unseen types if any are."""
        defined = self.summary.dropna(subset=["mean"]).index
        if self.pooled.summary["coverage"] == 1:
            defined = defined.drop(["coverage", "accuracy_assigned"], errors="ignore")
        return [name for name in defined if len(self.unseen) or not name.endswith("_unseen")]

    def __str__(self) -> str:
        return f"{self.headline}\n\n{format_per_class(self.per_class)}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        tables = [Table(header, rows) for header, *rows in (self._score_rows, per_class_rows(self.per_class))]
        return summary("Cross-validation", lines=self._notes, tables=tables)
