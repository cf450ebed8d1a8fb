"""``tl.evaluate``, ``tl.cross_validate`` and ``predict(unassigned_threshold=)``: what users rely on."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import accuracy_score, f1_score

import transanno
from transanno import TransAnno, TransAnnoWarning, tl
from transanno.predictions._result import Predictions
from transanno.tl import _cross_validate


@pytest.fixture
def brief(fast):
    return {**fast, "max_epochs": 1, "plan_kwargs": {"lr": 5e-3}, "progress": False}


@pytest.fixture
def seen(monkeypatch) -> list[tuple[ad.AnnData, ad.AnnData]]:
    """Training and held-out cells of every fold, as the model gets them; no model is trained."""
    folds = []

    def instead(train, test, labels_key, asked, **kwargs):
        folds.append((train, test))
        types = np.unique(train.obs[labels_key].to_numpy().astype(str))
        values = np.random.default_rng(len(folds)).dirichlet(np.ones(len(types)), size=test.n_obs)
        return Predictions(values, types, np.arange(test.n_obs), test.obs_names, asked.unassigned_threshold)

    monkeypatch.setattr(_cross_validate, "_predict_held_out", instead)
    return folds


class TestEvaluate:
    def test_equals_scikit_learn_on_predictions(self, model, query, snapshot, changed):
        probabilities = model.predict(query, soft=True)
        before = snapshot(query)
        result = tl.evaluate(query, "cell_type", probabilities=probabilities)
        assert changed(before, query) == set()
        truth, predicted = query.obs["cell_type"].astype(str), query.obs["transanno"].astype(str)
        assert result.summary["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
        assert result.summary["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
        assert 0.9 < result.summary["macro_auc"] <= 1
        assert result.confusion_matrix.to_numpy().sum() == 61

    def test_types_of_the_model_say_which_are_unseen(self, model, query):
        model.predict(query, key_added="found")
        query.obs["truth"] = np.where(np.arange(61) < 7, "Mast cell", query.obs["cell_type"])
        result = tl.evaluate(query, "truth", key_added="found", labels=model.labels)
        assert result.unseen.to_dict() == {"Mast cell": 7}
        assert result.summary["accuracy_with_unseen"] == pytest.approx(result.summary["accuracy"] * 54 / 61)
        assert tl.evaluate(query, "truth", key_added="found").unseen.empty

    def test_subset_of_cells(self, model, query):
        probabilities = model.predict(query, indices=[3, 1, 7, 2, 40, 41, 42, 43, 44, 45], soft=True)
        result = tl.evaluate(query, "cell_type", probabilities=probabilities)
        assert result.summary["n_cells"] == 10
        assert result.n_not_predicted == 51

    def test_probabilities_are_matched_by_name(self, model, query):
        probabilities = model.predict(query, soft=True)
        expected = tl.evaluate(query, "cell_type", probabilities=probabilities).summary
        found = tl.evaluate(query, "cell_type", probabilities=probabilities.iloc[::-1]).summary
        pd.testing.assert_series_equal(found, expected)

    def test_refused(self, model, query):
        with pytest.raises(KeyError, match="key_added='transanno' is not a column"):
            tl.evaluate(query, "cell_type")
        probabilities = model.predict(query, soft=True)
        with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
            tl.evaluate(query, "celltype")
        with pytest.raises(ValueError, match="61 of 61 row names are not in adata.obs_names"):
            tl.evaluate(query, "cell_type", probabilities=probabilities.set_axis([f"x{i}" for i in range(61)]))


class TestCrossValidate:
    def test_trains_and_predicts_every_cell_once(self, reference, brief, snapshot, changed):
        before = snapshot(reference)
        result = tl.cross_validate(reference, "cell_type", n_splits=3, batch_key="batch", **{**brief, "max_epochs": 2})
        assert changed(before, reference) == set()
        assert list(result.predictions.index) == list(reference.obs_names)
        assert result.predictions.notna().all(axis=None)
        assert result.predictions["fold"].value_counts().tolist() == [33, 32, 32]
        right = result.predictions["predicted"].astype(str) == reference.obs["cell_type"]
        assert right.mean() > 0.8
        assert result.pooled.summary["accuracy"] == pytest.approx(right.mean())
        by_fold = right.groupby(result.predictions["fold"], observed=True).mean()
        accuracy = result.folds.query("metric == 'accuracy'").set_index("fold")["value"]
        np.testing.assert_allclose(accuracy[by_fold.index], by_fold)
        assert result.summary.loc["accuracy", "mean"] == pytest.approx(by_fold.mean())
        assert result.summary.loc["macro_auc", "mean"] > 0.9
        assert "macro_f1" in str(result)

    def test_same_seed_gives_the_same_result(self, make_adata, brief):
        found = [
            tl.cross_validate(make_adata(), "cell_type", n_splits=2, seed=seed, **brief).predictions["confidence"]
            for seed in (3, 3, 4)
        ]
        np.testing.assert_array_equal(found[0], found[1])
        assert not np.array_equal(found[0], found[2])

    def test_no_cell_is_on_both_sides_of_a_split(self, reference, seen):
        tl.cross_validate(reference, "cell_type", n_splits=4, batch_key="batch", progress=False)
        assert len(seen) == 4
        for train, test in seen:
            assert set(train.obs_names) & set(test.obs_names) == set()
            assert len(train) + len(test) == 97
            np.testing.assert_array_equal(train.X.toarray(), reference[train.obs_names].X.toarray())
            np.testing.assert_array_equal(test.X.toarray(), reference[test.obs_names].X.toarray())

    def test_oversampling_draws_training_cells_only(self, reference, brief, monkeypatch):
        """By cell id: all that reaches the module in training, and no held-out cell."""
        sides, fit = [], _cross_validate.fit_reference

        def spy(train, *args, **kwargs):
            model = fit(train, *args, **kwargs)
            sides.append((set(train.obs_names), set(model.adata.obs_names)))
            return model

        monkeypatch.setattr(_cross_validate, "fit_reference", spy)
        result = tl.cross_validate(reference, "cell_type", n_splits=2, **brief)
        for (train, registered), fold in zip(sides, ("1", "2"), strict=True):
            held_out = set(result.predictions.index[result.predictions["fold"] == fold])
            assert registered == train
            assert train & held_out == set()
            assert train | held_out == set(reference.obs_names)

    def test_labels_of_held_out_cells_are_out_of_reach(self, reference, brief, monkeypatch):
        queries, load = [], TransAnno.load_query_data.__func__

        def spy(cls, query, *args, **kwargs):
            queries.append(list(query.obs))
            return load(cls, query, *args, **kwargs)

        monkeypatch.setattr(TransAnno, "load_query_data", classmethod(spy))
        tl.cross_validate(reference, "cell_type", n_splits=2, batch_key="batch", **brief)
        assert queries == [["batch"], ["batch"]]

    def test_genes_are_chosen_without_the_held_out_cells(self, reference, brief, monkeypatch):
        genes, fit = [], _cross_validate.fit_reference

        def spy(train, *args, **kwargs):
            model = fit(train, *args, **kwargs)
            genes.append((list(model.genes), list(tl.select_genes(train, n_top_genes=23))))
            return model

        monkeypatch.setattr(_cross_validate, "fit_reference", spy)
        tl.cross_validate(reference, "cell_type", n_splits=2, n_top_genes=23, **brief)
        assert all(used == chosen for used, chosen in genes)
        assert genes[0][0] != genes[1][0]

    def test_groups_and_types_that_only_one_of_them_has(self, reference, seen):
        reference.obs["donor"] = np.array(["d1", "d2", "d3"])[np.arange(97) % 3]
        of_d2 = np.flatnonzero(reference.obs["donor"] == "d2")[:5]
        reference.obs.iloc[of_d2, reference.obs.columns.get_loc("cell_type")] = "Mast cell"
        result = tl.cross_validate(reference, "cell_type", groups_key="donor", progress=False)
        assert list(result.evaluations) == ["d1", "d2", "d3"]
        assert result.unseen.to_dict() == {"Mast cell": 5}
        assert result.evaluations["d2"].unseen.to_dict() == {"Mast cell": 5}
        assert result.pooled.summary["n_cells"] == 92
        assert (result.predictions["fold"].astype(str) == reference.obs["donor"]).all()

    def test_copies_across_a_split_are_reported(self, reference, seen):
        doubled = ad.concat([reference, reference[:11]], index_unique="-")
        with pytest.warns(UserWarning, match="of 108 held-out cells have the same counts as a training cell"):
            result = tl.cross_validate(doubled, "cell_type", n_splits=3, progress=False)
        n_crossing = 0
        for i in range(11):
            first, second = result.predictions["fold"].iloc[[i, 97 + i]]
            n_crossing += 2 * (first != second)
        assert n_crossing > 0
        assert result.n_duplicates.sum() == n_crossing
        values = result.folds.query("metric == 'n_duplicates'")["value"]
        assert values.sum() == n_crossing

    def test_copies_are_dropped_on_request(self, reference, seen):
        doubled = ad.concat([reference, reference[:11]], index_unique="-")
        result = tl.cross_validate(doubled, "cell_type", n_splits=3, drop_duplicates=True, progress=False)
        assert result.n_dropped == 11
        assert result.n_duplicates.sum() == 0
        assert result.predictions["predicted"].isna().tolist() == [False] * 97 + [True] * 11
        assert result.pooled.n_unlabeled == 0

    def test_rare_types_are_reported(self, reference, seen):
        reference.obs.iloc[:1, 0] = "Mast cell"
        with pytest.warns(UserWarning, match=r"1 type\(s\) have fewer cells than n_splits=3: Mast cell \(1\)"):
            result = tl.cross_validate(reference, "cell_type", n_splits=3, progress=False)
        assert result.rare.to_dict() == {"Mast cell": 1}
        assert result.unseen.to_dict() == {"Mast cell": 1}
        assert result.summary.loc["accuracy_with_unseen", "n"] == 3

    def test_unlabeled_cells_are_left_out(self, reference, seen):
        reference.obs["cell_type"] = reference.obs["cell_type"].astype(object)
        reference.obs.iloc[:5, 0] = None
        reference.obs.iloc[5:8, 0] = "dunno"
        result = tl.cross_validate(
            reference, "cell_type", n_splits=2, unlabeled_category="dunno", progress=False, key_added="cv"
        )
        assert result.pooled.n_unlabeled == 8
        assert result.predictions["fold"].isna().sum() == 8
        assert reference.obs["cv"].isna().to_numpy().nonzero()[0].tolist() == list(range(8))

    def test_key_added(self, reference, seen, snapshot, changed):
        before = snapshot(reference)
        result = tl.cross_validate(reference, "cell_type", n_splits=2, key_added="cv", progress=False)
        assert changed(before, reference) == {"obs[cv]", "obs[cv_confidence]", "obs[cv_fold]"}
        assert list(reference.obs["cv"]) == list(result.predictions["predicted"])
        scores = tl.evaluate(reference, "cell_type", key_added="cv").summary
        assert scores["macro_f1"] == pytest.approx(result.pooled.summary["macro_f1"])

    def test_threshold(self, reference, seen):
        result = tl.cross_validate(reference, "cell_type", n_splits=2, unassigned_threshold=0.6, progress=False)
        is_unassigned = result.predictions["predicted"] == "Unassigned"
        np.testing.assert_array_equal(is_unassigned, result.predictions["confidence"] < 0.6)
        assert result.pooled.summary["coverage"] == pytest.approx(1 - is_unassigned.mean())
        assert 0 < is_unassigned.mean() < 1

    @pytest.mark.parametrize("container", [np.asarray, sp.csc_matrix], ids=["dense", "csc"])
    def test_any_container_and_layer(self, container, make_adata, seen):
        adata = make_adata(container=container, dtype="int32")
        adata.layers["counts"] = adata.X
        adata.X = np.zeros(adata.shape)
        tl.cross_validate(adata, "cell_type", n_splits=2, layer="counts", progress=False)
        expected = make_adata()
        for train, _ in seen:
            np.testing.assert_array_equal(train.X.toarray(), expected[train.obs_names].X.toarray())

    def test_refused(self, reference, make_mdata, seen):
        with pytest.raises(KeyError, match="groups_key='donor' is not a column"):
            tl.cross_validate(reference, "cell_type", groups_key="donor")
        reference.obs["donor"] = ["d1"] * 90 + [None] * 7
        with pytest.raises(ValueError, match="7 of 97 labeled cells have no value in obs\\['donor'\\]"):
            tl.cross_validate(reference, "cell_type", groups_key="donor")
        with pytest.raises(ValueError, match="key_added='batch' is the column"):
            tl.cross_validate(reference, "cell_type", batch_key="batch", key_added="batch")
        with pytest.raises(TypeError, match=r'mdata\["rna"\]'):
            tl.cross_validate(make_mdata(), "cell_type")
        reference.obs["cell_type"] = "Unlabeled"
        with pytest.raises(ValueError, match="No cell is labeled"):
            tl.cross_validate(reference, "cell_type")
        assert seen == []


class TestUnassigned:
    def test_cells_below_the_threshold(self, model, query):
        probabilities = model.predict(query, soft=True, key_added=None)
        threshold = float(probabilities.max(axis=1).median())
        labels = model.predict(query, unassigned_threshold=threshold)
        expected = np.where(
            probabilities.max(axis=1) < threshold,
            "Unassigned",
            probabilities.columns[probabilities.to_numpy().argmax(1)],
        )
        assert labels.tolist() == expected.tolist()
        assert (labels == "Unassigned").sum() == 30  # the median cell is not below
        assert list(query.obs["transanno"]) == list(labels)
        np.testing.assert_array_equal(query.obs["transanno_confidence"], probabilities.max(axis=1))

    def test_probabilities_stay_as_they_are(self, model, query):
        expected = model.predict(query, soft=True, key_added=None)
        found = model.predict(query, soft=True, unassigned_threshold=0.99)
        pd.testing.assert_frame_equal(found, expected)
        assert list(found.columns) == list(model.labels)
        assert "Unassigned" in set(query.obs["transanno"])

    def test_off_by_default(self, model, query):
        assert "Unassigned" not in model.predict(query)
        assert list(query.obs["transanno"].cat.categories) == list(model.labels)

    def test_annotate(self, model, query):
        tl.annotate(query, model=model, refine=False, unassigned_threshold=0.99)
        np.testing.assert_array_equal(query.obs["transanno"] == "Unassigned", query.obs["transanno_confidence"] < 0.99)
        assert (query.obs["transanno"] == "Unassigned").any()

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan, "0.5", True])
    def test_a_threshold_is_a_probability(self, threshold, model, reference, query):
        with pytest.raises(ValueError, match="Allowed: a probability from 0 to 1"):
            model.predict(query, unassigned_threshold=threshold)
        with pytest.raises(ValueError, match="Allowed: a probability from 0 to 1"):
            tl.annotate(query, reference, labels_key="cell_type", unassigned_threshold=threshold)
        assert "transanno" not in query.obs

    def test_a_type_called_unassigned_is_refused(self, reference, query, small, fast):
        reference.obs["cell_type"] = reference.obs["cell_type"].replace("NK cell", "Unassigned")
        for function in (
            lambda: tl.annotate(query, reference, labels_key="cell_type", unassigned_threshold=0.5),
            lambda: tl.cross_validate(reference, "cell_type", unassigned_threshold=0.5),
        ):
            with pytest.raises(ValueError, match="The reference has a type called 'Unassigned'"):
                function()
        with pytest.warns(TransAnnoWarning, match="a label that usually means none"):
            TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        with pytest.raises(ValueError, match="The reference has a type called 'Unassigned'"):
            model.predict(unassigned_threshold=0.5)
        assert set(model.predict()) <= set(model.labels)


def test_labels_are_in_the_order_of_the_logits(model):
    assert model.labels.tolist() == ["B cell", "NK cell", "T cell"]
    assert model.labels.dtype.kind == "U"


def test_metrics_are_loaded_lazily():
    assert transanno.metrics.evaluate(["T"], ["T"]).summary["accuracy"] == 1.0
