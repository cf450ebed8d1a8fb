"""What ``predict`` says about how far its answers can be trusted."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from transanno import TransAnno, tl
from transanno._cli._parser import make_parser
from transanno.data._log_normalize import log_normalize
from transanno.models._calibrate import calibrate
from transanno.models._predict import judge_of, novelty_table
from transanno.tl._twin import choose_held_out

TYPES = ["B cell", "NK cell", "T cell"]
TRUST = {"obs[transanno]", "obs[transanno_confidence]", "obs[transanno_novelty]"}


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
    """61 cells like the reference's, and 61 of a type that expresses genes at random."""
    known, new = make_adata(61, seed=1), make_adata(61, seed=2)
    rng = np.random.default_rng(1)
    new.X = type(known.X)(rng.poisson(rng.gamma(0.1, 90.0, size=new.n_vars), size=new.shape).astype("float32"))
    new.obs["cell_type"] = "new"
    return ad.concat([known, new])


def test_novelty_does_not_depend_on_the_other_cells(calibrated, strange):
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


@pytest.mark.parametrize("n_cells", [7, 61])
@pytest.mark.parametrize("types", [["B cell"], ["NK cell"], ["NK cell", "T cell"], TYPES], ids="-".join)
def test_composition_of_a_query_is_no_novelty(types, n_cells, calibrated, make_adata):
    """Cells of the reference's types, in other proportions: the mean of the data set is another one, the cells are not."""
    query = make_adata(500, seed=3)
    query = query[query.obs["cell_type"].isin(types).to_numpy()][:n_cells].copy()
    labels = calibrated.predict(query, fdr=0.05)  # a warning would be an error
    assert (labels == "Unknown").mean() < 0.05
    assert query.obs["transanno_novelty"].mean() > 0.25


def test_without_a_space_there_is_no_novelty_and_the_rest_is_as_ever(calibrated, strange):
    expected = calibrated.predict(strange, soft=True, key_added=None)
    calibrated.novelty_space_ = None
    found = calibrated.predict(strange, soft=True)
    np.testing.assert_array_equal(found, expected)
    assert "transanno_novelty" not in strange.obs


class TestTemperature:
    def test_confidence_is_calibrated_on_cells_that_training_has_not_seen(self, calibrated):
        """Complaint 46: soft predictions are confident even when wrong."""
        found = calibrated.calibration_
        assert found.n_cells == len(found.codes) == len(found.distance) >= 70
        assert found.held_out == "cells"
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
        assert query.obs["transanno_novelty"].between(0, 1).all()

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

    def test_cells_outside_indices_are_missing(self, calibrated, query):
        calibrated.predict(query, indices=[5, 2], sets=True)
        assert query.obs[["transanno", "transanno_novelty", "transanno_set"]].notna().sum().tolist() == [2, 2, 2]
        assert not np.delete(query.obsm["transanno_sets"], [2, 5], axis=0).any()
        novelty = query.obs["transanno_novelty"].iloc[[2, 5]]
        calibrated.predict(query)
        pd.testing.assert_series_equal(query.obs["transanno_novelty"].iloc[[2, 5]], novelty)

    def test_without_key_nothing_is_written(self, calibrated, query, snapshot, changed):
        before = snapshot(query)
        labels = calibrated.predict(query, key_added=None, sets=True, fdr=0.05)
        assert len(labels) == 61
        assert changed(before, query) == set()

    def test_single_cell(self, calibrated, query):
        one = query[:1].copy()
        calibrated.predict(one, sets=True, fdr=0.05)
        assert 0 < one.obs["transanno_novelty"].iloc[0] <= 1
        assert one.obsm["transanno_sets"].shape == (1, 3)

    def test_no_cells(self, calibrated, query):
        assert calibrated.predict(query, indices=[], sets=True, fdr=0.05).shape == (0,)

    def test_known_labels_are_certain(self, calibrated, query):
        calibrated.predict(query, keep_known=True, sets=True, fdr=0.05)
        assert query.obs["transanno_set"].astype(str).tolist() == query.obs["cell_type"].tolist()

    def test_mudata(self, make_mdata, small, fast):
        mdata = make_mdata(211)
        TransAnno.setup_mudata(mdata, "cell_type", batch_key="batch", modalities={"rna_layer": "rna"})
        model = TransAnno(mdata, **small)
        model.train(2, train_size=0.6, **fast)
        query = make_mdata(61, seed=1)
        query_model = TransAnno.load_query_data(query, model, accelerator="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            query_model.predict(sets=True, fdr=0.05)
        assert query.obs["transanno_novelty"].notna().all()
        assert query.obsm["transanno_sets"].shape == (61, 3)


class TestUnknown:
    def test_unlike_cells_are_called_unknown(self, calibrated, strange):
        """Complaint 49: without a threshold, types that only the query has are forced into known ones."""
        with pytest.warns(UserWarning, match="unlike the reference"):
            labels = calibrated.predict(strange, fdr=0.05)
        is_new = (strange.obs["cell_type"] == "new").to_numpy()
        assert (labels[is_new] == "Unknown").mean() > 0.9
        assert (labels[~is_new] == "Unknown").mean() < 0.1
        assert (strange.obs["transanno"].astype(str) == labels).all()
        assert strange.obs["transanno_confidence"].notna().all()
        assert "Unknown" not in calibrated.predict(strange)

    def test_exchangeable_cells_are_not(self, calibrated, query):
        assert (calibrated.predict(query, fdr=0.05) == "Unknown").mean() < 0.05
        assert 0.3 < query.obs["transanno_novelty"].mean() < 0.7

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


class TestLifetime:
    def test_saved_and_carried_to_queries(self, folder, calibrated, query, tmp_path):
        calibrated.predict(query, sets=True)
        expected = query.obs["transanno_novelty"].copy(), query.obsm["transanno_sets"].copy()
        query_model = TransAnno.load_query_data(query, calibrated, accelerator="cpu")
        query_model.save(tmp_path / "query")
        for again in (query_model, TransAnno.load(tmp_path / "query", query, accelerator="cpu")):
            again.predict(query, sets=True)
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
        with pytest.warns(UserWarning, match="unlike the reference"):
            tl.annotate(strange, make_adata(211), labels_key="cell_type", fdr=0.2, max_epochs=2, **fast)
        assert (strange.obs["transanno"] == "Unknown").any()
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
