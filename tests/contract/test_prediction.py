"""Conformance 25-34: what ``predict`` returns, writes and refuses."""

from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch

from transanno import TransAnno, TransAnnoPretrain
from transanno.data._counts import MatrixCounts
from transanno.predictions._neighbors import Surroundings
from transanno.predictions._refine import refine_probabilities

TYPES = ["B cell", "NK cell", "T cell"]


class TestResult:
    """Conformance 25, 31, 33, 34."""

    def test_hard_predictions_are_an_array_of_str(self, model, reference):
        # conformance 25
        labels = model.predict()
        assert isinstance(labels, np.ndarray)
        assert labels.shape == (97,)
        assert labels.dtype.kind == "U"
        assert set(labels) <= set(TYPES)
        assert (labels == reference.obs["cell_type"].to_numpy()).mean() > 0.9  # in the order of obs

    def test_soft_predictions_are_a_frame_of_probabilities(self, model, reference):
        # conformance 25
        frame = model.predict(soft=True)
        assert isinstance(frame, pd.DataFrame)
        assert list(frame.index) == list(reference.obs_names)
        assert list(frame.columns) == TYPES
        assert ((frame >= 0) & (frame <= 1)).all(axis=None)
        np.testing.assert_allclose(frame.sum(axis=1), 1.0, atol=1e-12)
        np.testing.assert_array_equal(frame.columns[frame.to_numpy().argmax(axis=1)], model.predict())

    def test_unlabeled_category_is_never_predicted(self, reference, small, fast):
        # conformance 25
        reference.obs.loc[reference.obs_names[::2], "cell_type"] = "Unlabeled"
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        assert list(model.predict(soft=True).columns) == TYPES
        assert "Unlabeled" not in model.predict()

    def test_prediction_is_deterministic_and_draws_nothing(self, model, query):
        # conformance 31
        state = torch.random.get_rng_state()
        numpy_state = np.random.get_state()[1].copy()
        first, second = model.predict(query, soft=True), model.predict(query, soft=True)
        pd.testing.assert_frame_equal(first, second, check_exact=True)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert np.array_equal(np.random.get_state()[1], numpy_state)

    @pytest.mark.parametrize("method", ["predict", "get_latent_representation"])
    def test_no_autograd_graph_is_built(self, method, model, monkeypatch):
        # conformance 31
        inference, seen = model.module.inference, []

        def spy(*args, **kwargs):
            seen.append(torch.is_grad_enabled())
            return inference(*args, **kwargs)

        monkeypatch.setattr(model.module, "inference", spy)
        getattr(model, method)()
        assert seen == [False]

    def test_dropout_is_off_even_in_train_mode(self, model):
        expected = model.predict(soft=True)
        model.module.train()
        pd.testing.assert_frame_equal(model.predict(soft=True), expected, check_exact=True)

    @pytest.mark.parametrize("fixture", ["model", "pretrained"])
    def test_latent_representation(self, fixture, request):
        # conformance 33
        model = request.getfixturevalue(fixture)
        latent = model.get_latent_representation()
        assert latent.shape == (97, 22)
        assert np.isfinite(latent).all()
        model.adata.obsm["X_transanno"] = latent
        sc.pp.neighbors(model.adata, use_rep="X_transanno", method="gauss")
        assert model.adata.obsp["connectivities"].shape == (97, 97)

    def test_latent_representation_separates_types(self, model, reference):
        latent, labels = model.get_latent_representation(), reference.obs["cell_type"].to_numpy()
        centers = np.stack([latent[labels == label].mean(axis=0) for label in TYPES])
        nearest = np.argmin(((latent[:, None] - centers) ** 2).sum(axis=-1), axis=1)
        assert (np.array(TYPES)[nearest] == labels).mean() > 0.8

    def test_latent_representation_takes_scvi_arguments(self, model, query):
        expected = model.get_latent_representation(query)
        np.testing.assert_allclose(
            model.get_latent_representation(query, None, True, batch_size=256), expected, atol=1e-5
        )
        np.testing.assert_allclose(model.get_latent_representation(query, [5, 2]), expected[[5, 2]], atol=1e-5)

    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_untrained_model_warns(self, cls, reference, small):
        # conformance 34
        cls.setup_anndata(reference, **({"labels_key": "cell_type"} if cls is TransAnno else {}))
        model = cls(reference, **small)
        with pytest.warns(UserWarning, match="untrained model"):
            model.get_latent_representation()
        if cls is TransAnno:
            with pytest.warns(UserWarning, match="untrained model"):
                model.predict()


class TestIndices:
    """Conformance 26: order and kind of ``indices``."""

    SELECTIONS = [
        pytest.param(np.array([3, 5, 7]), id="integers"),
        pytest.param([41, 3, 60, 0], id="unsorted list"),
        pytest.param(np.array([5, 5, 2, 5]), id="repeated"),
        pytest.param(np.array([-1, 4]), id="negative"),
        pytest.param(np.arange(97) % 3 == 1, id="mask"),
        pytest.param(pd.Series(np.arange(97) % 3 == 1), id="mask as Series"),
        pytest.param(list(np.arange(97) % 3 == 1), id="mask as list"),
        pytest.param(np.array([], dtype=int), id="empty"),
        pytest.param([], id="empty list"),
        pytest.param(np.zeros(97, dtype=bool), id="empty mask"),
    ]

    @pytest.mark.parametrize("selection", SELECTIONS)
    @pytest.mark.parametrize("where", ["registered", "copy", "backed"])
    def test_order_is_kept(self, selection, where, model, reference, tmp_path):
        everything = model.predict(soft=True, key_added=None)
        latent = model.get_latent_representation()
        adata = {"registered": None, "copy": reference.copy(), "backed": None}[where]
        if where == "backed":
            reference.write_h5ad(tmp_path / "cells.h5ad")
            adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        rows = np.arange(97)[np.asarray(selection, dtype=bool if len(selection) == 97 else int)]
        found = model.predict(adata, selection, soft=True, key_added=None)
        np.testing.assert_allclose(found, everything.iloc[rows], atol=1e-6)
        assert list(found.index) == list(everything.index[rows])
        assert list(found.columns) == TYPES
        np.testing.assert_array_equal(
            model.predict(adata, selection, key_added=None), everything.columns[found.to_numpy().argmax(axis=1)]
        )
        found = model.get_latent_representation(adata, selection)
        assert found.shape == (len(rows), 22)
        np.testing.assert_allclose(found, latent[rows], atol=1e-5)
        if where == "backed":
            adata.file.close()

    def test_registered_backed_data(self, saved_reference, reference, model, tmp_path):
        reference.write_h5ad(tmp_path / "cells.h5ad")
        backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        loaded = TransAnno.load(saved_reference, backed, accelerator="cpu")
        order = [90, 2, 2, 41]
        expected = model.predict(soft=True, key_added=None).iloc[order]
        np.testing.assert_allclose(loaded.predict(indices=order, soft=True, key_added=None), expected, atol=1e-6)
        backed.file.close()

    @pytest.mark.parametrize("selection", [[97], [-98], np.ones(96, dtype=bool)], ids=["high", "low", "short mask"])
    def test_out_of_range(self, selection, model):
        with pytest.raises(IndexError):
            model.predict(indices=selection)

    @pytest.mark.parametrize("batch_size", [1, 7, 96, 97, 1000])
    def test_minibatch_size_changes_nothing(self, batch_size, model):
        expected = model.predict(soft=True, key_added=None)
        found = model.predict(soft=True, key_added=None, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-6)


class TestInputs:
    """Conformance 27-30."""

    def test_new_data(self, model, query):
        # conformance 27
        labels = model.predict(query)
        assert (labels == query.obs["cell_type"].to_numpy()).mean() > 0.9
        assert not any(column.startswith("_scvi") for column in query.obs)
        assert not any(key.startswith("_scvi") for key in query.uns)

    def test_view(self, model, reference, query):
        # conformance 27
        expected = model.predict(query[10:30].copy(), soft=True, key_added=None)
        view = query[10:30]
        np.testing.assert_allclose(model.predict(view, soft=True), expected, atol=1e-6)
        assert list(view.obs["transanno"]) == list(expected.columns[expected.to_numpy().argmax(axis=1)])
        assert "transanno" not in query.obs
        of_registered = model.predict(reference[5:9], soft=True, key_added=None)
        expected = model.predict(reference[5:9].copy(), soft=True, key_added=None)
        np.testing.assert_allclose(of_registered, expected, atol=1e-6)

    @pytest.mark.parametrize("batch_size", [31, 97])
    @pytest.mark.parametrize("method", ["predict", "get_latent_representation"])
    def test_dataloader(self, method, batch_size, model, reference, snapshot, changed):
        # conformance 27; of a data set that comes in parts the mean is not known, and the reference's stands in
        before = snapshot(reference)
        batch = torch.tensor([["batch1", "batch2"].index(value) for value in reference.obs["batch"]])[:, None]
        with torch.inference_mode():
            outputs = model.module.inference(torch.from_numpy(reference.X.toarray()), batch)
        expected = outputs["logits"].softmax(dim=1) if method == "predict" else outputs["z"]
        arguments = {"soft": True} if method == "predict" else {}
        dataloader = model._make_data_loader(reference, batch_size=batch_size, shuffle=False)
        found = getattr(model, method)(dataloader=dataloader, **arguments)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert changed(before, reference) == set()

    def test_dataloader_excludes_data(self, model, reference):
        with pytest.raises(ValueError, match="dataloader"):
            model.predict(reference, dataloader=[])
        with pytest.raises(ValueError, match="refine"):
            model.predict(dataloader=model._make_data_loader(reference), refine=True)

    def test_new_data_without_labels(self, model, query):
        # conformance 28
        expected = model.predict(query, soft=True, key_added=None)
        del query.obs["cell_type"]
        pd.testing.assert_frame_equal(model.predict(query, soft=True), expected)

    def test_labels_of_new_data_have_no_influence(self, model, query):
        # conformance 28
        expected = model.predict(query, soft=True, key_added=None)
        query.obs["cell_type"] = "A type of which the model has never heard"
        pd.testing.assert_frame_equal(model.predict(query, soft=True), expected)

    def test_genes_in_another_order_are_matched_by_name(self, model, query):
        # conformance 29, matched instead of refused
        expected = model.predict(query, soft=True, key_added=None)
        shuffled = query[:, np.random.default_rng(0).permutation(query.n_vars)].copy()
        np.testing.assert_allclose(model.predict(shuffled, soft=True), expected, atol=1e-6)

    @pytest.mark.parametrize("method", ["predict", "get_latent_representation"])
    def test_wrong_genes_are_an_error_with_counts(self, method, model, query):
        # conformance 29
        query.var_names = [f"OTHER{i}" for i in range(40)] + list(query.var_names[40:])
        with pytest.raises(ValueError, match="Only 13 of the 53 genes.* at least 20 are needed"):
            getattr(model, method)(query)

    @pytest.mark.parametrize("method", ["predict", "get_latent_representation"])
    def test_unseen_batch_is_an_error_that_names_the_way(self, method, model, new_batch_query):
        # conformance 30
        with pytest.raises(ValueError, match=re.escape("'batch3'") + ".*load_query_data"):
            getattr(model, method)(new_batch_query)

    def test_unseen_batch_in_pretraining(self, pretrained, new_batch_query):
        # conformance 30
        # BUG: it points to TransAnno.load_query_data, which takes no pretrained model
        with pytest.raises(ValueError, match="'batch3'") as error:
            pretrained.get_latent_representation(new_batch_query)
        assert "load_query_data" not in str(error.value)

    def test_missing_batch_column_is_an_error_that_names_the_way(self, model, query):
        # conformance 30
        del query.obs["batch"]
        with pytest.raises(ValueError, match="load_query_data"):
            model.predict(query)

    def test_not_raw_counts_are_an_error(self, model, query):
        sc.pp.normalize_total(query, target_sum=1e4)
        query.X = query.X.toarray()
        sc.pp.scale(query)
        with pytest.raises(ValueError, match="raw counts"):
            model.predict(query)

    def test_other_types_are_an_error(self, model, make_mdata):
        with pytest.raises(TypeError, match="DataFrame"):
            model.predict(pd.DataFrame())
        with pytest.raises(TypeError, match="MuData"):
            model.predict(make_mdata())

    def test_registered_data_may_be_changed_after_training(self, model, reference):
        labels = model.predict(key_added=None)
        reference._inplace_subset_obs(np.arange(97)[::-2])
        np.testing.assert_array_equal(model.predict(), labels[::-2])
        assert list(reference.obs["transanno"]) == list(labels[::-2])


class TestWriting:
    """Conformance 32, writing by default."""

    def test_default_writes_category_and_confidence(self, model, reference, snapshot, changed):
        before = snapshot(reference)
        labels = model.predict()
        assert changed(before, reference) == {"obs[transanno]", "obs[transanno_confidence]"}
        assert isinstance(reference.obs["transanno"].dtype, pd.CategoricalDtype)
        assert list(reference.obs["transanno"]) == list(labels)
        confidence = model.predict(soft=True, key_added=None).max(axis=1)
        np.testing.assert_array_equal(reference.obs["transanno_confidence"], confidence)

    def test_key_added(self, model, reference, snapshot, changed):
        before = snapshot(reference)
        model.predict(key_added="mine", soft=True)
        assert changed(before, reference) == {"obs[mine]", "obs[mine_confidence]"}

    def test_none_writes_nothing(self, model, reference, query, snapshot, changed):
        before = snapshot(reference), snapshot(query)
        model.predict(key_added=None)
        model.predict(query, key_added=None)
        assert changed(before[0], reference) == changed(before[1], query) == set()

    def test_new_data_are_written_to(self, model, query, snapshot, changed):
        before = snapshot(query)
        labels = model.predict(query)
        assert changed(before, query) == {"obs[transanno]", "obs[transanno_confidence]"}
        assert list(query.obs["transanno"]) == list(labels)

    def test_only_chosen_cells_get_a_value(self, model, query):
        labels = model.predict(query, [40, 3])
        assert list(query.obs["transanno"].iloc[[40, 3]]) == list(labels)
        assert query.obs["transanno"].isna().sum() == query.obs["transanno_confidence"].isna().sum() == 59

    def test_categories_are_those_found(self, model, query):
        is_b_cell = (query.obs["cell_type"] == "B cell").to_numpy()
        labels = model.predict(query, is_b_cell)
        assert list(query.obs["transanno"].cat.categories) == sorted(set(labels))

    def test_result_can_be_saved(self, model, query, tmp_path):
        model.predict(query)
        query.write_h5ad(tmp_path / "query.h5ad")
        read = ad.read_h5ad(tmp_path / "query.h5ad")
        assert list(read.obs["transanno"]) == list(query.obs["transanno"])

    def test_repeated_cell_names(self, model, query):
        expected = model.predict(query, key_added=None)
        query.obs_names = ["cell"] * query.n_obs
        assert list(model.predict(query)) == list(expected)
        assert list(query.obs["transanno"]) == list(expected)


class TestRefine:
    """``refine=True`` uses the cells that are predicted together."""

    def test_rows_sum_to_one(self, model, query):
        refined = model.predict(query, soft=True, refine=True)
        np.testing.assert_allclose(refined.sum(axis=1), 1.0, atol=1e-9)
        assert (query.obs["transanno_confidence"].to_numpy() == refined.max(axis=1).to_numpy()).all()

    def test_registered_data_and_a_copy_agree(self, model, reference):
        found = model.predict(reference.copy(), soft=True, refine=True)
        np.testing.assert_allclose(found, model.predict(soft=True, refine=True), atol=1e-6)

    def test_a_few_cells_are_left_alone(self, model, query):
        expected = model.predict(query[:49], soft=True, key_added=None)
        pd.testing.assert_frame_equal(model.predict(query[:49], soft=True, refine=True), expected)

    def test_indices(self, model, reference):
        """Own probabilities are those of the whole data set, neighbors those among the chosen cells."""
        order = np.random.default_rng(0).permutation(97)[:61]
        found = model.predict(indices=order, soft=True, refine=True)
        own = model.predict(soft=True, key_added=None).iloc[order]
        expected = refine_probabilities(own.to_numpy(), Surroundings.of(MatrixCounts(reference.X), order))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert list(found.index) == list(own.index)

    def test_order_of_cells_has_no_influence(self, model):
        order = np.random.default_rng(0).permutation(97)
        found = model.predict(indices=order, soft=True, refine=True)
        np.testing.assert_allclose(found, model.predict(soft=True, refine=True).iloc[order], atol=1e-3)


class TestMeanOfTheDataSet:
    """Cells are compared with the mean of the data set that they are of."""

    @staticmethod
    def mean_by_hand(model, adata) -> np.ndarray:
        """The mean of the reference counts as five more cells."""
        counts = adata.X.toarray().astype(float)
        expression = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4)
        of_reference = model.module.mean_expression.double().numpy()
        return (expression.sum(axis=0) + 5 * of_reference) / (len(counts) + 5)

    def center_of(self, model, monkeypatch, *args, **kwargs) -> np.ndarray:
        """What the module is told when cells are predicted."""
        seen, inference = [], model.module.inference

        def spy(x, batch, is_missing, center):
            seen.append(center.numpy().copy())
            return inference(x, batch, is_missing, center)

        with monkeypatch.context() as patch:
            patch.setattr(model.module, "inference", spy)
            model.predict(*args, key_added=None, **kwargs)
        assert all(np.array_equal(center, seen[0]) for center in seen)
        return seen[0]

    @pytest.mark.parametrize("n_cells", [1, 2, 61])
    def test_is_that_of_all_cells_and_a_little_of_the_reference(self, n_cells, model, query, monkeypatch):
        cells = query[:n_cells].copy()
        found = self.center_of(model, monkeypatch, cells)
        np.testing.assert_allclose(found, self.mean_by_hand(model, cells), rtol=1e-4, atol=1e-5)

    def test_does_not_depend_on_indices_or_minibatches(self, model, query, monkeypatch):
        expected = self.center_of(model, monkeypatch, query)
        for indices, batch_size in (([3, 5], None), ([60], 1), (None, 7), (np.arange(61)[::-1], 13)):
            found = self.center_of(model, monkeypatch, query, indices, batch_size=batch_size)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def test_of_registered_cells(self, model, reference, monkeypatch):
        found = self.center_of(model, monkeypatch)
        np.testing.assert_allclose(found, self.mean_by_hand(model, reference), rtol=1e-4, atol=1e-5)

    def test_of_a_large_data_set_is_that_of_a_sample(self, model, query, monkeypatch):
        monkeypatch.setattr("transanno.predictions._run.N_CENTER_CELLS", 7)
        found = self.center_of(model, monkeypatch, query)
        np.testing.assert_allclose(found, self.mean_by_hand(model, query[::10].copy()), rtol=1e-4, atol=1e-5)

    def test_genes_that_the_data_lack_do_not_matter(self, model, query, monkeypatch):
        fewer = query[:, 3:].copy()
        found = self.center_of(model, monkeypatch, fewer)
        counts = query.copy()
        counts.X = counts.X.multiply(np.arange(53) >= 3).tocsr()
        np.testing.assert_allclose(found[3:], self.mean_by_hand(model, counts)[3:], rtol=1e-4, atol=1e-5)

    def test_company_matters(self, model, query):
        """The same cells in another data set: their own composition is what they are compared with."""
        alone = model.predict(query[:10].copy(), soft=True, key_added=None)
        among_others = model.predict(query, soft=True, key_added=None).iloc[:10]
        assert not np.allclose(alone, among_others, atol=1e-4)
        assert (alone.to_numpy().argmax(axis=1) == among_others.to_numpy().argmax(axis=1)).mean() > 0.7

    def test_one_cell(self, model, query):
        single = [model.predict(query[[i]].copy(), key_added=None)[0] for i in range(23)]
        assert (np.array(single) == query.obs["cell_type"].to_numpy()[:23]).mean() > 0.8
        probabilities = model.predict(query[[7]].copy(), soft=True)
        assert np.isfinite(probabilities.to_numpy()).all()

    def test_one_type_alone(self, model, query):
        """Without other types the mean of the data set is that of the type, and the experts that know it must not win."""
        for label in TYPES:
            cells = query[query.obs["cell_type"] == label].copy()
            assert (model.predict(cells, key_added=None) == label).mean() > 0.8

    @pytest.mark.parametrize("n_cells", [2, 61])
    def test_cells_without_counts(self, n_cells, model, query):
        cells = query[:n_cells].copy()
        cells.X = (cells.X.toarray() * (np.arange(n_cells) == 1)[:, None]).astype("float32")
        with pytest.warns(UserWarning, match=f"{n_cells - 1} of {n_cells} cells have no count"):
            assert np.isfinite(model.predict(cells, soft=True).to_numpy()).all()
        assert np.isfinite(model.get_latent_representation(cells)).all()
