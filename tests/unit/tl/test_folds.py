"""Which cells are held out together, and how many copies that tears apart."""

from __future__ import annotations

import numpy as np
import pytest

from transanno.tl._folds import Fold, count_copies, make_folds, rare_types

LABELS = np.array(["T"] * 41 + ["B"] * 23 + ["NK"] * 7, dtype=object)


def test_every_cell_is_held_out_once_and_types_are_spread_evenly():
    folds = make_folds(LABELS, None, 5, seed=0)
    assert [fold.name for fold in folds] == ["1", "2", "3", "4", "5"]
    np.testing.assert_array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(71))
    for fold in folds:
        assert set(fold.train) | set(fold.test) == set(range(71))
        assert set(fold.train) & set(fold.test) == set()
        counts = [np.count_nonzero(LABELS[fold.test] == name) for name in ("T", "B", "NK")]
        np.testing.assert_allclose(counts, [41 / 5, 23 / 5, 7 / 5], atol=1)


def test_groups_are_held_out_as_a_whole():
    groups = np.random.default_rng(0).choice(["d1", "d2", "d3", "d4", "d5", "d6", "d7"], size=71).astype(object)
    folds = make_folds(LABELS, groups, 3, seed=0)
    assert len(folds) == 3
    for fold in folds:
        assert set(groups[fold.train]) & set(groups[fold.test]) == set()
        assert fold.name == ", ".join(sorted(set(groups[fold.test])))


@pytest.mark.parametrize("n_splits", [3, 5])
def test_as_many_folds_as_groups_leave_one_group_out(n_splits):
    groups = np.array(["d2", "d1", "d3"], dtype=object)[np.arange(71) % 3]
    assert [fold.name for fold in make_folds(LABELS, groups, n_splits, seed=0)] == ["d1", "d2", "d3"]


def test_seed_decides():
    tests = [np.concatenate([fold.test for fold in make_folds(LABELS, None, 5, seed)]).tolist() for seed in (0, 0, 1)]
    assert tests[0] == tests[1]
    assert tests[0] != tests[2]


def test_rare_types_are_named_and_do_not_stop_the_split():
    labels = np.array([*LABELS, "Mast"], dtype=object)
    assert rare_types(labels, 9).to_dict() == {"NK": 7, "Mast": 1}
    assert len(make_folds(labels, None, 9, seed=0)) == 9


@pytest.mark.parametrize("n_splits", [1, 0, 2.5, True, "5"])
def test_number_of_folds_is_checked(n_splits):
    with pytest.raises(ValueError, match="n_splits=.* Allowed: a whole number of 2 or more"):
        make_folds(LABELS, None, n_splits, seed=0)


def test_impossible_splits_are_refused():
    with pytest.raises(ValueError, match="the most frequent, 'T', has 41"):
        make_folds(LABELS, None, 42, seed=0)
    with pytest.raises(ValueError, match="All cells are of one group, 'd1'"):
        make_folds(LABELS, np.full(71, "d1", dtype=object), 5, seed=0)
    groups = np.where(LABELS == "T", "d1", "d2").astype(object)
    with pytest.raises(ValueError, match=r"fold 'd2', 41 cells of 1 type\(s\) are left to train on \(T\)"):
        make_folds(LABELS, groups, 2, seed=0)


def test_copies_count_where_they_are_held_out():
    copies = np.array([0, 1, 0, 2, 1, 3])
    assert count_copies(copies, Fold("1", train=np.array([0, 1, 3]), test=np.array([2, 4, 5]))) == 2
    assert count_copies(copies, Fold("1", train=np.array([3, 5]), test=np.array([0, 1, 2, 4]))) == 0
