"""What ``predict`` says about how far its answers can be trusted."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import torch

from transanno import TransAnno, TransAnnoWarning, tl
from transanno._cli._parser import make_parser
from transanno.data._log_normalize import log_normalize
from transanno.models._calibrate import calibrate
from transanno.models._predict import judge_of, novelty_table
from transanno.predictions._studies import NOVELTY_LIMITS, novelty_limit, probability_limit, what_to_expect
from transanno.tl._twin import choose_held_out

TYPES = ["B cell", "NK cell", "T cell"]
TRUST = {"obs[transanno]", "obs[transanno_confidence]"}
OF_UNKNOWN = {"obs[transanno_novelty]", "obs[transanno_group]", "uns"}
OF_GROUPS = ["group", "n_cells", "nearest_type", "share_nearest", "novelty", "markers"]


def _train(adata, small, fast, **kwargs) -> TransAnno:
    TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
    model = TransAnno(adata, **small)
    if "train_size" not in kwargs:
        cells = np.arange(adata.n_obs)
        kwargs["datasplitter_kwargs"] = {"external_indexing": np.split(cells, [int(0.6 * len(cells))])}
    model.train(2, **{"plan_kwargs": {"lr": 5e-3}, **fast, **kwargs})
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_adata, small, fast, start_afresh):
    """Folder of a model that was calibrated on 80 held-out cells."""
    start_afresh()
    path = tmp_path_factory.mktemp("calibrated") / "model"
    _train(make_adata(211), small, fast).save(path)
    return path


@pytest.fixture
def calibrated(folder) -> TransAnno:
    return TransAnno.load(folder, False, accelerator="cpu")


@pytest.fixture
def strange(make_adata) -> ad.AnnData:
    """97 cells like the reference's, and 41 of a type that expresses genes at random."""
    known, new = make_adata(97, seed=1), make_adata(41, seed=2)
    rng = np.random.default_rng(1)
    new.X = type(known.X)(rng.poisson(rng.gamma(0.1, 90.0, size=new.n_vars), size=new.shape).astype("float32"))
    new.obs["cell_type"] = "new"
    return ad.concat([known, new])


def is_new(strange) -> np.ndarray:
    return (strange.obs["cell_type"] == "new").to_numpy()


def test_distance_does_not_depend_on_the_other_cells(calibrated, strange):
    cells = np.arange(0, strange.n_obs, 3)
    judge = judge_of(calibrated)
    among, alone = calibrated._resolve(strange)[1], calibrated._resolve(strange[cells].copy())[1]
    found = [
        calibrated._run(among, cells, 7, axes=judge.axes),
        calibrated._run(alone, np.arange(len(cells)), axes=judge.axes),
    ]
    assert not np.allclose(found[0].z, found[1].z)  # states do: another data set has another mean
    scores = [judge.distances(outputs, of.is_missing) for outputs, of in zip(found, [among, alone], strict=True)]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-3)
    expression = log_normalize(among.counts.rows(cells), ~calibrated._is_gene)
    axes = calibrated.novelty_space_.axes(novelty_table(calibrated))
    np.testing.assert_allclose(found[0].projected, expression @ axes, atol=1e-3)
    assert axes.shape[1] > calibrated.novelty_space_.components.shape[1]


@pytest.mark.parametrize("head", ["conv", "experts"])
def test_one_pass_gives_all_of_a_performer(head, make_adata, query, fast):
    performer = {"encoder": "performer", "n_hidden": 18, "n_layers": 1, "n_heads": 2, "head_dim": 7, "head": head}
    model = _train(make_adata(211), performer, {**fast, "max_steps": 3})
    cells, positions = model._resolve(query)[1], np.arange(61)
    found = model._run(cells, positions, axes=judge_of(model).axes)
    expected = model._run(cells, positions)
    assert found.projected.shape[1] > expected.projected.shape[1] == 0
    for one, other in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("types", [["B cell"], ["NK cell"], ["NK cell", "T cell"], TYPES], ids="-".join)
def test_composition_of_a_query_is_no_novelty(types, calibrated, make_adata):
    """Cells of the reference's types, in other proportions: the mean of the data set is another one, the cells are not."""
    query = make_adata(500, seed=3)
    query = query[query.obs["cell_type"].isin(types).to_numpy()][:61].copy()
    labels = calibrated.predict(query, fdr=0.2)  # a warning would be an error
    assert (labels == "Unknown").mean() < 0.05
    assert abs(query.obs["transanno_novelty"].median()) < 1


def test_without_a_space_there_is_no_novelty_and_the_rest_is_as_ever(calibrated, strange):
    expected = calibrated.predict(strange, soft=True, key_added=None)
    calibrated.novelty_space_ = None
    calibrated.calibration_ = replace(calibrated.calibration_, scale=None)
    found = calibrated.predict(strange, soft=True)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="fdr needs distances from the types of the reference"):
        calibrated.predict(strange, fdr=0.1)
    assert "transanno_novelty" not in strange.obs
    calibrated.predict(strange, sets=True)
    assert strange.obsm["transanno_sets"].any()


class TestTemperature:
    def test_confidence_is_calibrated_on_cells_that_training_has_not_seen(self, calibrated):
        """Complaint 46: soft predictions are confident even when wrong."""
        found = calibrated.calibration_
        assert found.n_cells >= 70
        assert found.held_out == "cells"
        assert found.scale.center.shape == found.scale.spread.shape == (3, 2)
        assert (found.scale.spread > 0).all()
        assert found.temperature > 0
        assert 0 <= found.ece_after <= 1

    def test_labels_do_not_depend_on_it(self, calibrated, query):
        own, refined = (calibrated.predict(query, refine=refine, key_added=None) for refine in (False, True))
        for temperature in (0.3, 5.0):
            calibrated.calibration_ = replace(
                calibrated.calibration_, temperature=temperature, temperature_refined=temperature
            )
            np.testing.assert_array_equal(calibrated.predict(query, key_added=None), own)
            np.testing.assert_array_equal(calibrated.predict(query, refine=True, key_added=None), refined)

    def test_probabilities_are_those_of_divided_logits(self, calibrated, query):
        calibrated.calibration_ = replace(calibrated.calibration_, temperature=2.5)
        soft = calibrated.predict(query, soft=True)
        kept, calibrated.calibration_ = calibrated.calibration_, None
        raw = calibrated.predict(query, soft=True, key_added=None).to_numpy()
        expected = raw ** (1 / kept.temperature)
        np.testing.assert_allclose(soft, expected / expected.sum(axis=1, keepdims=True), atol=1e-9)
        np.testing.assert_array_equal(query.obs["transanno_confidence"], soft.max(axis=1))

    def test_few_held_out_cells_leave_probabilities_as_they_are(self, make_adata, small, fast, caplog):
        with caplog.at_level(logging.INFO, logger="transanno"):
            model = _train(make_adata(97), small, fast, train_size=0.9)
        assert model.calibration_ is model.novelty_space_ is None
        assert "not calibrated" in caplog.text

    def test_training_again_forgets_it(self, make_adata, small, fast):
        model = _train(make_adata(211), small, fast)
        assert model.calibration_ is not None
        model.train(1, train_size=1.0, **fast)
        assert model.calibration_ is model.novelty_space_ is None

    def test_calibration_draws_nothing_and_changes_no_weight(self, make_adata, small, fast, monkeypatch):
        first = _train(make_adata(211), small, fast)
        state = torch.random.get_rng_state()
        monkeypatch.setattr("transanno.models._transanno.calibrate", lambda *args: None)
        torch.manual_seed(0)
        torch.random.set_rng_state(state)
        weights = {name: value.clone() for name, value in first.module.state_dict().items()}
        monkeypatch.undo()
        calibrate(first, np.arange(150), np.arange(150, 211))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(value, weights[name]) for name, value in first.module.state_dict().items())


class TestColumns:
    def test_uncertainty_is_written_by_default(self, calibrated, query, snapshot, changed):
        """Complaints 47, 48: how do I get the uncertainty of annotations?"""
        before = snapshot(query)
        calibrated.predict(query)
        assert changed(before, query) == TRUST
        assert query.obs["transanno_confidence"].between(0, 1).all()

    def test_novelty_is_written_on_request(self, calibrated, query, snapshot, changed):
        before = snapshot(query)
        calibrated.predict(query, fdr=0.1)
        assert changed(before, query) == TRUST | OF_UNKNOWN
        assert list(query.uns) == ["transanno_groups"]
        assert query.obs["transanno_novelty"].dtype == np.float64
        assert np.isfinite(query.obs["transanno_novelty"]).all()

    def test_all_of_it_is_named_by_the_key(self, calibrated, strange, snapshot, changed):
        before = snapshot(strange)
        calibrated.predict(strange, fdr=0.1, sets=True, key_added="mine")
        expected = {*TRUST, *OF_UNKNOWN, "obs[transanno_set]", "obsm[transanno_sets]"}
        assert changed(before, strange) == {name.replace("transanno", "mine") for name in expected}
        assert list(strange.uns) == ["mine_groups"]

    def test_sets_of_an_earlier_prediction_do_not_pass_for_those_of_this_one(
        self, calibrated, query, snapshot, changed
    ):
        before = snapshot(query)
        calibrated.predict(query, sets=True)
        calibrated.predict(query)
        assert changed(before, query) == TRUST

    def test_sets_are_written_on_request(self, calibrated, query, snapshot, changed, tmp_path):
        before = snapshot(query)
        calibrated.predict(query, sets=True, coverage=0.8)
        assert changed(before, query) == TRUST | {"obs[transanno_set]", "obsm[transanno_sets]"}
        sets = query.obsm["transanno_sets"]
        assert sets.dtype == bool
        assert sets.shape == (61, 3)
        texts = ["|".join(np.array(TYPES)[row]) or "(none)" for row in sets]
        assert query.obs["transanno_set"].astype(str).tolist() == texts
        query.write_h5ad(tmp_path / "query.h5ad")
        np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "query.h5ad").obsm["transanno_sets"], sets)

    def test_larger_coverage_gives_larger_sets(self, calibrated, query):
        sizes = []
        for coverage in (0.5, 0.9, 0.99):
            calibrated.predict(query, sets=True, coverage=coverage)
            sizes.append(query.obsm["transanno_sets"].sum())
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]

    def test_sets_hold_what_is_as_probable_as_the_limit(self, calibrated, query):
        probabilities = calibrated.predict(query, soft=True, sets=True)
        expected = probabilities.to_numpy() >= probability_limit(0.9)
        np.testing.assert_array_equal(query.obsm["transanno_sets"], expected)

    def test_sets_are_of_own_probabilities(self, calibrated, query):
        calibrated.calibration_ = replace(calibrated.calibration_, temperature=5.0)  # of these only
        own = calibrated.predict(query, soft=True, key_added=None).to_numpy() >= probability_limit(0.9)
        refined = calibrated.predict(query, soft=True, sets=True, refine=True).to_numpy() >= probability_limit(0.9)
        np.testing.assert_array_equal(query.obsm["transanno_sets"], own)
        assert (own != refined).any()

    @pytest.mark.parametrize(("coverage", "n_types"), [(1e-12, 0), (1 - 1e-12, 3)])
    def test_sets_of_extreme_coverage_are_empty_or_all_types(self, coverage, n_types, calibrated, query):
        calibrated.calibration_ = replace(calibrated.calibration_, temperature=5.0)  # else some are as good as certain
        calibrated.predict(query, sets=True, coverage=coverage)
        assert (query.obsm["transanno_sets"].sum(axis=1) == n_types).all()

    def test_cells_outside_indices_are_missing(self, calibrated, query):
        with pytest.warns(TransAnnoWarning, match="fdr=0.1 was asked for 2 cells"):
            calibrated.predict(query, indices=[5, 2], sets=True, fdr=0.1)
        assert query.obs[["transanno", "transanno_novelty", "transanno_set"]].notna().sum().tolist() == [2, 2, 2]
        assert query.obs["transanno_novelty"].iloc[[2, 5]].notna().all()
        assert not np.delete(query.obsm["transanno_sets"], [2, 5], axis=0).any()

    def test_without_key_nothing_is_written(self, calibrated, query, snapshot, changed):
        before = snapshot(query)
        labels = calibrated.predict(query, key_added=None, sets=True, fdr=0.05)
        assert len(labels) == 61
        assert changed(before, query) == set()

    def test_single_cell(self, calibrated, query):
        one = query[:1].copy()
        with pytest.warns(TransAnnoWarning, match="fdr=0.05 was asked for 1 cells"):
            calibrated.predict(one, sets=True, fdr=0.05)
        assert np.isfinite(one.obs["transanno_novelty"].iloc[0])
        assert one.obsm["transanno_sets"].shape == (1, 3)
        assert "transanno_group" not in one.obs

    def test_no_cells(self, calibrated, query):
        assert calibrated.predict(query, indices=[], sets=True, fdr=0.05).shape == (0,)

    def test_known_labels_are_certain(self, calibrated, query):
        calibrated.predict(query, keep_known=True, sets=True, fdr=0.05)
        assert query.obs["transanno_set"].astype(str).tolist() == query.obs["cell_type"].tolist()


class TestUnknown:
    @pytest.mark.parametrize("refine", [False, True])
    def test_unlike_cells_are_called_unknown(self, refine, calibrated, strange):
        """Complaint 49: without a threshold, types that only the query has are forced into known ones."""
        labels = calibrated.predict(strange, fdr=0.1, refine=refine)
        assert (labels[is_new(strange)] == "Unknown").mean() > 0.9
        assert (labels[~is_new(strange)] == "Unknown").mean() < 0.1
        assert (strange.obs["transanno"].astype(str) == labels).all()
        assert strange.obs["transanno_confidence"].notna().all()

    @pytest.mark.parametrize("fdr", NOVELTY_LIMITS)
    def test_cells_above_the_limit_of_the_rate_are(self, fdr, calibrated, strange):
        labels = calibrated.predict(strange, fdr=fdr)
        np.testing.assert_array_equal(labels == "Unknown", strange.obs["transanno_novelty"] > novelty_limit(fdr))

    def test_exchangeable_cells_are_not(self, calibrated, query):
        assert (calibrated.predict(query, fdr=0.1) == "Unknown").mean() < 0.05
        assert abs(query.obs["transanno_novelty"].median()) < 1

    @pytest.mark.parametrize("refine", [False, True])
    def test_other_cells_get_the_types_that_they_get_without_a_rate(self, refine, calibrated, strange):
        expected = calibrated.predict(strange, refine=refine, soft=True)
        types = strange.obs["transanno"].astype(str).to_numpy()
        found = calibrated.predict(strange, refine=refine, soft=True, fdr=0.1)
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
        labels = strange.obs["transanno"].astype(str).to_numpy()
        is_known = labels != "Unknown"
        assert 0 < is_known.sum() < len(labels)
        np.testing.assert_array_equal(labels[is_known], types[is_known])
        assert "Unknown" not in types

    def test_refinement_does_not_change_what_is_unknown(self, calibrated, strange):
        found = []
        for refine in (False, True):
            calibrated.predict(strange, fdr=0.1, refine=refine)
            found.append(strange.obs[["transanno_novelty", "transanno_group"]].copy())
        pd.testing.assert_frame_equal(*found)

    def test_novelty_depends_on_the_cells_that_are_predicted_together(self, calibrated, strange):
        calibrated.predict(strange, fdr=0.1)
        among_others = strange.obs["transanno_novelty"].copy()
        calibrated.predict(strange, fdr=0.1, indices=~is_new(strange))
        alone = strange.obs["transanno_novelty"]
        assert alone[is_new(strange)].isna().all()
        assert not np.allclose(alone[~is_new(strange)], among_others[~is_new(strange)])

    def test_order_of_cells_has_no_influence(self, calibrated, strange):
        calibrated.predict(strange, fdr=0.1)
        expected = strange.obs["transanno_novelty"]
        shuffled = strange[np.random.default_rng(0).permutation(strange.n_obs)].copy()
        calibrated.predict(shuffled, fdr=0.1)
        found = shuffled.obs["transanno_novelty"].loc[strange.obs_names]
        np.testing.assert_allclose(found, expected, atol=0.05)  # principal components differ a little

    def test_cells_below_the_threshold_are_unknown_before_they_are_unassigned(self, calibrated, strange):
        is_unknown = calibrated.predict(strange, fdr=0.1) == "Unknown"
        labels = calibrated.predict(strange, fdr=0.1, unassigned_threshold=1.0)
        np.testing.assert_array_equal(labels, np.where(is_unknown, "Unknown", "Unassigned"))

    def test_known_labels_are_never_unknown(self, calibrated, strange):
        new = np.flatnonzero(is_new(strange))
        strange.obs["cell_type"] = strange.obs["cell_type"].astype(str)
        strange.obs.iloc[new[:17], strange.obs.columns.get_loc("cell_type")] = "NK cell"
        labels = calibrated.predict(strange, fdr=0.1, keep_known=True)
        assert (labels[new[:17]] == "NK cell").all()
        assert (labels[new[17:]] == "Unknown").mean() > 0.9
        assert (
            strange.obs["transanno_novelty"].iloc[new[:17]] > novelty_limit(0.1)
        ).mean() > 0.9  # as novel as they are
        assert strange.obs["transanno_group"].iloc[new[:17]].isna().all()
        assert strange.obs["transanno_group"].iloc[new[17:]].notna().mean() > 0.9

    def test_empty_cells_are_unassigned(self, calibrated, strange):
        empty = [3, 61, 100, 130]
        strange.X = strange.X.multiply(~np.isin(np.arange(strange.n_obs), empty)[:, None]).tocsr()
        with pytest.warns(TransAnnoWarning, match="4 of 138 cells have no count"):
            labels = calibrated.predict(strange, fdr=0.5)
        assert (labels[empty] == "Unassigned").all()
        assert strange.obs["transanno_group"].iloc[empty].isna().all()
        rest = np.setdiff1d(np.flatnonzero(is_new(strange)), empty)
        assert (labels[rest] == "Unknown").mean() > 0.9

    @pytest.mark.parametrize("n_empty", [5, 60])
    def test_empty_cells_hide_no_unknown_ones(self, n_empty, calibrated, strange):
        expected = (calibrated.predict(strange, fdr=0.1, key_added=None) == "Unknown")[is_new(strange)]
        empty = strange[:n_empty].copy()
        empty.X = 0 * empty.X
        empty.obs_names = [f"empty{i}" for i in range(n_empty)]
        both = ad.concat([strange, empty])
        with pytest.warns(TransAnnoWarning, match="no count in any gene"):
            found = calibrated.predict(both, fdr=0.1) == "Unknown"
        assert found[: strange.n_obs][is_new(strange)].mean() > expected.mean() - 0.05
        assert both.obs["transanno_novelty"].isna().to_numpy().nonzero()[0].tolist() == list(
            range(strange.n_obs, both.n_obs)
        )

    def test_what_an_earlier_prediction_found_goes_with_it(self, calibrated, strange):
        calibrated.predict(strange, fdr=0.1)
        strange.obs["transanno_note"] = "mine"
        calibrated.predict(strange)
        assert not {"transanno_novelty", "transanno_group"} & set(strange.obs)
        assert "transanno_groups" not in strange.uns
        assert (strange.obs["transanno_note"] == "mine").all()

    def test_type_of_that_name_is_refused(self, reference, small, fast):
        reference.obs["cell_type"] = reference.obs["cell_type"].replace("T cell", "Unknown")
        with pytest.warns(UserWarning, match="usually means none"):
            TransAnno.setup_anndata(reference, "cell_type", unlabeled_category="none")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        with pytest.raises(ValueError, match="has a type called 'Unknown'"):
            model.predict(fdr=0.05)

    @pytest.mark.parametrize("arguments", [{"fdr": 0.0}, {"fdr": 1.5}, {"fdr": True}, {"sets": True, "coverage": 1.0}])
    def test_numbers_out_of_range_are_refused(self, calibrated, query, arguments):
        with pytest.raises(ValueError, match="between 0 and 1"):
            calibrated.predict(query, **arguments)

    @pytest.mark.parametrize("arguments", [{"fdr": 0.05}, {"sets": True}])
    def test_uncalibrated_model_says_why_it_cannot(self, model, arguments):
        with pytest.raises(ValueError, match="held out from training"):
            model.predict(**arguments)

    def test_dataloader_is_refused(self, calibrated):
        with pytest.raises(ValueError, match="instead of dataloader"):
            calibrated.predict(dataloader=[], fdr=0.05)


class TestGroups:
    @pytest.fixture
    def grouped(self, calibrated, strange) -> ad.AnnData:
        """The strange cells, the new ones as a group."""
        calibrated.predict(strange, fdr=0.1)
        return strange

    def test_new_type_is_a_group(self, grouped):
        group, table = grouped.obs["transanno_group"], grouped.uns["transanno_groups"]
        assert list(table) == OF_GROUPS
        assert isinstance(group.dtype, pd.CategoricalDtype)
        assert list(group.cat.categories) == table["group"].tolist()
        assert len(table) == 1
        assert group[~is_new(grouped)].isna().all()
        assert group[is_new(grouped)].notna().mean() > 0.9
        assert table["group"][0] == f"Unknown 1, like {table['nearest_type'][0]}"
        assert table["n_cells"].tolist() == group.value_counts().tolist()
        assert table["novelty"][0] == np.median(grouped.obs["transanno_novelty"][group.notna()])
        assert (grouped.obs["transanno"][group.notna()] == "Unknown").all()

    def test_nearest_type_is_what_most_would_be_called(self, grouped, calibrated):
        table = grouped.uns["transanno_groups"]
        labels = pd.Series(calibrated.predict(grouped, key_added=None))
        counts = labels[grouped.obs["transanno_group"].notna().to_numpy()].value_counts()
        assert (table["nearest_type"][0], table["n_cells"][0]) == (counts.index[0], counts.sum())
        assert table["share_nearest"][0] == counts.iloc[0] / counts.sum()

    def test_markers_are_higher_in_the_group(self, grouped):
        expression = pd.DataFrame(log_normalize(grouped.X).toarray(), columns=grouped.var_names)
        nearest = grouped.uns["transanno_groups"]["nearest_type"][0]
        known = expression[(grouped.obs["transanno"] == nearest).to_numpy()]
        markers = grouped.uns["transanno_groups"]["markers"][0].split(", ")
        assert len(markers) == len(set(markers)) == 5
        assert (expression[is_new(grouped)].mean() - known.mean())[markers].min() > 1

    def test_cells_outside_indices_have_no_group(self, calibrated, strange):
        chosen = np.r_[108:138, 3:70]  # not in their order
        calibrated.predict(strange, fdr=0.1, indices=chosen)
        group = strange.obs["transanno_group"]
        assert group.iloc[np.setdiff1d(np.arange(138), chosen)].isna().all()
        assert group.iloc[:97].isna().all()
        assert group.iloc[108:].notna().mean() > 0.9
        assert strange.uns["transanno_groups"]["n_cells"].tolist() == [group.notna().sum()]
        self.test_markers_are_higher_in_the_group(strange)

    @pytest.mark.parametrize("keep_known", [False, True])
    def test_empty_and_known_cells_are_in_none_however_novel_they_are(
        self, keep_known, calibrated, strange, monkeypatch
    ):
        monkeypatch.setattr("transanno.predictions._predict.novelty_limit", lambda fdr: -np.inf)
        is_empty = np.arange(strange.n_obs) % 5 == 0
        strange.X = strange.X.multiply(~is_empty[:, None]).tocsr()
        with pytest.warns(TransAnnoWarning, match="have no count"):
            labels = calibrated.predict(strange, fdr=0.1, keep_known=keep_known)
        is_known = keep_known & ~is_new(strange)
        assert (labels[is_empty & ~is_known] == "Unassigned").all()
        assert (labels[is_known] == strange.obs["cell_type"][is_known]).all()
        assert (labels[~is_empty & ~is_known] == "Unknown").all()
        group = strange.obs["transanno_group"].notna()
        assert not group[is_empty | is_known].any()
        assert group[~is_empty & ~is_known].mean() > 0.5

    @pytest.mark.parametrize("name", ["strange", "query"], ids=["a group", "none"])
    def test_survive_a_file(self, name, request, calibrated, tmp_path):
        adata = request.getfixturevalue(name)
        calibrated.predict(adata, fdr=0.1)
        adata.write_h5ad(tmp_path / "a.h5ad")
        again = ad.read_h5ad(tmp_path / "a.h5ad")
        columns = ["transanno", "transanno_novelty", "transanno_group"]
        for key in columns:
            assert again.obs[key].astype(object).where(again.obs[key].notna(), None).tolist() == (
                adata.obs[key].astype(object).where(adata.obs[key].notna(), None).tolist()
            )
        expected, table = adata.uns["transanno_groups"], again.uns["transanno_groups"]
        assert list(table) == OF_GROUPS
        assert len(table) == {"strange": 1, "query": 0}[name]
        assert table.astype(object).to_numpy().tolist() == expected.astype(object).to_numpy().tolist()
        again.write_h5ad(tmp_path / "b.h5ad")

    def test_without_groups_the_column_is_empty_and_the_table_has_its_columns(self, calibrated, query):
        calibrated.predict(query, fdr=0.1)
        assert query.obs["transanno_group"].isna().all()
        assert isinstance(query.obs["transanno_group"].dtype, pd.CategoricalDtype)
        assert query.uns["transanno_groups"].shape == (0, 6)
        assert list(query.uns["transanno_groups"]) == OF_GROUPS

    def test_again_replaces_them(self, grouped, calibrated):
        calibrated.predict(grouped, fdr=0.1, indices=~is_new(grouped))
        assert grouped.obs["transanno_group"].isna().all()
        assert len(grouped.uns["transanno_groups"]) == 0

    def test_of_a_view(self, calibrated, strange):
        expected = calibrated.predict(strange[20:].copy(), fdr=0.1, key_added=None)
        view = strange[20:]
        np.testing.assert_array_equal(calibrated.predict(view, fdr=0.1), expected)
        assert view.obs["transanno_group"].notna().sum() > 30
        assert "transanno_groups" in view.uns
        assert "transanno_groups" not in strange.uns

    def test_genes_outside_the_model_are_no_markers(self, make_adata, strange, fast):
        """Columns beyond its genes are part of a cell's total."""
        model = tl.fit_reference(make_adata(211), "cell_type", max_epochs=2, n_top_genes=31, **fast)
        tl.annotate(strange, model=model, fdr=0.5)
        for markers in strange.uns["transanno_groups"]["markers"]:
            assert set(markers.split(", ")) <= {*model.genes, ""}


class TestWarnings:
    @pytest.mark.parametrize(("fdr", "nearest"), [(0.01, min(NOVELTY_LIMITS)), (0.7, max(NOVELTY_LIMITS))])
    def test_rates_that_were_not_measured(self, fdr, nearest, calibrated, strange):
        with pytest.warns(TransAnnoWarning, match=f"outside of what was measured.*as with fdr={nearest}") as caught:
            labels = calibrated.predict(strange, fdr=fdr)
        ours = [warning for warning in caught if issubclass(warning.category, TransAnnoWarning)]
        assert [warning.filename for warning in ours] == 2 * [__file__]
        np.testing.assert_array_equal(labels, calibrated.predict(strange, fdr=nearest))

    @pytest.mark.parametrize("fdr", [min(NOVELTY_LIMITS), 0.15, max(NOVELTY_LIMITS)])
    @pytest.mark.parametrize("n_cells", [50, 61])
    def test_what_it_is_worth_and_no_more_where_all_is_as_it_was_measured(self, fdr, n_cells, calibrated, query):
        with pytest.warns(TransAnnoWarning) as caught:
            calibrated.predict(query, indices=np.arange(n_cells), fdr=fdr)
        assert [str(warning.message) for warning in caught] == [what_to_expect(fdr)]

    @pytest.mark.parametrize("n_cells", [1, 7, 49])
    def test_few_cells_have_no_neighborhoods(self, n_cells, calibrated, query):
        with pytest.warns(TransAnnoWarning, match=f"fdr=0.1 was asked for {n_cells} cells. Fewer than 50"):
            calibrated.predict(query[:n_cells].copy(), fdr=0.1)

    def test_few_cells_have_a_novelty_and_no_groups(self, calibrated, strange, snapshot, changed):
        few = strange[64:112].copy()
        before = snapshot(few)
        with pytest.warns(TransAnnoWarning, match="Fewer than 50"):
            labels = calibrated.predict(few, fdr=0.1)
        assert changed(before, few) == TRUST | {"obs[transanno_novelty]"}
        assert (labels[is_new(few)] == "Unknown").mean() > 0.8

    def test_none_without_a_rate(self, calibrated, query):
        calibrated.predict(query[:7].copy(), sets=True, coverage=0.2)  # a warning would be an error

    def test_none_of_no_cells(self, calibrated, query):
        assert calibrated.predict(query, indices=[], fdr=0.1).shape == (0,)


@pytest.fixture(scope="module")
def of_mudata(make_mdata, small, fast, start_afresh) -> TransAnno:
    start_afresh()
    mdata = make_mdata(211)
    TransAnno.setup_mudata(mdata, "cell_type", batch_key="batch", modalities={"rna_layer": "rna"})
    model = TransAnno(mdata, **small)
    model.train(2, train_size=0.6, plan_kwargs={"lr": 5e-3}, **fast)
    return model


class TestMuData:
    def test_novelty_and_sets(self, of_mudata, make_mdata):
        query = make_mdata(61, seed=1)
        query_model = TransAnno.load_query_data(query, of_mudata, accelerator="cpu")
        query_model.predict(sets=True, fdr=0.05)
        assert query.obs["transanno_novelty"].notna().all()
        assert query.obsm["transanno_sets"].shape == (61, 3)

    # mudata 0.3 says what will be different in 0.4.
    @pytest.mark.filterwarnings(r"ignore:From 0\.4 \.update:FutureWarning")
    @pytest.mark.parametrize("n_new", [0, 37])
    def test_groups_survive_a_file(self, n_new, of_mudata, make_mdata, strange, tmp_path):
        query = make_mdata(138, seed=1)
        counts = query["rna"].X.tolil()
        counts[138 - n_new :] = strange.X[138 - n_new :]
        query["rna"].X = counts.tocsr()
        TransAnno.load_query_data(query, of_mudata, accelerator="cpu").predict(fdr=0.1)
        group = query.obs["transanno_group"]
        assert group.iloc[: 138 - n_new].isna().all()
        assert group.iloc[138 - n_new :].notna().sum() > 0.9 * n_new - 1
        assert len(query.uns["transanno_groups"]) == (n_new > 0)
        query.write_h5mu(tmp_path / "a.h5mu")
        again = mudata.read_h5mu(tmp_path / "a.h5mu")
        assert list(again.uns["transanno_groups"]) == OF_GROUPS
        assert again.uns["transanno_groups"]["markers"].tolist() == query.uns["transanno_groups"]["markers"].tolist()
        np.testing.assert_array_equal(again.obs["transanno_group"].isna(), group.isna())


class TestLifetime:
    def test_saved_and_carried_to_queries(self, folder, calibrated, query, tmp_path):
        calibrated.predict(query, sets=True, fdr=0.1)
        expected = query.obs["transanno_novelty"].copy(), query.obsm["transanno_sets"].copy()
        query_model = TransAnno.load_query_data(query, calibrated, accelerator="cpu")
        query_model.save(tmp_path / "query")
        for again in (query_model, TransAnno.load(tmp_path / "query", query, accelerator="cpu")):
            again.predict(query, sets=True, fdr=0.1)
            np.testing.assert_allclose(query.obs["transanno_novelty"], expected[0], atol=1e-9)
            np.testing.assert_array_equal(query.obsm["transanno_sets"], expected[1])
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        assert card["calibration"].keys() == {"temperature", "n_cells", "held_out", "ece_before", "ece_after"}

    def test_learning_from_labels_of_the_query_ends_it(self, calibrated, query, fast):
        model = TransAnno.load_query_data(query, calibrated, accelerator="cpu", unfrozen=True)
        assert model.calibration_ is not None
        model.train(1, **fast)
        assert model.calibration_ is None


class TestReference:
    def test_twin_calibrates_and_changes_no_prediction(self, make_adata, query, fast):
        reference = make_adata(211)
        found = [
            tl.fit_reference(reference, "cell_type", max_epochs=2, calibrate=calibrate, **fast)
            for calibrate in (True, False)
        ]
        assert found[1].calibration_ is None
        assert found[0].calibration_.n_cells == 42
        np.testing.assert_array_equal(*(model.predict(query, key_added=None) for model in found))
        kept, found[0].calibration_ = found[0].calibration_, None
        first, second = (model.predict(query, soft=True, key_added=None) for model in found)
        pd.testing.assert_frame_equal(first, second, check_exact=True)
        found[0].calibration_ = kept
        found[0].predict(query, fdr=0.05)
        assert "transanno_novelty" in query.obs

    def test_annotate_passes_the_rate_on(self, make_adata, strange, fast):
        strange.obs = strange.obs[[]]
        tl.annotate(strange, make_adata(211), labels_key="cell_type", fdr=0.2, max_epochs=2, **fast)
        assert (strange.obs["transanno"] == "Unknown").any()
        assert strange.obs["transanno_novelty"].notna().all()
        assert list(strange.uns["transanno_groups"]) == OF_GROUPS
        with pytest.raises(ValueError, match="fdr=2"):
            tl.annotate(strange, make_adata(211), labels_key="cell_type", fdr=2, max_epochs=2, **fast)

    def test_command_takes_the_rate(self):
        arguments = "annotate --model m --query q --out o --fdr 0.1".split()
        assert make_parser().parse_args(arguments).fdr == 0.1

    def test_validation_cells_are_used_instead_of_a_twin(self, make_adata, fast, monkeypatch):
        monkeypatch.setattr("transanno.tl._reference.calibrate_by_twin", None)
        model = tl.fit_reference(make_adata(211), "cell_type", max_epochs=2, train_size=0.6, **fast)
        assert model.calibration_.n_cells > 70


class TestHeldOut:
    """Complaint 46 asks for held-out donors."""

    def test_whole_batches_are_held_out_where_types_are_in_several(self):
        codes, batch = np.tile(np.arange(3), 67), np.repeat(np.arange(3), [30, 70, 101])
        held_out = choose_held_out(codes, batch, np.random.default_rng(0))
        assert set(batch[held_out]) == {0, 1}
        assert len(held_out) == 100

    @pytest.mark.parametrize("batch", [np.zeros(201, int), np.tile(np.arange(3), 67), np.repeat([0, 1], [1, 200])])
    def test_cells_are_held_out_where_batches_cannot_be(self, batch):
        codes = np.tile(np.arange(3), 67)
        held_out = choose_held_out(codes, batch, np.random.default_rng(0))
        assert len(held_out) == 40
        assert np.bincount(codes[held_out]).min() >= 13

    def test_unlabeled_cells_and_single_ones_stay_in_training(self):
        codes = np.r_[np.tile([0, 1], 99), np.full(20, -1), 2]
        held_out = choose_held_out(codes, np.zeros(len(codes), int), np.random.default_rng(0))
        assert set(codes[held_out]) == {0, 1}

    def test_too_few_cells_are_none(self):
        assert len(choose_held_out(np.tile([0, 1], 40), np.zeros(80, int), np.random.default_rng(0))) == 0
