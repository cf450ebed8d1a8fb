"""One type per cluster, where the cells of the cluster agree on one."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from transanno._constants import CONFIDENCE_SUFFIX, KEY_ADDED, NOVEL_CATEGORY, UNASSIGNED_CATEGORY
from transanno.checks._data import Message, check_interval, check_obs_column
from transanno.data._colors import read_colors, write_colors
from transanno.data._labels import as_strings
from transanno.predictions._result import write_obs

_FRACTION_SUFFIX = "_fraction"
# Calls that name no type.
_NO_TYPE = (UNASSIGNED_CATEGORY, NOVEL_CATEGORY)
# Confident cells of a type that a group holds beside its own: fewer are strays, this many are a population.
_MIN_CELLS = 3
# Confidence that saves the last cells of a type: a rare type is seldom called with more than 0.9 (benchmarks: evidence).
_MORE_LIKELY_THAN_NOT = 0.5


def vote(
    adata: AnnData | MuData,
    groupby: str = "leiden",
    *,
    key: str = KEY_ADDED,
    key_added: str | None = None,
    min_confidence: float = 0.9,
) -> pd.DataFrame:
    """Give the cells of a cluster the type that most of them are called, but keep confident rare types.

    Every cell votes for its own call, and a type with more than half of the votes wins the group; without such a
    majority, its cells keep their calls. A cell of another type keeps its call

    - if no group is given its type, so that the type would vanish, and the cell's confidence is at least 0.5: the type
      is more probable than all others together; or
    - if its confidence is at least ``min_confidence``, and its type is coherent in the group: at least three cells of
      the group are called so with that confidence, and they are at least half of all that the group calls so.

    So the vote overrules stray and unsure calls, and leaves a type alone that the clustering did not separate. In
    ``"Unassigned"`` and ``"Unknown"`` cells the vote decides, too, but these do not vote, unless they are more than
    half of the group: then the group is called what most of them are. Cells without a group keep their own call.

    This is not always more accurate than the calls themselves: clusters need not follow the types, see the user guide.

    Parameters
    ----------
    adata
        Annotated cells. Nothing but what is listed below is written.
    groupby
        Column of ``obs`` with clusters; fine ones are safer than coarse ones.
    key
        Column of ``obs`` with the calls, which is not changed; their confidence is in ``key + "_confidence"``.
    key_added
        Column of ``obs`` to write. Default: ``key + "_vote"``.
    min_confidence
        Confidence that a coherent type needs to stand against its group.

    Returns
    -------
    DataFrame with a row per group: ``label``, the commonest call; ``fraction``; ``n_cells``; ``n_changed``, cells whose new label is
    not their own call; ``n_kept``, cells that kept another call than the group's.

    Writes
    ------
    ``obs[key_added]``
        Categorical, the label by the vote.
    ``obs[key_added + "_fraction"]``
        Share of the cells of the group whose own call is the label of the group, in [0, 1]: how far they agree. NaN
        for cells without a group.
    ``uns[key_added + "_colors"]``
        The colors of the types in ``uns[key + "_colors"]``, if there are any.

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If ``key_added`` would replace a column that is read, or the confidences are not probabilities.

    Examples
    --------
    >>> sc.pp.neighbors(query, use_rep="X_transanno")
    >>> sc.tl.leiden(query)  # pip install igraph leidenalg
    >>> transanno.tl.vote(query, groupby="leiden")
    >>> query.obs["transanno_vote"]
    """
    key_added = f"{key}_vote" if key_added is None else key_added
    calls, groups, confidence = _read(adata, groupby, key, key_added)
    check_interval("min_confidence", min_confidence, 0.0, 1.0)
    rows_of = {str(name): rows for name, rows in pd.Series(groups).groupby(groups).indices.items() if name}
    votes = {name: _vote(calls[rows], confidence[rows]) for name, rows in rows_of.items()}
    leading = [label for label, _ in votes.values()]
    vanishes = ~np.isin(calls, [*leading, *_NO_TYPE, ""]) & (confidence >= _MORE_LIKELY_THAN_NOT)
    voted, fraction = calls.copy(), np.full(len(calls), np.nan)
    summary: dict[str, dict[str, object]] = {}
    for name, rows in rows_of.items():
        own, (label, has_majority) = calls[rows], votes[name]
        is_kept = vanishes[rows] | _is_coherent(own, confidence[rows] >= min_confidence) | (not has_majority)
        is_kept &= own != label
        voted[rows] = np.where(is_kept, own, label)
        fraction[rows] = np.mean(own == label) if label else np.nan
        summary[name] = {
            "label": label or None,
            "fraction": fraction[rows[0]],
            "n_cells": len(rows),
            "n_changed": int((voted[rows] != own).sum()),
            "n_kept": int(is_kept.sum()),
        }
    present = set(voted) - {""}
    column = adata.obs[key]
    is_categorical = isinstance(column.dtype, pd.CategoricalDtype)
    known = as_strings(column.cat.categories.to_series(), missing="") if is_categorical else sorted(present)
    categories = pd.Index([name for name in known if name in present], dtype=object)
    labels = pd.Categorical.from_codes(categories.get_indexer(voted), categories=categories)
    colors, colors_before = read_colors(adata, key), read_colors(adata, key_added)
    write_obs(adata, {key_added: labels, f"{key_added}{_FRACTION_SUFFIX}": fraction})
    write_colors(adata, key_added, categories.tolist(), colors, colors_before)
    columns = ["label", "fraction", "n_cells", "n_changed", "n_kept"]
    table = pd.DataFrame.from_dict(summary, orient="index", columns=columns).rename_axis(groupby)
    given = adata.obs[groupby].dtype
    if isinstance(given, pd.CategoricalDtype):  # "10" comes after "2" there
        table = table.reindex(
            [name for name in as_strings(given.categories.to_series(), missing="") if name in summary]
        )
    return table


def _vote(calls: np.ndarray, confidence: np.ndarray) -> tuple[str, bool]:
    """Calls of a group and their confidence ``(n_cells,)`` -> its commonest, "" without any, and if that is a majority."""
    has_none = np.isin(calls, _NO_TYPE)
    has_type = (calls != "") & ~has_none
    voters = has_none if has_none.sum() > has_type.sum() else has_type
    if not voters.any():
        return "", False
    votes = pd.DataFrame({"call": calls, "n": 1, "confidence": confidence})[voters].groupby("call").sum()
    # Sums depend on the order of cells in their last digits. Sorted by name before: ties are decided by confidence, then
    # by name.
    votes = votes.round(9).sort_values(["n", "confidence"], ascending=False, kind="stable")
    return str(votes.index[0]), bool(2 * votes["n"].iloc[0] > votes["n"].sum())


def _is_coherent(calls: np.ndarray, is_sure: np.ndarray) -> np.ndarray:
    """Calls of a group ``(n_cells,)``, which are confident -> True for confident cells of a coherent type."""
    is_type = (calls != "") & ~np.isin(calls, _NO_TYPE)
    kept = np.zeros(len(calls), dtype=bool)
    for name in set(calls[is_type & is_sure]):
        is_called = calls == name
        n_sure = int((is_called & is_sure).sum())
        if n_sure >= _MIN_CELLS and 2 * n_sure >= is_called.sum():
            kept |= is_called & is_sure
    return kept


def _read(adata: AnnData | MuData, groupby: str, key: str, key_added: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> calls and groups ``(n_obs,)`` str, "" where missing, and confidences, 0 where missing."""
    confidence_key = f"{key}{CONFIDENCE_SUFFIX}"
    if groupby not in adata.obs:
        try:
            check_obs_column(adata, groupby, argument="groupby", name="adata")
        except KeyError as error:
            cure = 'To cluster the cells: sc.pp.neighbors(adata, use_rep="X_transanno"); sc.tl.leiden(adata).'
            raise KeyError(Message(f"{error.args[0]} {cure}")) from None
    check_obs_column(adata, key, argument="key", name="adata")
    if confidence_key not in adata.obs:
        raise KeyError(
            Message(
                f"adata.obs has no column {confidence_key!r}, the confidence of the calls in {key!r}, by which rare types "
                "are kept. predict() and tl.annotate() write both; for calls of another tool, add the column, 0 "
                "everywhere if it gives none: then every cell is overruled by its group."
            )
        )
    written = {key_added, f"{key_added}{_FRACTION_SUFFIX}"}
    if clash := written & {key, groupby, confidence_key}:
        raise ValueError(
            f"key_added={key_added!r} would replace the column {sorted(clash)[0]!r}, which is read here. Name another."
        )
    calls = as_strings(adata.obs[key], missing="")
    groups = as_strings(adata.obs[groupby], missing="")
    confidence = pd.to_numeric(adata.obs[confidence_key], errors="coerce").to_numpy(dtype=float)
    is_wrong = (confidence < 0) | (confidence > 1) | (np.isnan(confidence) & (calls != ""))
    if is_wrong.any():
        raise ValueError(
            f"obs[{confidence_key!r}] holds {int(is_wrong.sum())} values that are no probabilities from 0 to 1, at cells "
            f"that have a call in obs[{key!r}]. Fill or correct them."
        )
    return calls, groups, np.nan_to_num(confidence)
