"""What users of similar tools complain about, and what happens here instead.

Complaints whose behavior other files test already are not repeated; ``docs`` of the tests there say so by their names.
"""

from __future__ import annotations

import inspect
import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from transanno import TransAnno, TransAnnoPretrain, tl
from transanno.predictions._run import Outputs
from transanno.training import _health


class TestLabels:
    def test_query_needs_no_label_column(self, saved_reference, query):
        # scvi-tools#1449, scBERT#7
        del query.obs["cell_type"]
        tl.annotate(query, model=saved_reference, accelerator="cpu")
        assert query.obs["transanno"].notna().all()

    def test_query_needs_no_other_column(self, saved_reference, query):
        # CellPLM#11
        query.obs = query.obs[[]]
        tl.annotate(query, model=saved_reference, accelerator="cpu")
        assert query.obs["transanno"].notna().all()

    @pytest.mark.parametrize(
        "function", [TransAnno.setup_anndata, TransAnno.setup_mudata, tl.annotate, tl.fit_reference]
    )
    def test_unlabeled_category_has_a_default(self, function):
        # scvi-tools#2091
        assert inspect.signature(function).parameters["unlabeled_category"].default == "Unlabeled"

    def test_numbers_of_labeled_and_unlabeled_cells_are_told(self, reference, caplog):
        # scvi-tools#1514
        reference.obs["cell_type"] = reference.obs["cell_type"].astype(object)
        reference.obs.iloc[:7, 0] = "Unlabeled"
        with caplog.at_level(logging.INFO, logger="transanno"):
            TransAnno.setup_anndata(reference, "cell_type")
        assert "90 labeled and 7 unlabeled cells, 3 types" in caplog.text

    def test_labels_are_names_not_integers(self, saved_reference, query):
        # CellPLM#17
        tl.annotate(query, model=saved_reference, accelerator="cpu")
        assert set(query.obs["transanno"].cat.categories) <= {"B cell", "NK cell", "T cell"}

    def test_query_and_reference_categories_may_differ(self, saved_reference, query):
        # scarches#251
        query.obs["cell_type"] = pd.Categorical(["Platypus"] * query.n_obs, categories=["Platypus", "Echidna"])
        tl.annotate(query, model=saved_reference, accelerator="cpu")
        assert query.obs["transanno"].notna().all()


class TestKnownLabelsAreKept:
    """scvi-tools#1086."""

    @pytest.fixture
    def wrong(self, reference):
        """Labels of which the first eleven are wrong on purpose, and the last twenty unknown."""
        labels = reference.obs["cell_type"].to_numpy().astype(object)
        labels[:11] = np.where(labels[:11] == "B cell", "T cell", "B cell")
        labels[-20:] = "Unlabeled"
        return labels

    def test_of_registered_cells(self, saved_reference, reference, wrong):
        reference.obs["cell_type"] = wrong
        model = TransAnno.load(saved_reference, reference, accelerator="cpu")
        free, kept = model.predict(key_added=None), model.predict(keep_known=True)
        assert (kept[:-20] == wrong[:-20]).all()
        assert (kept[-20:] == free[-20:]).all()
        assert (free[:11] != wrong[:11]).any()
        assert (reference.obs["transanno_confidence"].to_numpy()[:-20] == 1).all()

    def test_of_other_cells(self, model, reference, wrong):
        other = reference.copy()
        other.obs["cell_type"] = wrong
        other.obs.loc[other.obs_names[3], "cell_type"] = "Platypus"  # unknown to the model
        kept = model.predict(other, keep_known=True)
        is_known = (wrong != "Unlabeled") & (np.arange(len(wrong)) != 3)
        assert (kept[is_known] == wrong[is_known]).all()
        assert kept[3] in model.labels

    def test_of_chosen_cells_with_probabilities(self, model, reference):
        cells = np.array([5, 2, 40])
        frame = model.predict(indices=cells, soft=True, keep_known=True, key_added=None)
        assert list(frame.idxmax(axis=1)) == list(reference.obs["cell_type"].iloc[cells])
        np.testing.assert_array_equal(frame.max(axis=1), 1)

    def test_without_labels_nothing_is_kept(self, model, query):
        del query.obs["cell_type"]
        np.testing.assert_array_equal(model.predict(query, keep_known=True), model.predict(query))

    def test_not_by_default(self, model, reference, wrong):
        other = reference.copy()
        other.obs["cell_type"] = wrong
        np.testing.assert_array_equal(model.predict(other), model.predict(reference.copy()))


class TestCovariates:
    def test_batch_key_as_text_or_list_of_one(self, reference):
        # scvi-tools#3022
        for cls, more in ((TransAnno, {"labels_key": "cell_type"}), (TransAnnoPretrain, {})):
            cls.setup_anndata(reference, batch_key=["batch"], **more)
            as_list = reference.obs["_scvi_batch"].copy()
            cls.setup_anndata(reference, batch_key="batch", **more)
            pd.testing.assert_series_equal(reference.obs["_scvi_batch"], as_list)

    def test_model_of_a_list_is_saved_and_mapped(self, reference, query, small, fast, tmp_path):
        TransAnno.setup_anndata(reference, "cell_type", batch_key=["batch"])
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        model.save(tmp_path / "model")
        TransAnno.load_query_data(query, tmp_path / "model", accelerator="cpu").predict()

    def test_several_batch_columns_are_an_error_with_a_cure(self, reference):
        with pytest.raises(TypeError, match=r"one column of obs.*adata\.obs\[\"both\"\]"):
            TransAnno.setup_anndata(reference, "cell_type", batch_key=["batch", "cell_type"])

    @pytest.mark.parametrize("name", ["categorical_covariate_keys", "continuous_covariate_keys", "size_factor_key"])
    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_covariates_that_would_be_ignored_are_refused(self, name, cls, reference):
        # scvi-tools#1525
        more = {"labels_key": "cell_type"} if cls is TransAnno else {}
        with pytest.raises(TypeError, match=f"{name} cannot be registered.*batch column"):
            cls.setup_anndata(reference, **{name: ["batch"]}, **more)

    def test_order_of_categories_changes_nothing(self, saved_reference, query):
        # scvi-tools#880
        expected = TransAnno.load_query_data(query.copy(), saved_reference, accelerator="cpu").predict()
        query.obs["batch"] = pd.Categorical(query.obs["batch"], ["batch2", "other", "batch1"])
        query.obs["cell_type"] = pd.Categorical(query.obs["cell_type"], ["T cell", "NK cell", "B cell"])
        found = TransAnno.load_query_data(query, saved_reference, accelerator="cpu").predict()
        np.testing.assert_array_equal(found, expected)

    def test_missing_batches_of_a_query(self, saved_reference, query):
        # scvi-tools#3962
        query.obs["batch"] = query.obs["batch"].astype(object)
        query.obs.iloc[:9, list(query.obs).index("batch")] = np.nan
        tl.annotate(query, model=saved_reference, accelerator="cpu")
        assert query.obs["transanno"].notna().all()


class TestCollapse:
    """scarches#40, scGPT#345."""

    @pytest.fixture
    def many(self, reference, small):
        reference.obs["cell_type"] = [f"type {i % 7}" for i in range(reference.n_obs)]
        TransAnno.setup_anndata(reference, "cell_type")
        return TransAnno(reference, **small)

    def constant(self, monkeypatch, model, n_types):
        logits = np.eye(7)[np.arange(97) % n_types]
        nothing = np.zeros((97, 0))
        monkeypatch.setattr(
            model,
            "_run",
            lambda cells, positions: Outputs(logits[positions], nothing, nothing, np.zeros(len(positions), dtype=bool)),
        )

    def said(self, model) -> None:
        _health.warn_if_collapsed(
            model._label_codes(), model.labels, lambda positions: model._run(None, positions).logits.argmax(axis=1)
        )

    def test_is_said_after_training(self, many, monkeypatch, fast):
        self.constant(monkeypatch, many, 2)
        with pytest.warns(UserWarning, match=r"Training went wrong: only 2 of 7 types.*'type 2'.*max_epochs"):
            many.train(1, **fast)

    def test_most_types_are_enough(self, many, monkeypatch, fast):
        self.constant(monkeypatch, many, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.said(many)

    def test_rare_types_do_not_count(self, reference, small, monkeypatch):
        reference.obs["cell_type"] = [f"type {min(i, 6)}" for i in range(reference.n_obs)]
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        self.constant(monkeypatch, model, 1)
        self.said(model)


class TestSizes:
    @pytest.mark.parametrize("n_obs", [33, 65])
    @pytest.mark.parametrize("encoder", ["views", "performer"])
    def test_a_last_minibatch_of_one_cell(self, n_obs, encoder, make_adata, fast):
        # scvi-tools#426, #2214, #2314, #3035
        adata = make_adata(n_obs)
        TransAnno.setup_anndata(adata, "cell_type")
        sizes = {"n_hidden": 8, "n_layers": 1, "n_heads": 2}
        model = TransAnno(adata, encoder=encoder, **sizes)
        # Episodes would all have as many cells.
        arguments = {"train_size": 1.0, "batch_size": 32, "datasplitter_kwargs": {"class_balance": 0.0}}
        model.train(1, **{**fast, **arguments})
        assert model.trainer.num_training_batches == n_obs // 32 + 1
        assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()
        frame = model.predict(batch_size=32, soft=True)
        assert frame.shape == (n_obs, 3)

    @pytest.mark.parametrize("n_obs", [7, 23])
    def test_a_few_reference_cells(self, n_obs, make_adata, query, fast):
        # azimuth#144, seurat#8230
        tl.annotate(query, make_adata(n_obs), labels_key="cell_type", max_epochs=1, **fast)
        assert query.obs["transanno"].notna().all()

    @pytest.mark.parametrize("n_obs", [1, 2, 49, 51])
    def test_a_few_query_cells(self, n_obs, saved_reference, make_adata):
        query = make_adata(n_obs, seed=5)
        tl.annotate(query, model=saved_reference, accelerator="cpu")
        assert query.obs["transanno"].notna().all()


def test_annotation_of_unlabeled_data_is_three_lines(tmp_path, make_adata, fast):
    # scGPT#55, #305
    make_adata(61, seed=1).write_h5ad(tmp_path / "query.h5ad")
    query = ad.read_h5ad(tmp_path / "query.h5ad")
    tl.annotate(query, make_adata(), labels_key="cell_type", max_epochs=1, **fast)
    assert len(query.obs["transanno"]) == 61


def test_sharing_a_model_is_one_call_with_its_card(model, query, tmp_path):
    # popV#19, #78
    model.save(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.pt", "genes.txt", "card.json"}
    tl.annotate(query, model=tmp_path / "model", accelerator="cpu")
