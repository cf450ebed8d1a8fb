"""One type per cluster; complaint 51, the vote fraction is stored, and rare types are not erased."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transanno import tl


def make(cells: list[tuple[object, object, float]]) -> ad.AnnData:
    """(cluster, call, confidence) of every cell -> AnnData."""
    clusters, calls, confidence = zip(*cells, strict=True)
    obs = pd.DataFrame(
        {
            "leiden": pd.Categorical(clusters),
            "transanno": pd.Categorical(calls),
            "transanno_confidence": confidence,
            "other": np.arange(len(cells)),
        },
        index=[f"cell{i}" for i in range(len(cells))],
    )
    return ad.AnnData(obs=obs)


def refined(adata: ad.AnnData, key: str = "transanno_vote") -> list:
    return [None if pd.isna(value) else value for value in adata.obs[key]]


T, B, NK = "T cell", "B cell", "NK cell"
# B cells have a cluster of their own, so that none of these tests is about a type that vanishes.
B_CLUSTER = [("b", B, 0.8)] * 4


def test_vote_fraction_per_cluster_is_stored():
    """celltypist#99."""
    adata = make([("a", T, 0.9)] * 7 + [("a", B, 0.6)] * 3 + B_CLUSTER)
    table = tl.vote(adata)
    assert refined(adata) == [T] * 10 + [B] * 4
    np.testing.assert_allclose(adata.obs["transanno_vote_fraction"], [0.7] * 10 + [1.0] * 4)
    assert table.loc["a"].to_dict() == {"label": T, "fraction": 0.7, "n_cells": 10, "n_changed": 3, "n_kept": 0}
    assert table.index.name == "leiden"


def test_calls_are_not_overwritten(snapshot, changed):
    adata = make([("a", T, 0.9)] * 7 + [("a", B, 0.6)] * 3 + B_CLUSTER)
    before = snapshot(adata)
    tl.vote(adata, key_added="voted")
    assert changed(before, adata) == {"obs[voted]", "obs[voted_fraction]"}


class TestRareTypes:
    def test_a_confident_coherent_minority_keeps_its_calls(self):
        adata = make([("a", T, 0.9)] * 20 + [("a", B, 0.95)] * 3 + [("a", B, 0.7)] * 2 + B_CLUSTER)
        table = tl.vote(adata)
        # Of the B cells of this group, the two unsure ones are overruled.
        assert refined(adata) == [T] * 20 + [B] * 3 + [T] * 2 + [B] * 4
        assert table.loc["a", "n_kept"] == 3
        assert table.loc["a", "fraction"] == 0.8

    def test_two_confident_cells_are_strays(self):
        adata = make([("a", T, 0.9)] * 20 + [("a", B, 0.99)] * 2 + B_CLUSTER)
        tl.vote(adata)
        assert refined(adata)[:22] == [T] * 22

    def test_a_type_called_without_confidence_is_not_coherent(self):
        adata = make([("a", T, 0.9)] * 20 + [("a", B, 0.95)] * 3 + [("a", B, 0.6)] * 4 + B_CLUSTER)
        tl.vote(adata)
        assert refined(adata)[:27] == [T] * 27

    def test_how_confident_can_be_said(self):
        adata = make([("a", T, 0.9)] * 20 + [("a", B, 0.75)] * 3 + B_CLUSTER)
        tl.vote(adata)
        assert refined(adata)[20] == T
        tl.vote(adata, min_confidence=0.7)
        assert refined(adata)[20:23] == [B] * 3

    def test_the_only_cell_of_a_type_is_not_erased(self):
        adata = make([("a", T, 0.9)] * 20 + [("a", NK, 0.55)] + B_CLUSTER)
        tl.vote(adata)
        assert refined(adata)[20] == NK

    def test_a_type_that_is_hardly_believed_may_vanish(self):
        adata = make([("a", T, 0.9)] * 20 + [("a", NK, 0.45)] + B_CLUSTER)
        tl.vote(adata)
        assert refined(adata)[20] == T
        assert NK not in adata.obs["transanno_vote"].cat.categories

    def test_without_a_majority_all_cells_keep_their_calls(self):
        adata = make([("a", T, 0.6)] * 4 + [("a", B, 0.3)] * 2 + [("a", NK, 0.2)] * 2 + B_CLUSTER)
        table = tl.vote(adata)
        assert refined(adata) == [T] * 4 + [B] * 2 + [NK] * 2 + [B] * 4
        assert table.loc["a", ["label", "fraction", "n_changed", "n_kept"]].tolist() == [T, 0.5, 0, 4]


class TestCellsWithoutACall:
    def test_unassigned_cells_get_the_type_of_their_group(self):
        adata = make(
            [("a", T, 0.9)] * 4 + [("a", "Unassigned", 0.4)] * 4 + [("a", "Unknown", 0.4), ("a", None, np.nan)]
        )
        # No call at all is no vote either; five of the nine others would be more than half.
        adata = adata[[0, 1, 2, 3, 4, 5, 6, 9]].copy()
        table = tl.vote(adata)
        assert refined(adata) == [T] * 8
        assert table.loc["a", "fraction"] == 0.5, "cells without a call count as not agreeing"

    def test_a_group_that_is_mostly_unassigned_stays_so(self):
        adata = make([("a", "Unassigned", 0.4)] * 5 + [("a", T, 0.6)] * 4 + [("b", T, 0.9)])
        tl.vote(adata)
        assert refined(adata) == ["Unassigned"] * 9 + [T]

    def test_confident_types_stand_against_an_unassigned_group(self):
        adata = make([("a", "Unknown", 0.4)] * 5 + [("a", T, 0.97)] * 4 + [("b", T, 0.9)])
        tl.vote(adata)
        assert refined(adata) == ["Unknown"] * 5 + [T] * 5

    def test_a_group_without_any_call_has_no_label(self):
        adata = make([("a", None, np.nan)] * 3 + [("b", T, 0.9)])
        table = tl.vote(adata)
        assert refined(adata) == [None] * 3 + [T]
        assert pd.isna(table.loc["a", "label"])
        assert adata.obs["transanno_vote_fraction"].isna().tolist() == [True] * 3 + [False]

    def test_cells_without_a_group_keep_their_call(self):
        adata = make([("a", T, 0.9)] * 3 + [(None, B, 0.2)])
        tl.vote(adata)
        assert refined(adata) == [T] * 3 + [B]
        assert np.isnan(adata.obs["transanno_vote_fraction"].iloc[3])


class TestColumns:
    def test_ties_are_decided_by_confidence_then_by_name(self):
        adata = make([("a", T, 0.6), ("a", B, 0.4), ("b", T, 0.3), ("b", B, 0.3), ("c", T, 0.3), ("c", B, 0.4)])
        assert tl.vote(adata)["label"].to_dict() == {"a": T, "b": B, "c": B}

    def test_groups_are_listed_in_the_order_of_their_categories(self):
        adata = make([(str(i), T, 0.9) for i in (10, 2, 1)])
        adata.obs["leiden"] = pd.Categorical(["10", "2", "1"], categories=["1", "2", "7", "10"])
        assert list(tl.vote(adata).index) == ["1", "2", "10"]

    def test_labels_keep_the_order_of_the_calls(self):
        adata = make([("a", T, 0.9), ("b", B, 0.9)])
        adata.obs["transanno"] = pd.Categorical([T, B], categories=[T, NK, B])
        tl.vote(adata)
        assert list(adata.obs["transanno_vote"].cat.categories) == [T, B]

    @pytest.mark.parametrize("clusters", [[0, 0, 1], [0.0, 0.0, np.nan], ["x", "x", "y"], [True, True, False]])
    def test_any_type_of_cluster_name(self, clusters):
        adata = make([("a", T, 0.9), ("a", T, 0.9), ("a", B, 0.9)])
        adata.obs["found"] = clusters
        assert len(tl.vote(adata, "found")) == len(set(clusters) - {np.nan}) or np.nan in clusters
        assert refined(adata) == [T, T, B]

    def test_columns_of_strings_and_views(self):
        adata = make([("a", T, 0.9)] * 3 + [("a", B, 0.3)] + B_CLUSTER)
        adata.obs["transanno"] = adata.obs["transanno"].astype(str)
        view = adata[1:]
        tl.vote(view)
        assert refined(view)[:3] == [T] * 3
        assert "transanno_vote" not in adata.obs

    def test_mudata(self, make_mdata):
        mdata = make_mdata(8)
        for key, column in make([("a", T, 0.9)] * 3 + [("a", B, 0.3)] + B_CLUSTER).obs.items():
            mdata.obs[key] = column.array
        tl.vote(mdata)
        assert list(mdata.obs["transanno_vote"][:4]) == [T] * 4

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"groupby": "louvain"}, KeyError, "groupby='louvain' is not a column of adata.obs.*sc.tl.leiden"),
            ({"key": "celltypist"}, KeyError, "key='celltypist' is not a column"),
            ({"key": "other"}, KeyError, "no column 'other_confidence'.*add the column, 0 everywhere"),
            ({"key_added": "leiden"}, ValueError, "key_added='leiden' would replace the column 'leiden'"),
            ({"key_added": "transanno"}, ValueError, "would replace the column 'transanno'"),
            ({"min_confidence": 1.5}, ValueError, "min_confidence=1.5 is outside"),
        ],
    )
    def test_errors_say_what_is_allowed(self, arguments, error, message):
        with pytest.raises(error, match=message):
            tl.vote(make([("a", T, 0.9)] * 3), **arguments)

    @pytest.mark.parametrize("wrong", [1.5, -0.1, np.nan, "high"])
    def test_confidences_that_are_no_probabilities(self, wrong):
        adata = make([("a", T, 0.9)] * 3)
        adata.obs["transanno_confidence"] = [0.9, 0.9, wrong]
        with pytest.raises(ValueError, match="holds 1 values that are no probabilities"):
            tl.vote(adata)


CELLS = st.tuples(
    st.sampled_from(["a", "b", "c", None]),
    st.sampled_from([T, B, NK, "Unassigned", None]),
    st.floats(0, 1, allow_nan=False),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_whatever_the_cells_are(cells, random):
    """No believed type vanishes, no type appears in a group from nowhere, and order has no influence."""
    adata = make(cells)
    table = tl.vote(adata)
    found = refined(adata)
    for name in (T, B, NK):
        if any(call == name and confidence >= 0.5 for _, call, confidence in cells):
            assert name in found
    for cluster in {cell[0] for cell in cells} - {None}:
        inside = {call for group, call, _ in cells if group == cluster}
        assert {label for label, cell in zip(found, cells, strict=True) if cell[0] == cluster} <= inside
    fraction = adata.obs["transanno_vote_fraction"].dropna()
    assert ((fraction > 0) & (fraction <= 1)).all()
    assert table["n_cells"].sum() == sum(cell[0] is not None for cell in cells)
    order = list(range(len(cells)))
    random.shuffle(order)
    shuffled = make([cells[i] for i in order])
    tl.vote(shuffled)
    assert refined(shuffled) == [found[i] for i in order]
