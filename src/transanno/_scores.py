"""How well predictions agree with labels that the query happens to have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support


@dataclass(frozen=True)
class Scores:
    """Agreement on the cells whose type the model knows."""

    accuracy: float
    """share of right predictions in [0, 1]"""
    macro_f1: float
    """mean F1 in [0, 1] of the types that these cells have"""
    n_cells: int
    per_type: pd.DataFrame
    """a row per type: cells, predicted, precision, recall, F1"""
    n_left_out: int
    """cells of types that the model does not know"""
    left_out: tuple[str, ...]
    """these types"""

    def __str__(self) -> str:
        text = (
            f"accuracy: {self.accuracy:.4f}\nmacro-F1: {self.macro_f1:.4f}\n"
            f"labeled cells: {self.n_cells}, types: {len(self.per_type)}"
        )
        if self.n_left_out:
            examples = ", ".join(self.left_out[:5]) + (", …" if len(self.left_out) > 5 else "")
            text += (
                f"\nleft out, because the reference does not have their types: {self.n_left_out} cells, "
                f"types: {len(self.left_out)} ({examples})"
            )
        return text


def score(truth: pd.Series, predicted: pd.Series, known: Iterable[str], *, unlabeled_category: str) -> Scores | None:
    """True and predicted types ``(n_obs,)``, types of the model -> scores, or None if no cell can be scored.

    Macro-F1 is the mean over the types that labeled cells have; a type that is only predicted lowers the recall of
    the types it was mistaken for, and does not count as a type with an F1 of zero.
    """
    is_labeled = (truth.notna() & (truth.astype(str) != unlabeled_category) & predicted.notna()).to_numpy()
    labels = truth[is_labeled].astype(str).to_numpy(dtype=object)
    found = predicted[is_labeled].astype(str).to_numpy(dtype=object)
    is_known = np.isin(labels, list(map(str, known)))
    left_out = labels[~is_known]
    labels, found = labels[is_known], found[is_known]
    if not len(labels):
        return None
    types, n_cells = np.unique(labels.astype(str), return_counts=True)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, found, labels=types, zero_division=0.0)
    per_type = pd.DataFrame(
        {
            "cells": n_cells,
            "predicted": [int((found == name).sum()) for name in types],
            "precision": precision,
            "recall": recall,
            "F1": f1,
        },
        index=types,
    ).sort_values("cells", ascending=False, kind="stable")
    return Scores(
        accuracy=float(accuracy_score(labels, found)),
        macro_f1=float(f1_score(labels, found, labels=types, average="macro", zero_division=0.0)),
        n_cells=len(labels),
        per_type=per_type,
        n_left_out=len(left_out),
        left_out=tuple(sorted(set(left_out))),
    )


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts, the first of them the header -> lines, first column to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)
