"""Result of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from transanno.html._render import Table, summary
from transanno.metrics._table import format_examples, format_per_class, per_class_rows


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Agreement of predictions with known types; printing it shows a table.

    *Unseen* types are those that the training data did not have. Their cells are always wrong, so the scores leave
    them out, and those with ``_with_unseen`` in their name count them.
    """

    summary: pd.Series
    """``accuracy``, ``macro_f1`` (mean over true types), ``weighted_f1`` (by number of cells), ``macro_auc`` (one
    against the rest; NaN without probabilities): over all labeled cells of types that are not unseen, where an
    ``Unassigned`` cell is a wrong one. ``coverage``: share of these cells that were assigned a type, and
    ``accuracy_assigned`` among them. ``n_cells``: how many these cells are. ``accuracy_with_unseen``,
    ``macro_f1_with_unseen``: the same with the cells of unseen types, of which there are ``n_cells_unseen``, and
    ``coverage_unseen``, the share of them that was assigned a type: the lower the better."""
    per_class: pd.DataFrame
    """a row per true type, most frequent first: ``precision``, ``recall``, ``f1``, with probabilities ``auc``, and the
    numbers of cells that are of the type (``support``) and were called it (``predicted``); unseen types left out"""
    confusion_matrix: pd.DataFrame
    """numbers of cells, true × predicted types, see :func:`transanno.metrics.confusion_matrix`"""
    unseen: pd.Series
    """number of cells of each unseen type"""
    n_unlabeled: int
    """cells without a true type, which no score counts"""
    n_not_predicted: int
    """labeled cells without a prediction, which no score counts"""

    @property
    def headline(self) -> str:
        """The main scores, and what they leave out; a line each."""
        scores = self.summary
        lines = [
            f"accuracy: {scores['accuracy']:.4f}",
            f"macro-F1: {scores['macro_f1']:.4f}",
            f"weighted F1: {scores['weighted_f1']:.4f}",
        ]
        if pd.notna(scores["macro_auc"]):
            lines.append(f"macro one-vs-rest AUC: {scores['macro_auc']:.4f}")
        if scores["coverage"] < 1:
            lines.append(f"coverage: {scores['coverage']:.4f}, accuracy where assigned: {_accuracy_assigned(scores)}")
        lines.append(f"labeled cells: {scores['n_cells']:.0f}, types: {len(self.per_class)}")
        if len(self.unseen):
            lines.append(
                f"left out, because the reference does not have their types: {self.unseen.sum()} cells, "
                f"types: {len(self.unseen)} ({format_examples(list(self.unseen.index))}); with them, "
                f"accuracy: {scores['accuracy_with_unseen']:.4f}, macro-F1: {scores['macro_f1_with_unseen']:.4f}"
            )
        for n_cells, what in ((self.n_unlabeled, "true type"), (self.n_not_predicted, "prediction")):
            if n_cells:
                lines.append(f"left out, because they have no {what}: {n_cells} cells")
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.headline}\n\n{format_per_class(self.per_class)}" if len(self.per_class) else self.headline

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, *rows = per_class_rows(self.per_class)
        return summary("Evaluation", lines=self.headline.split("\n"), tables=[Table(header, rows)] if rows else [])


def _accuracy_assigned(scores: pd.Series) -> str:
    return "–" if pd.isna(scores["accuracy_assigned"]) else f"{scores['accuracy_assigned']:.4f}"
