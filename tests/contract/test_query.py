"""Conformance 42-48, and queries as users have them."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch

from transanno import TransAnno, tl

TYPES = ["B cell", "NK cell", "T cell"]


def probabilities(model, adata=None):
    return model.predict(adata, soft=True, key_added=None)


def logits_by_hand(model, counts, batch, is_missing):
    """Counts and batch codes of a whole data set -> logits: with the mean of its cells, and of five of the reference."""
    counts, is_missing = torch.as_tensor(counts), torch.as_tensor(is_missing)
    expression = model.module.normalize(counts, is_missing[None, :])
    center = (expression.sum(dim=0) + 5 * model.module.mean_expression) / (len(counts) + 5)
    with torch.inference_mode():
        return model.module.inference(counts, batch, is_missing=is_missing, center=center)["logits"]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


class TestReference:
    """Conformance 42, 47, 48: what the reference may be, and that it stays as it is."""

    @pytest.mark.parametrize("as_type", [str, Path, None], ids=["str", "Path", "instance"])
    def test_folder_or_instance(self, as_type, model, saved_reference, query):
        # conformance 42
        reference = model if as_type is None else as_type(saved_reference)
        query_model = TransAnno.load_query_data(query, reference)
        np.testing.assert_allclose(probabilities(query_model), probabilities(model, query), atol=1e-6)

    def test_other_references_are_refused(self, model, pretrained, saved_pretrained, query, reference, small):
        # conformance 42
        with pytest.raises(TypeError, match="reference_model is a TransAnnoPretrain"):
            TransAnno.load_query_data(query, pretrained)
        with pytest.raises(ValueError, match="holds a TransAnnoPretrain"):
            TransAnno.load_query_data(query, saved_pretrained)
        with pytest.raises(TypeError, match="reference_model is a NoneType"):
            TransAnno.load_query_data(query, None)
        with pytest.raises(ValueError, match="is neither a folder nor the name of a registered model"):
            TransAnno.load_query_data(query, "no/such/folder")
        TransAnno.setup_anndata(reference, "cell_type")
        with pytest.raises(ValueError, match="not trained"):
            TransAnno.load_query_data(query, TransAnno(reference, **small))

    def test_reference_is_not_changed(self, model, reference, new_batch_query, fast, snapshot, changed):
        # conformance 48
        before, state = snapshot(reference), weights(model)
        registry, expected = repr(model.registry), probabilities(model)
        record = model.history["train_loss"].copy(), np.array(model.train_indices)
        query_model = TransAnno.load_query_data(new_batch_query, model)
        query_model.train(1, **fast)
        query_model.predict()
        assert changed(before, reference) == set()
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.module.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.module.parameters())
        assert repr(model.registry) == registry
        pd.testing.assert_frame_equal(probabilities(model), expected, check_exact=True)
        pd.testing.assert_frame_equal(model.history["train_loss"], record[0])
        np.testing.assert_array_equal(model.train_indices, record[1])
        assert model.n_reference_batches_ is None

    @pytest.mark.parametrize("trained", [False, True])
    def test_query_model_can_be_saved_and_loaded(self, trained, model, new_batch_query, query, fast, tmp_path):
        # conformance 47
        query_model = TransAnno.load_query_data(new_batch_query[:, 4:].copy(), model)
        if trained:
            query_model.train(2, **fast)
        expected = probabilities(query_model)
        query_model.save(tmp_path / "query", save_anndata=True)
        loaded = TransAnno.load(tmp_path / "query")
        pd.testing.assert_frame_equal(probabilities(loaded), expected, check_exact=True)
        assert loaded._registered_cells().is_missing.sum() == 4
        for adata in (new_batch_query[:, 4:], new_batch_query[:, 4:].copy()):
            loaded = TransAnno.load(tmp_path / "query", adata.copy())
            np.testing.assert_allclose(probabilities(loaded), expected, atol=1e-6)
        loaded = TransAnno.load(tmp_path / "query", adata=False)
        np.testing.assert_allclose(probabilities(loaded, new_batch_query[:, 4:].copy()), expected, atol=1e-6)
        np.testing.assert_allclose(probabilities(loaded, query), probabilities(model, query), atol=1e-6)

    @pytest.mark.parametrize("saved", [False, True])
    def test_query_model_as_reference(self, saved, model, new_batch_query, make_adata, fast, tmp_path):
        # conformance 47
        first = TransAnno.load_query_data(new_batch_query, model)
        first.train(1, **fast)
        third = make_adata(41, seed=5, batches=("batch3", "batch4"))
        if saved:
            first.save(tmp_path / "first")
        second = TransAnno.load_query_data(third, tmp_path / "first" if saved else first)
        assert second.module.batch_embedding.num_embeddings == 4
        state = weights(second)
        second.train(2, **fast)
        assert torch.equal(second.module.batch_embedding.weight[:3], state["batch_embedding.weight"][:3])
        assert not torch.equal(second.module.batch_embedding.weight[3], state["batch_embedding.weight"][3])
        assert (second.predict() == third.obs["cell_type"].to_numpy()).mean() > 0.9

    def test_query_model_can_learn_to_predict_others(self, model, new_batch_query):
        query_model = TransAnno.load_query_data(new_batch_query, model)
        expected = probabilities(query_model)
        np.testing.assert_allclose(probabilities(query_model, new_batch_query.copy()), expected, atol=1e-6)
        assert len(query_model.predict(new_batch_query[:5].copy())) == 5

    def test_query_model_starts_without_a_training_record(self, model, query):
        query_model = TransAnno.load_query_data(query, model)
        assert query_model.history is None
        assert query_model.train_indices is None
        assert query_model.is_trained


class TestLabels:
    """Conformance 43."""

    @pytest.mark.parametrize("labels", ["absent", "unlabeled", "NaN", "subset", "all", "categories"])
    def test_any_labels_of_the_query_give_the_same_predictions(self, labels, model, query):
        expected = probabilities(model, query)
        query.obs["cell_type"] = query.obs["cell_type"].astype(object)
        if labels == "absent":
            del query.obs["cell_type"]
        elif labels == "unlabeled":
            query.obs["cell_type"] = "Unlabeled"
        elif labels == "NaN":
            query.obs["cell_type"] = np.nan
        elif labels == "subset":
            query.obs.loc[query.obs["cell_type"] != "T cell", "cell_type"] = "Unlabeled"
        elif labels == "categories":
            query.obs["cell_type"] = pd.Categorical(query.obs["cell_type"], categories=[*TYPES, "Ghost"])
        before = query.obs.copy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*cells have no value", category=UserWarning)
            query_model = TransAnno.load_query_data(query, model)
        found = probabilities(query_model)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert list(found.columns) == TYPES
        pd.testing.assert_frame_equal(query.obs, before)

    def test_unseen_labels_are_listed(self, model, query):
        query.obs["cell_type"] = [*["Platypus", "Unicorn"], *query.obs["cell_type"].iloc[2:]]
        with pytest.raises(ValueError, match="2 of the labels.*'Platypus', 'Unicorn'.*mask"):
            TransAnno.load_query_data(query, model)

    def test_unseen_labels_can_be_masked(self, model, query, snapshot, changed):
        expected = probabilities(model, query)
        query.obs["cell_type"] = [*["Platypus", "Unicorn"], *query.obs["cell_type"].iloc[2:]]
        before = snapshot(query)
        # and without a warning, since the user asked for it
        query_model = TransAnno.load_query_data(query, model, unseen_labels="mask")
        np.testing.assert_allclose(probabilities(query_model), expected, atol=1e-6)
        assert changed(before, query) == set()

    def test_masking_reads_numbers_as_setup_does(self, reference, query, small, fast):
        """One missing value makes floats of integers: 1.0 is still the label 1."""
        codes = {"B cell": 1, "NK cell": 2, "T cell": 3}
        for adata in (reference, query):
            adata.obs["cell_type"] = adata.obs["cell_type"].map(codes).astype(int)
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        query.obs["cell_type"] = query.obs["cell_type"].astype(float).where(np.arange(query.n_obs) > 0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="1 cells have no value")
            query_model = TransAnno.load_query_data(query, model, unseen_labels="mask")
        labels = np.asarray(query_model.adata_manager.get_from_registry("labels")).ravel()
        assert (labels == 3).tolist() == [True, *[False] * (query.n_obs - 1)]

    def test_other_ways_with_unseen_labels_are_refused(self, model, query):
        with pytest.raises(ValueError, match="unseen_labels='ignore'"):
            TransAnno.load_query_data(query, model, unseen_labels="ignore")

    @pytest.mark.parametrize("how", ["default", "freeze_classifier", "unfrozen"])
    def test_labels_of_the_query_do_not_leak(self, how, model, new_batch_query, fast):
        # Accuracy on labels that were there while training says nothing; only who asks for it trains on them.
        states = []
        for shuffle in (False, True):
            adata = new_batch_query.copy()
            if shuffle:
                adata.obs["cell_type"] = np.random.default_rng(0).permutation(adata.obs["cell_type"].to_numpy())
            scvi.settings.seed = 3
            arguments = {
                "default": {},
                "freeze_classifier": {"freeze_classifier": False},
                "unfrozen": {"unfrozen": True},
            }
            query_model = TransAnno.load_query_data(adata, model, **arguments[how])
            # Labels decide, too, which cells of a reference are drawn.
            query_model.train(2, train_size=1.0, shuffle_set_split=False, **fast)
            states.append(query_model.module.state_dict())
        is_equal = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert is_equal == (how == "default")


class TestBatches:
    """Conformance 44, 45."""

    def test_only_the_rows_of_new_batches_move(self, model, new_batch_query, fast):
        # conformance 44
        reference = weights(model)
        query_model = TransAnno.load_query_data(new_batch_query, model)
        before = weights(query_model)
        query_model.train(3, plan_kwargs={"weight_decay": 0.3}, **fast)
        after = weights(query_model)
        assert before["batch_embedding.weight"].shape[0] == 3
        for name in after:
            if name != "batch_embedding.weight":
                assert torch.equal(after[name], reference[name]), name
        assert torch.equal(after["batch_embedding.weight"][:2], reference["batch_embedding.weight"])
        assert not torch.equal(after["batch_embedding.weight"][2], before["batch_embedding.weight"][2])
        assert len(query_model.history["train_loss"]) == 3

    def test_what_is_trainable(self, model, new_batch_query, monkeypatch, fast):
        # conformance 44: the exact set of trainable parameters, for every way to load
        seen = []
        monkeypatch.setattr(
            "transanno.models._transanno.run_training",
            lambda self, *_, **__: seen.append(
                {name for name, parameter in self.module.named_parameters() if parameter.requires_grad}
            ),
        )
        for arguments in ({}, {"freeze_classifier": False}, {"unfrozen": True}):
            TransAnno.load_query_data(new_batch_query, model, **arguments).train(1, **fast)
        everything = {name for name, _ in model.module.named_parameters()}
        classifier = {name for name in everything if name.startswith("classifier.")}
        assert seen == [{"batch_embedding.weight"}, {"batch_embedding.weight", *classifier}, everything]

    def test_new_batches_start_at_the_unknown_batch(self, model, new_batch_query):
        query_model = TransAnno.load_query_data(new_batch_query, model)
        assert torch.equal(query_model.module.batch_embedding.weight[2], model.module.unknown_batch)
        assert (query_model.predict() == new_batch_query.obs["cell_type"].to_numpy()).mean() > 0.9

    def test_adaptation_is_kept_whatever_it_does(self, model, new_batch_query, monkeypatch, fast):
        """Plain scArches: nothing is undone, and nobody is warned."""

        def move_embeddings(self, *_, **__):
            with torch.no_grad():
                self.module.batch_embedding.weight[2:] = 30 * torch.randn(self.module.batch_embedding.weight.shape[1])

        query_model = TransAnno.load_query_data(new_batch_query, model)
        state, before = weights(query_model), probabilities(query_model)
        monkeypatch.setattr("transanno.models._transanno.run_training", move_embeddings)
        query_model.train(1, **fast)
        assert not torch.equal(query_model.module.batch_embedding.weight, state["batch_embedding.weight"])
        assert not np.allclose(probabilities(query_model), before)

    def test_validation_cells_of_a_query(self, model, new_batch_query, fast):
        """Their hidden genes are predicted, one cell's not those of another, beside all experts."""
        query_model = TransAnno.load_query_data(new_batch_query, model)
        query_model.train(2, check_val_every_n_epoch=1, **fast)
        for name in ("validation_loss", "masked_accuracy_validation", "validation_accuracy"):
            assert len(query_model.history[name]) == 2
            assert np.isfinite(query_model.history[name].to_numpy(dtype=float)).all()

    def test_second_training_of_a_query_model(self, model, new_batch_query, fast):
        query_model = TransAnno.load_query_data(new_batch_query, model)
        query_model.train(1, **fast)
        state = weights(query_model)
        query_model.train(1, **fast)
        assert torch.equal(query_model.module.batch_embedding.weight[:2], state["batch_embedding.weight"][:2])
        assert not torch.equal(query_model.module.batch_embedding.weight[2], state["batch_embedding.weight"][2])

    def test_training_after_loading_the_query_model(self, model, new_batch_query, fast, tmp_path):
        query_model = TransAnno.load_query_data(new_batch_query, model)
        query_model.save(tmp_path / "query", save_anndata=True)
        loaded = TransAnno.load(tmp_path / "query")
        loaded.train(2, **fast)
        for name, tensor in loaded.module.state_dict().items():
            if name != "batch_embedding.weight":
                assert torch.equal(tensor, model.module.state_dict()[name]), name
        assert torch.equal(loaded.module.batch_embedding.weight[:2], model.module.batch_embedding.weight)

    def test_training_without_new_batches_is_a_warned_no_op(self, model, query, fast):
        # conformance 45
        query_model = TransAnno.load_query_data(query, model)
        before, state = probabilities(query_model), weights(query_model)
        with pytest.warns(UserWarning, match="Nothing to train"):
            query_model.train(2, **fast)
        assert all(torch.equal(tensor, state[name]) for name, tensor in query_model.module.state_dict().items())
        pd.testing.assert_frame_equal(probabilities(query_model), before, check_exact=True)
        assert query_model.history is None

    @pytest.mark.parametrize("arguments", [{"unfrozen": True}, {"freeze_classifier": False}], ids=str)
    def test_asked_for_training_works_without_new_batches(self, arguments, model, query, fast):
        # conformance 45
        query_model = TransAnno.load_query_data(query, model, **arguments)
        state = weights(query_model)
        query_model.train(1, **fast)
        moved = {n for n, tensor in query_model.module.state_dict().items() if not torch.equal(tensor, state[n])}
        assert any(name.startswith("classifier.") for name in moved)
        assert any(name.startswith("encoder.") for name in moved) == ("unfrozen" in arguments)

    def test_no_batch_column(self, model, query, fast):
        labels = query.obs["cell_type"].to_numpy()
        del query.obs["batch"]
        query_model = TransAnno.load_query_data(query, model)
        assert (query_model.predict() == labels).mean() > 0.9
        assert query_model.module.batch_embedding.num_embeddings == 3
        query_model.train(1, **fast)
        assert "batch" not in query.obs

    @pytest.mark.parametrize("value", [0, 7, "", np.nan, None, True], ids=repr)
    def test_odd_names_of_batches(self, value, model, query):
        query.obs["batch"] = pd.Series([value] * query.n_obs, index=query.obs_names, dtype=object)
        query_model = TransAnno.load_query_data(query, model)
        assert query_model.module.batch_embedding.num_embeddings == 3
        assert len(query_model.predict()) == query.n_obs

    def test_reference_without_batches(self, reference, new_batch_query, small, fast):
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(4, plan_kwargs={"lr": 5e-3}, **fast)
        query_model = TransAnno.load_query_data(new_batch_query, model)
        assert (query_model.predict() == new_batch_query.obs["cell_type"].to_numpy()).mean() > 0.9
        assert (model.predict(new_batch_query) == new_batch_query.obs["transanno"].to_numpy()).all()

    def test_reference_with_a_missing_batch(self, reference, query, small, fast):
        reference.obs.loc[reference.obs_names[:9], "batch"] = np.nan
        TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        assert model.module.batch_embedding.num_embeddings == 3
        query.obs.loc[query.obs_names[:5], "batch"] = np.nan
        assert len(model.predict(query)) == query.n_obs


def as_view(adata):
    return adata[np.arange(adata.n_obs)]


class TestUsersObject:
    """Conformance 46: queries as they come, read as they are and left as they were."""

    @pytest.mark.parametrize(
        "container",
        [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array],
        ids=["dense", "fortran", "csr", "csc", "csr_array", "csc_array"],
    )
    @pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8"])
    def test_container_and_dtype(self, container, dtype, model, make_adata, query):
        expected = probabilities(model, query)
        adata = make_adata(61, seed=1, container=container, dtype=dtype)
        found = probabilities(TransAnno.load_query_data(adata, model))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert adata.X.dtype == dtype
        assert type(adata.X) is type(container(np.zeros((2, 2))))

    @pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix], ids=["dense", "csr", "csc"])
    def test_backed(self, container, model, make_adata, tmp_path):
        adata = make_adata(61, seed=1, container=container)
        expected = probabilities(model, adata)
        path = tmp_path / "query.h5ad"
        adata[:, ::-1].copy().write_h5ad(path)
        content = path.read_bytes()
        backed = ad.read_h5ad(path, backed="r")
        query_model = TransAnno.load_query_data(backed, model)
        np.testing.assert_allclose(query_model.predict(soft=True), expected, atol=1e-6)
        np.testing.assert_allclose(model.predict(backed, soft=True), expected, atol=1e-6)
        assert backed.isbacked
        assert list(backed.obs["transanno"]) == list(expected.columns[expected.to_numpy().argmax(axis=1)])
        backed.file.close()
        assert path.read_bytes() == content

    def test_order_extra_missing_and_repeated_genes(self, model, query):
        """All at once, against counts put in place by hand."""
        rng = np.random.default_rng(0)
        dense = query.to_df()
        missing = list(dense.columns[[4, 31, 50]])
        expected_counts = dense.copy()
        expected_counts[missing] = 0.0
        columns = dense.drop(columns=missing)
        split = "GENE20"
        first = np.floor(columns[split] / 2)
        columns = columns.assign(**{split: first, "extra1": rng.poisson(9, 61), "extra2": 1.0})
        order = rng.permutation(columns.shape[1])
        adata = ad.AnnData(
            np.c_[columns.to_numpy()[:, order], (dense[split] - first).to_numpy()].astype("float32"),
            obs=query.obs.copy(),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # anndata: names are not unique
            adata.var_names = [*columns.columns[order], split]
        with pytest.warns(UserWarning, match="1 gene name.*occur more than once.*GENE20"):
            query_model = TransAnno.load_query_data(adata, model)
        assert set(model.genes[query_model._registered_cells().is_missing]) == set(missing)
        batch = torch.tensor([["batch1", "batch2"].index(value) for value in query.obs["batch"]])[:, None]
        counts = expected_counts.to_numpy(dtype="float32")
        logits = logits_by_hand(model, counts, batch, torch.from_numpy(query_model._registered_cells().is_missing))
        np.testing.assert_allclose(probabilities(query_model), logits.softmax(dim=1), atol=1e-6)

    def test_missing_genes_are_masked_not_zero(self, model, query):
        missing = np.arange(53) % 6 == 0
        fewer = query[:, ~missing].copy()
        counts = query.X.toarray()
        counts[:, missing] = 0.0
        zeros = ad.AnnData(counts, obs=query.obs.copy(), var=pd.DataFrame(index=query.var_names))
        batch = torch.tensor([["batch1", "batch2"].index(value) for value in query.obs["batch"]])[:, None]
        masked, as_zero = (
            logits_by_hand(model, counts, batch, is_missing) for is_missing in (missing, np.zeros(53, dtype=bool))
        )
        assert not torch.allclose(masked, as_zero, atol=1e-3)
        np.testing.assert_allclose(probabilities(model, fewer), masked.softmax(dim=1), atol=1e-6)
        np.testing.assert_allclose(
            probabilities(TransAnno.load_query_data(fewer, model)), masked.softmax(dim=1), atol=1e-6
        )
        np.testing.assert_allclose(probabilities(model, zeros), as_zero.softmax(dim=1), atol=1e-6)

    def test_counts_of_masked_genes_have_no_influence(self, model):
        is_missing = torch.arange(53) % 3 == 0
        counts = torch.poisson(torch.full((7, 53), 3.0))
        other = counts.masked_fill(is_missing, 500.0)
        batch = torch.zeros(7, 1, dtype=torch.long)
        with torch.inference_mode():
            outputs = [model.module.inference(x, batch, is_missing=is_missing) for x in (counts, other)]
        for key in ("z", "logits"):
            torch.testing.assert_close(outputs[0][key], outputs[1][key])

    def test_few_shared_genes_warn(self, model, query):
        with pytest.warns(UserWarning, match="Only 30 of the 53 genes.*masked"):
            query_model = TransAnno.load_query_data(query[:, :30].copy(), model)
        assert query_model.predict().shape == (61,)

    def test_too_few_shared_genes_are_an_error(self, model, query):
        with pytest.raises(ValueError, match="Only 19 of the 53"):
            TransAnno.load_query_data(query[:, :19].copy(), model)

    def test_one_cell(self, model, query):
        batch = torch.tensor([[["batch1", "batch2"].index(query.obs["batch"].iloc[7])]])
        logits = logits_by_hand(model, query.X[7].toarray(), batch, np.zeros(53, dtype=bool))
        for cell in (query[7], query[7].copy()):
            query_model = TransAnno.load_query_data(cell, model)
            np.testing.assert_allclose(query_model.predict(soft=True), logits.softmax(dim=1), atol=1e-6)
            assert query_model.predict() == cell.obs["cell_type"].to_numpy()
            assert query_model.get_latent_representation().shape == (1, 22)
            assert cell.obs["transanno"].notna().all()

    def test_no_cells_are_an_error(self, model, query):
        with pytest.raises(ValueError, match="0 cells"):
            TransAnno.load_query_data(query[:0].copy(), model)

    def test_cell_without_counts(self, model, query):
        query.X = query.X.toarray() * (np.arange(61) != 3)[:, None]
        with pytest.warns(UserWarning, match="1 of 61 cells have no count"):
            found = probabilities(TransAnno.load_query_data(query, model))
        assert np.isfinite(found.to_numpy()).all()

    @pytest.mark.parametrize("make", [lambda adata: adata, as_view], ids=["object", "view"])
    @pytest.mark.parametrize("how", ["load_query_data", "predict", "annotate"])
    def test_nothing_else_changes(self, how, make, model, query, snapshot, changed):
        rng = np.random.default_rng(0)
        adata = query[:, rng.permutation(query.n_vars)].copy()
        adata.raw = adata.copy()
        adata.layers["counts"] = adata.X.copy()
        adata.layers["scaled"] = rng.normal(size=adata.shape)
        adata.obsm["X_umap"] = rng.normal(size=(61, 2))
        adata.obsp["distances"] = sp.csr_matrix(rng.random((61, 61)))
        adata.varm["loadings"] = rng.normal(size=(53, 4))
        adata.uns["neighbors"] = {"params": {"k": 15}}
        adata.obs["_scvi_batch"] = "mine"
        adata.obs["clusters"] = pd.Categorical(rng.choice(["0", "1"], size=61), categories=["1", "0", "2"])
        parent, adata = adata, make(adata)
        before, before_parent = snapshot(adata), snapshot(parent)
        if how == "load_query_data":
            query_model = TransAnno.load_query_data(adata, model)
            assert changed(before, adata) == set()
            query_model.get_latent_representation()
            assert changed(before, adata) == set()
            query_model.predict(refine=True)
        elif how == "predict":
            model.predict(adata)
        else:
            tl.annotate(adata, model=model)
        expected = {"obs[transanno]", "obs[transanno_confidence]"}
        if how == "annotate":
            expected.add("obsm[X_transanno]")
        if parent is not adata:
            assert changed(before_parent, parent) == set()
            expected.add("is_view")  # writing makes a view an object of its own
        assert changed(before, adata) - {"type(X)"} == expected

    def test_predictions_go_into_the_users_object(self, model, query):
        query_model = TransAnno.load_query_data(query, model)
        labels = query_model.predict()
        assert list(query.obs["transanno"]) == list(labels)
        other = query[:9].copy()
        query_model.predict(other, key_added="mine")
        assert "mine" in other.obs
        assert "mine" not in query.obs

    def test_object_subset_after_loading(self, model, query):
        query_model = TransAnno.load_query_data(query, model)
        kept = np.arange(61)[::-3]
        expected = probabilities(model, query[kept].copy())
        query._inplace_subset_obs(kept)
        np.testing.assert_allclose(query_model.predict(soft=True), expected, atol=1e-6)
        assert list(query.obs_names) == list(expected.index)

    def test_layer(self, model, query):
        expected = probabilities(model, query)
        query.layers["counts"] = query.X.copy()
        query.X = np.random.default_rng(0).normal(size=query.shape)
        with pytest.warns(UserWarning, match=r'query.X holds no raw counts.*query.layers\["counts"\] are used'):
            found = probabilities(TransAnno.load_query_data(query, model))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        query.layers["other"] = query.layers["counts"]
        del query.layers["counts"]
        with pytest.raises(ValueError, match="raw counts"):
            TransAnno.load_query_data(query, model)
        query.layers["counts"] = query.layers["other"]
        del query.layers["other"]
        found = probabilities(TransAnno.load_query_data(query, model, layer="counts"))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        with pytest.raises(KeyError, match="layer='count'.*Did you mean 'counts'"):
            TransAnno.load_query_data(query, model, layer="count")

    def test_layer_of_the_reference(self, reference, query, small, fast):
        reference.layers["counts"] = reference.X.copy()
        TransAnno.setup_anndata(reference, "cell_type", layer="counts")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        with pytest.warns(UserWarning, match="layer='counts' is not a layer of query: of query, X is used"):
            TransAnno.load_query_data(query, model)
        query.layers["counts"], query.X = query.X.copy(), np.random.default_rng(0).normal(size=query.shape)
        query_model = TransAnno.load_query_data(query, model)
        np.testing.assert_allclose(probabilities(query_model), probabilities(model, query), atol=1e-6)

    def test_layer_without_x(self, model, query):
        expected = probabilities(model, query)
        query.layers["counts"], query.X = query.X.copy(), None
        query_model = TransAnno.load_query_data(query, model, layer="counts")
        np.testing.assert_allclose(query_model.predict(soft=True), expected, atol=1e-6)

    def test_unsorted_indices_of_a_sparse_matrix(self, model, query):
        expected = probabilities(model, query)
        x = sp.csr_matrix((query.X.data.copy(), query.X.indices.copy(), query.X.indptr.copy()), shape=query.shape)
        for start, stop in zip(x.indptr, x.indptr[1:], strict=False):
            x.indices[start:stop], x.data[start:stop] = x.indices[start:stop][::-1], x.data[start:stop][::-1]
        x.has_sorted_indices = False
        query.X = x
        indices = query.X.indices.copy()
        np.testing.assert_allclose(probabilities(TransAnno.load_query_data(query, model)), expected, atol=1e-6)
        np.testing.assert_array_equal(query.X.indices, indices)

    def test_data_of_the_model_can_be_replaced(self, model, query, make_adata):
        other = make_adata(31, seed=8)
        expected = probabilities(model, other)
        query_model = TransAnno.load_query_data(query[:, 3:].copy(), model)
        query_model.adata = other
        np.testing.assert_allclose(query_model.predict(soft=True), expected, atol=1e-6)
        assert "transanno" in other.obs

    @pytest.mark.parametrize("layer", [None, "counts"])
    def test_predict_of_the_query_model_remembers_the_layer(self, layer, model, query):
        """``layer=`` of load_query_data holds for the object that it was given, also after a change."""
        if layer:
            query.layers["counts"] = query.X.copy()
            query.X = np.log1p(query.X.toarray())
        query_model = TransAnno.load_query_data(query, model, layer=layer)
        expected = probabilities(query_model)
        np.testing.assert_allclose(query_model.predict(query, soft=True), expected, atol=1e-6)
        expected = probabilities(TransAnno.load_query_data(query[:13].copy(), model, layer=layer))
        query._inplace_subset_obs(np.arange(13))
        np.testing.assert_allclose(query_model.predict(soft=True), expected, atol=1e-6)


class TestScanviCalls:
    """Calls that work with scANVI."""

    def test_prepare_query_anndata_changes_nothing(self, model, saved_reference, query, snapshot, changed):
        adata = query[:, ::-1].copy()
        before = snapshot(adata)
        assert TransAnno.prepare_query_anndata(adata, model) is None
        assert TransAnno.prepare_query_anndata(adata, saved_reference, inplace=False) is adata
        genes = TransAnno.prepare_query_anndata(adata, str(saved_reference), return_reference_var_names=True)
        assert list(genes) == list(query.var_names)
        assert changed(before, adata) == set()
        with pytest.raises(ValueError, match="Only 10 of the 53"):
            TransAnno.prepare_query_anndata(query[:, :10].copy(), model)

    def test_popv_calls(self, model, query, fast):
        query_model = TransAnno.load_query_data(
            query, model, freeze_classifier=True, inplace_subset_query_vars=True, accelerator="cpu", device="auto"
        )
        with pytest.warns(UserWarning, match="Nothing to train"):
            query_model.train(
                max_epochs=1, train_size=0.9, n_samples_per_label=10, plan_kwargs={"weight_decay": 0.0}, **fast
            )
        assert query_model.predict(soft=True).shape == (61, 3)
        assert query_model.predict(query, None, False, 64).shape == (61,)


class TestFromPretrained:
    """``from_pretrained``: weights by gene name."""

    @pytest.mark.parametrize("as_type", [str, Path, None], ids=["str", "Path", "instance"])
    def test_folder_or_instance(self, as_type, pretrained, saved_pretrained, reference, fast):
        source = pretrained if as_type is None else as_type(saved_pretrained)
        model = TransAnno.from_pretrained(source, reference, "cell_type", batch_key="batch")
        theirs, ours = pretrained.module.state_dict(), model.module.state_dict()
        for name in theirs:
            if name not in {"batch_embedding.weight", "is_missing", "mean_expression", "commonest_bins"}:
                assert torch.equal(ours[name], theirs[name]), name
        assert not model.is_trained
        model.train(2, **fast)
        assert model.predict().shape == (97,)

    def test_genes_by_name(self, pretrained, reference):
        order = np.random.default_rng(0).permutation(53)[:40]
        extra = [f"NEW{i}" for i in range(5)]
        counts = np.c_[reference.X.toarray()[:, order], np.ones((97, 5))].astype("float32")
        genes = [*reference.var_names[order], *extra]
        adata = ad.AnnData(counts, obs=reference.obs.copy(), var=pd.DataFrame(index=genes))
        with pytest.warns(UserWarning, match="Only 40 of the 53|genes"):
            model = TransAnno.from_pretrained(pretrained, adata, "cell_type")
        for name in ("encoder.gene_embedding", "expression_head.gene_embedding", "expression_head.gene_bias"):
            theirs, ours = pretrained.module.state_dict()[name], model.module.state_dict()[name]
            assert torch.equal(ours[:40], theirs[torch.tensor(order)]), name
            assert ours[40:].shape[0] == 5
        assert list(model.genes) == genes

    def test_training_keeps_pretrained_embeddings(self, pretrained, reference, fast):
        model = TransAnno.from_pretrained(pretrained, reference, "cell_type", batch_key="batch")
        before = model.module.encoder.gene_embedding.detach().clone()
        model.train(1, plan_kwargs={"lr": 0.0}, **fast)
        assert torch.equal(model.module.encoder.gene_embedding, before)

    def test_refused(self, model, pretrained, reference, query, small):
        from transanno import TransAnnoPretrain

        with pytest.raises(TypeError, match="pretrained is a TransAnno"):
            TransAnno.from_pretrained(model, reference, "cell_type")
        with pytest.raises(ValueError, match="labels_key"):
            TransAnno.from_pretrained(pretrained, reference)
        with pytest.raises(ValueError, match="pretrained weights do not fit"):
            TransAnno.from_pretrained(pretrained, reference, "cell_type", n_hidden=32)
        TransAnnoPretrain.setup_anndata(query)
        with pytest.raises(ValueError, match="not trained"):
            TransAnno.from_pretrained(TransAnnoPretrain(query, **small), reference, "cell_type")
        reference.var_names = [f"OTHER{i}" for i in range(53)]
        with pytest.raises(ValueError, match="Only 0 of the 53"):
            TransAnno.from_pretrained(pretrained, reference, "cell_type")

    def test_pretrained_model_is_not_changed(self, pretrained, reference, fast):
        before = {name: tensor.clone() for name, tensor in pretrained.module.state_dict().items()}
        model = TransAnno.from_pretrained(pretrained, reference, "cell_type", batch_key="batch")
        model.train(1, **fast)
        assert all(torch.equal(tensor, before[name]) for name, tensor in pretrained.module.state_dict().items())

    def test_save_and_load(self, pretrained, reference, fast, tmp_path):
        model = TransAnno.from_pretrained(pretrained, reference, "cell_type", batch_key="batch")
        model.train(1, **fast)
        model.save(tmp_path / "model")
        loaded = TransAnno.load(tmp_path / "model", reference)
        pd.testing.assert_frame_equal(probabilities(loaded), probabilities(model), check_exact=True)
