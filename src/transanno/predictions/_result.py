"""What ``predict`` found, and how it is written into ``obs``."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, ImplicitModificationWarning
from mudata import MuData

from transanno._constants import (
    CONFIDENCE_SUFFIX,
    GROUP_SUFFIX,
    GROUPS_SUFFIX,
    NOVEL_CATEGORY,
    NOVELTY_SUFFIX,
    SET_SUFFIX,
    SETS_SUFFIX,
    UNASSIGNED_CATEGORY,
)
from transanno.data._colors import read_colors, write_colors
from transanno.predictions._groups import UnknownGroups

_EMPTY_SET = "(none)"


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of some cells of a data set."""

    probabilities: np.ndarray
    """``(n_cells, n_labels)``, rows sum to 1"""
    classes: np.ndarray
    """``(n_labels,)`` str"""
    indices: np.ndarray
    """``(n_cells,)`` positions of the cells in the data set"""
    obs_names: pd.Index
    """``(n_obs,)`` names of all cells of the data set"""
    unassigned_threshold: float | None = None
    """cells whose highest probability is below are ``"Unassigned"``; None: no cell is"""
    novelty: np.ndarray | None = None
    """``(n_cells,)`` high where a cell is unlike the reference"""
    is_novel: np.ndarray | None = None
    """``(n_cells,)`` bool, cells that are ``"Unknown"``; None: no cell is"""
    groups: UnknownGroups | None = None
    """groups among these"""
    sets: np.ndarray | None = None
    """``(n_cells, n_labels)`` bool, types that a cell may be of"""
    is_empty: np.ndarray | None = None
    """``(n_cells,)`` bool, cells of which nothing is known, which are ``"Unassigned"``; None: no cell is"""
    z: np.ndarray | None = None
    """``(n_cells, n_latent)`` cell states"""
    colors: Mapping[str, str] = field(default_factory=dict)
    """color of every type in the reference's plots, if it had any"""

    @property
    def codes(self) -> np.ndarray:
        """``(n_cells,)`` position in ``categories``: the most probable type, unless the cell is given none."""
        codes = self.probabilities.argmax(axis=1)
        if self.unassigned_threshold is not None:
            codes = np.where(self.confidence < self.unassigned_threshold, len(self.classes), codes)
        if self.is_novel is not None:
            codes = np.where(self.is_novel, len(self.categories) - 1, codes)
        if self.is_empty is not None and self.is_empty.any():
            codes = np.where(self.is_empty, self.categories.tolist().index(UNASSIGNED_CATEGORY), codes)
        return codes

    @property
    def confidence(self) -> np.ndarray:
        """``(n_cells,)`` probability of the most probable type, also where that is below the threshold."""
        return self.probabilities.max(axis=1)

    @property
    def categories(self) -> np.ndarray:
        """Names that codes stand for; ``"Unassigned"`` and ``"Unknown"`` come last."""
        has_unassigned = self.unassigned_threshold is not None or (self.is_empty is not None and self.is_empty.any())
        # A type of the reference may be called so where nothing else was to be.
        unassigned = [UNASSIGNED_CATEGORY] if has_unassigned and UNASSIGNED_CATEGORY not in self.classes else []
        novel = [] if self.is_novel is None else [NOVEL_CATEGORY]
        return np.array([*self.classes.astype(str), *unassigned, *novel])

    @property
    def labels(self) -> np.ndarray:
        """``(n_cells,)`` str, the most probable type of every cell."""
        return self.categories[self.codes]

    def to_frame(self) -> pd.DataFrame:
        """Cells × types, the probabilities."""
        return pd.DataFrame(self.probabilities, index=self.obs_names[self.indices], columns=self.classes.astype(str))

    def write(self, data: AnnData | MuData, key_added: str) -> None:
        """Write ``obs[key_added]`` (categorical), its confidence, and what else there is; cells not predicted are missing.

        Types get the colors that they had in the reference, unless the column had the same types and colors before.
        """
        labels = pd.Categorical.from_codes(self._of_all(self.codes, -1), categories=pd.Index(self.categories))
        columns: dict[str, Any] = {key_added: labels.remove_unused_categories()}
        columns[f"{key_added}{CONFIDENCE_SUFFIX}"] = self._of_all(self.confidence, np.nan)
        if self.novelty is not None:
            columns[f"{key_added}{NOVELTY_SUFFIX}"] = self._of_all(self.novelty, np.nan)
        if self.groups is not None:
            codes = self._of_all(self.groups.codes, -1)
            columns[f"{key_added}{GROUP_SUFFIX}"] = pd.Categorical.from_codes(
                codes, categories=pd.Index(self.groups.table["group"].to_numpy())
            )
        if self.sets is not None:
            texts = ["|".join(self.classes[row].astype(str)) or _EMPTY_SET for row in self.sets]
            columns[f"{key_added}{SET_SUFFIX}"] = pd.Categorical(self._of_all(np.array(texts, dtype=object), None))
        colors_before = read_colors(data, key_added)
        write_obs(data, columns)
        write_colors(data, key_added, columns[key_added].categories.astype(str).tolist(), self.colors, colors_before)
        _forget(data, key_added, columns)
        if self.sets is not None:
            data.obsm[f"{key_added}{SETS_SUFFIX}"] = self._of_all(self.sets, False)
        if self.groups is not None:
            data.uns[f"{key_added}{GROUPS_SUFFIX}"] = self.groups.table

    def _of_all(self, values: np.ndarray, missing: Any) -> np.ndarray:
        """Values of the predicted cells ``(n_cells, ...)`` -> of all cells ``(n_obs, ...)``."""
        whole = np.full((len(self.obs_names), *values.shape[1:]), missing, dtype=values.dtype)
        whole[self.indices] = values
        return whole


def _forget(data: AnnData | MuData, key_added: str, written: Container[str]) -> None:
    """Delete what an earlier prediction found beside its calls, and this one has not ``written``: it must not pass for that."""
    for where, table, suffixes in (
        (data.uns, f"{key_added}{GROUPS_SUFFIX}", (NOVELTY_SUFFIX, GROUP_SUFFIX)),
        (data.obsm, f"{key_added}{SETS_SUFFIX}", (SET_SUFFIX,)),
    ):
        if table in where:  # so that a column of the user's that happens to be called so stays
            del where[table]
            for column in (f"{key_added}{suffix}" for suffix in suffixes):
                if column in data.obs and column not in written:
                    del data.obs[column]


def write_obs(data: AnnData | MuData, columns: Mapping[str, Any]) -> None:
    """Write columns ``(n_obs,)`` into ``obs``."""
    if getattr(data, "isbacked", False) and data.is_view:
        raise ValueError(
            "The data are a view of a file (backed mode), and nothing can be written to its obs. Read the cells into memory "
            "with to_memory(), or pass key_added=None and use what predict() returns."
        )
    with warnings.catch_warnings():
        # Writing to a view of the user's makes it an object of its own, which is what they asked for.
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        for key, values in columns.items():
            data.obs[key] = values


def check_unassigned_threshold(threshold: float | None, labels: Iterable[str]) -> None:
    """Raise `ValueError` unless it is a probability and no type is called like cells below it."""
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number) or not 0 <= threshold <= 1:
        raise ValueError(
            f"unassigned_threshold={threshold!r}. Allowed: a probability from 0 to 1, 0.5 in the paper, or None to give "
            "every cell a type."
        )
    if UNASSIGNED_CATEGORY in set(labels):
        raise ValueError(
            f"The reference has a type called {UNASSIGNED_CATEGORY!r}, which is what unassigned_threshold="
            f"{threshold:g} calls cells without a type. Rename it in the reference, name it as unlabeled_category if "
            "these cells have no type, or leave unassigned_threshold out."
        )


def check_fdr(fdr: float | None, labels: Iterable[str]) -> None:
    """Raise `ValueError` unless it is a rate of false discoveries and no type is called like discoveries are."""
    if fdr is None:
        return
    _check_inside(
        "fdr", fdr, "the share of known cells among those called Unknown, such as 0.05, or None to call none so"
    )
    if NOVEL_CATEGORY in set(labels):
        raise ValueError(
            f"The reference has a type called {NOVEL_CATEGORY!r}, which is what fdr={fdr:g} calls cells that are unlike the "
            "reference. Rename it in the reference, name it as unlabeled_category if these cells have no type, or leave "
            "fdr out."
        )


def check_coverage(coverage: float) -> None:
    """Raise `ValueError` unless label sets can cover such a share of the cells."""
    _check_inside("coverage", coverage, "the share of cells whose set shall hold their type, such as 0.9")


def _check_inside(name: str, value: Any, meaning: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise ValueError(f"{name}={value!r}. Allowed: a number between 0 and 1, {meaning}.")
