"""What is explained of which cells, whichever backend computes the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from transanno.checks._data import check_choice, check_interval
from transanno.data._positions import evenly_spread
from transanno.evidence._groups import as_groups, mean_probabilities

# Points of the quadrature by baseline. With these, contributions on real data sum up to within 0.01 of what they should
# on average, of some 3; the way from a silent cell starts with a steep piece.
BASELINES = {"average": 32, "silent": 64}
# Cells whose mean is the baseline where the model stores no mean expression.
_N_BASELINE = 500


@dataclass(frozen=True, eq=False)
class Explained:
    """A label for every group of cells."""

    codes: np.ndarray
    """``(n_cells,)`` group of every cell, -1 without one"""
    groups: list[str]
    """names of the groups"""
    labels: np.ndarray
    """``(n_groups,)`` positions of the labels that are explained"""

    @classmethod
    def of(
        cls, logits: np.ndarray, names: np.ndarray, groupby: Any, target: Any, positions: np.ndarray, label: str | None
    ) -> Explained:
        """Logits ``(n_cells, n_labels)`` of the cells of ``target`` at ``positions``, labels ``(n_labels,)`` -> what is explained.

        By default, groups are the labels that cells are given, and the label is the most probable one of the group.
        """
        if groupby is None:
            groupby = pd.Categorical(names[logits.argmax(axis=1)], categories=names)
        codes, groups = as_groups(groupby, target, positions)
        if label is None:
            return cls(codes, groups, mean_probabilities(logits, codes, len(groups)).argmax(axis=1))
        return cls(codes, groups, np.full(len(groups), code_of(names, label)))

    def table(self, contributions: np.ndarray, genes: pd.Index, names: np.ndarray, groupby: Any) -> pd.DataFrame:
        """Contributions ``(n_groups, n_genes)`` -> groups × genes; ``.attrs["labels"]`` says what was explained."""
        index = pd.Index(self.groups, name=groupby if isinstance(groupby, str) else None)
        table = pd.DataFrame(contributions, index=index, columns=genes)
        table.attrs["labels"] = dict(zip(self.groups, names[self.labels].tolist(), strict=True))
        return table


def check_explanation(
    names: Sequence[str], label: str | None, against: str | None, baseline: str, n_steps: int | None
) -> int:
    """Raise `ValueError` unless labels and baseline are known -> number of steps, by default that of the baseline."""
    check_choice("baseline", baseline, BASELINES)
    n_steps = BASELINES[baseline] if n_steps is None else n_steps
    check_interval("n_steps", n_steps, 1)
    for name, value in (("label", label), ("against", against)):
        if value is not None:
            check_choice(name, value, names)
    return n_steps


def contrasts(explained: np.ndarray, against: int | None, n_labels: int) -> np.ndarray:
    """Codes of labels ``(n_groups,)`` -> weights of the logits whose sum is explained ``(n_groups, n_labels)``.

    The logit of the label minus that of the label ``against``, or minus the mean of all others.
    """
    each = np.eye(n_labels, dtype=np.float32)
    chosen = each[explained]
    return chosen - (each[against] if against is not None else (1 - chosen) / (n_labels - 1))


def code_of(names: np.ndarray, label: str) -> int:
    """Labels ``(n_labels,)``, one of them -> its position."""
    return int(np.flatnonzero(names == label)[0])


def baseline_cells(n_obs: int) -> np.ndarray:
    """-> positions of the cells whose mean is the baseline where the model stores none, evenly spread."""
    return evenly_spread(n_obs, _N_BASELINE)
