"""Which cells are held out together."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold


@dataclass(frozen=True)
class Fold:
    """Positions of cells."""

    name: str
    """its number, or the groups that are held out"""
    train: np.ndarray
    test: np.ndarray


def make_folds(labels: np.ndarray, groups: np.ndarray | None, n_splits: int, seed: int | None) -> list[Fold]:
    """Types ``(n_obs,)``, groups ``(n_obs,)`` -> folds; every cell is held out once, groups as a whole.

    Raises
    ------
    ValueError
        If that is not possible, or a model would have fewer than two types to learn.
    """
    if isinstance(n_splits, bool) or not isinstance(n_splits, int | np.integer) or n_splits < 2:
        raise ValueError(f"n_splits={n_splits!r}. Allowed: a whole number of 2 or more.")
    if groups is None:
        _check_not_too_rare(labels, n_splits)
        splitter = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
    elif (n_groups := len(np.unique(groups))) < 2:
        raise ValueError(
            f"All cells are of one group, {groups[0]!r}, so that none are left to train on when it is held out. Name a "
            "column with at least two groups, or leave groups_key out."
        )
    elif n_splits >= n_groups:
        splitter = LeaveOneGroupOut()
    else:
        _check_not_too_rare(labels, n_splits)
        splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    folds = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class in y has only")  # reported by the caller
        for number, (train, test) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups), start=1):
            name = str(number) if groups is None else ", ".join(np.unique(groups[test]))
            folds.append(Fold(name, train, test))
    for fold in folds:
        _check_can_be_trained(fold, labels)
    return folds


def count_copies(copies: np.ndarray, fold: Fold) -> int:
    """Codes ``(n_obs,)`` that identical cells share -> number of held-out cells with a copy in the training cells."""
    return int(np.isin(copies[fold.test], copies[fold.train]).sum())


def rare_types(labels: np.ndarray, n_splits: int) -> pd.Series:
    """-> number of cells of each type that has fewer than there are folds."""
    n_cells = pd.Series(labels, dtype=object).value_counts()
    return n_cells[n_cells < n_splits].rename("n_cells")


def _check_not_too_rare(labels: np.ndarray, n_splits: int) -> None:
    n_cells = pd.Series(labels).value_counts()
    if n_cells.iloc[0] < n_splits:
        raise ValueError(
            f"n_splits={n_splits} is more than any type has cells: the most frequent, {n_cells.index[0]!r}, has "
            f"{n_cells.iloc[0]}. Lower n_splits to that at most."
        )


def _check_can_be_trained(fold: Fold, labels: np.ndarray) -> None:
    types = np.unique(labels[fold.train].astype(str))
    if len(types) < 2:
        raise ValueError(
            f"Without the cells of fold {fold.name!r}, {len(fold.train)} cells of {len(types)} type(s) are left to train "
            f"on ({', '.join(types)}); at least two types are needed. Check groups_key: groups should hold several "
            "types each."
        )
