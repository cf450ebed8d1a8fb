"""Conformance 1-13: what may be registered, and what registering does to the user's data."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import scvi
from lightning.pytorch.callbacks import Callback

from transanno import TransAnno, TransAnnoPretrain


def fit(adata, small, fast, *, before_init=None, before_train=None, before_predict=None, **setup):
    """Set up, train briefly and predict, with other code running in between."""
    nothing = lambda _: None  # noqa: E731
    TransAnno.setup_anndata(adata, "cell_type", **setup)
    (before_init or nothing)(adata)
    scvi.settings.seed = 5
    model = TransAnno(adata, **small)
    (before_train or nothing)(adata)
    model.train(1, plan_kwargs={"lr": 5e-3}, **fast)
    (before_predict or nothing)(adata)
    return model.predict(soft=True, key_added=None).to_numpy()


class TestRefused:
    """Conformance 1-4, 6, 11."""

    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_unregistered_data_are_refused(self, cls, reference):
        # conformance 1
        with pytest.raises(ValueError, match="set up your AnnData"):
            cls(reference)

    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_data_registered_for_another_model_are_refused(self, cls, reference):
        # conformance 2
        scvi.model.SCVI.setup_anndata(reference, batch_key="batch", labels_key="cell_type")
        with pytest.raises(ValueError, match="set up your AnnData"):
            cls(reference)

    def test_pretraining_setup_does_not_serve_the_classifier(self, reference):
        # conformance 2
        TransAnnoPretrain.setup_anndata(reference)
        with pytest.raises(ValueError, match="set up your AnnData"):
            TransAnno(reference)

    @pytest.mark.parametrize("rows", [slice(0, 40), slice(None)], ids=["some", "all"])
    def test_view_is_refused_by_setup(self, rows, reference):
        # conformance 3
        with pytest.raises(ValueError, match="copy"):
            TransAnno.setup_anndata(reference[rows], "cell_type")

    def test_copy_of_registered_data_is_refused_at_init(self, reference, small):
        # conformance 4
        TransAnno.setup_anndata(reference, "cell_type")
        with pytest.raises(ValueError, match="Did you make a copy"):
            TransAnno(reference.copy(), **small)

    def test_copy_of_registered_data_is_accepted_by_predict(self, model, reference):
        # conformance 4
        copy = reference.copy()
        expected = model.predict(soft=True, key_added=None)
        pd.testing.assert_frame_equal(model.predict(copy, soft=True, key_added=None), expected)

    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    @pytest.mark.parametrize("in_layer", [False, True], ids=["X", "layer"])
    def test_log_normalized_values_are_refused(self, cls, in_layer, reference):
        # conformance 6, as an error instead of a warning
        reference.layers["log"] = reference.X.copy()
        sc.pp.normalize_total(reference, target_sum=1e4, layer="log")
        sc.pp.log1p(reference, layer="log")
        arguments = {"labels_key": "cell_type"} if cls is TransAnno else {}
        if in_layer:
            arguments["layer"] = "log"
        else:
            reference.X = reference.layers["log"]
        with pytest.raises(ValueError, match="log1p-normalized.*Raw counts are needed"):
            cls.setup_anndata(reference, **arguments)

    @pytest.mark.parametrize("labels", ["T cell", "Unlabeled", np.nan], ids=["one type", "unlabeled", "all NaN"])
    def test_fewer_than_two_types_are_refused(self, labels, reference):
        # conformance 11
        reference.obs["cell_type"] = labels
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # NaN labels
            TransAnno.setup_anndata(reference, "cell_type")
            with pytest.raises(ValueError, match="at least two types"):
                TransAnno(reference)

    def test_missing_label_column_names_the_nearest(self, reference):
        with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
            TransAnno.setup_anndata(reference, "celltype")

    def test_missing_batch_column_and_layer_are_refused(self, reference):
        with pytest.raises(KeyError, match="batch_key='donor'"):
            TransAnno.setup_anndata(reference, "cell_type", batch_key="donor")
        with pytest.raises(KeyError, match="layer='counts'"):
            TransAnno.setup_anndata(reference, "cell_type", layer="counts")

    def test_repeated_gene_names_are_refused(self, reference):
        names = list(reference.var_names)
        names[3] = names[7]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # anndata: names are not unique
            reference.var_names = names
        with pytest.raises(ValueError, match=names[7]):
            TransAnno.setup_anndata(reference, "cell_type")


class TestCounts:
    """Conformance 5: the same counts in any container give the same model."""

    @pytest.fixture
    def expected(self, make_adata, small, fast):
        return fit(make_adata(), small, fast)

    @pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix], ids=["dense", "csr", "csc"])
    @pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint16"])
    def test_container_and_dtype(self, container, dtype, make_adata, expected, small, fast):
        with warnings.catch_warnings():
            # scvi-tools' advice to use CSR
            warnings.filterwarnings("ignore", message="Training will be faster", category=UserWarning)
            found = fit(make_adata(container=container, dtype=dtype), small, fast)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_sparse_arrays(self, make_adata, expected, small, fast):
        found = fit(make_adata(container=sp.csr_array), small, fast)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_layer(self, make_adata, expected, small, fast):
        adata = make_adata()
        adata.layers["counts"] = adata.X
        adata.X = np.random.default_rng(0).normal(size=adata.shape).astype("float32")
        np.testing.assert_allclose(fit(adata, small, fast, layer="counts"), expected, atol=1e-6)

    @pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix], ids=["dense", "csr"])
    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_backed(self, cls, container, make_adata, small, fast, tmp_path):
        # scvi-tools sorts the cells of a minibatch; h5py, in addition, wants no cell twice
        path = tmp_path / "reference.h5ad"
        in_memory = make_adata(container=container)
        in_memory.write_h5ad(path)
        adata = ad.read_h5ad(path, backed="r")
        recorder = RecordLabels()
        cls.setup_anndata(adata, **({"labels_key": "cell_type"} if cls is TransAnno else {"batch_key": "cell_type"}))
        model = cls(adata, **small)
        model.train(1, plan_kwargs={"lr": 5e-3}, callbacks=[recorder], **fast)
        codes = in_memory.obs["cell_type"].astype("category").cat.codes.to_numpy()
        dense = in_memory.X.toarray() if sp.issparse(in_memory.X) else in_memory.X
        expected = dict(zip(map(tuple, dense.tolist()), codes.tolist(), strict=True))
        assert recorder.pairs
        assert all(expected[cell] == code for cell, code in recorder.pairs)
        if cls is TransAnno:
            assert (model.predict() == in_memory.obs["cell_type"].to_numpy()).mean() > 0.9
            np.testing.assert_allclose(
                model.predict(soft=True, key_added=None), model.predict(in_memory, soft=True), atol=1e-6
            )
        adata.file.close()


class RecordLabels(Callback):
    """Counts of every training cell beside the code that it is trained with."""

    def __init__(self):
        self.pairs = []

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        codes = batch["labels"] if "labels" in batch else batch["batch"]
        self.pairs += zip(map(tuple, batch["X"].tolist()), codes.flatten().tolist(), strict=True)


class TestUntouched:
    """Conformance 7."""

    def test_only_scvi_columns_are_added(self, reference, small, fast, snapshot, changed):
        reference.obs["quality"] = np.linspace(0, 1, reference.n_obs)
        reference.var["symbol"] = [f"symbol{i}" for i in range(reference.n_vars)]
        reference.obsm["X_umap"] = np.random.default_rng(0).normal(size=(reference.n_obs, 2))
        reference.layers["other"] = reference.X * 2
        reference.uns["colors"] = ["red", "blue"]
        reference.raw = reference.copy()
        before = snapshot(reference)
        fit(reference, small, fast, batch_key="batch")
        assert changed(before, reference) == {"obs[_scvi_batch]", "obs[_scvi_labels]", "uns"}
        assert {"_scvi_uuid", "_scvi_manager_uuid", "colors"} == set(reference.uns)

    def test_setup_and_training_leave_numpys_generator_alone(self, reference):
        state = np.random.get_state()[1].copy()
        TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
        assert np.array_equal(np.random.get_state()[1], state)


class TestLabels:
    """Conformance 8-10, 12."""

    def test_nan_means_unlabeled_and_is_said_once(self, reference, small, fast):
        # conformance 8
        reference.obs.loc[reference.obs_names[::5], "cell_type"] = np.nan
        n_missing = int(reference.obs["cell_type"].isna().sum())
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            TransAnno.setup_anndata(reference, "cell_type")
            model = TransAnno(reference, **small)
            model.train(1, **fast)
            model.predict()
        messages = [str(warning.message) for warning in record if "no value" in str(warning.message)]
        assert [message.split()[0] for message in messages] == [str(n_missing)]
        assert reference.obs["cell_type"].isna().sum() == n_missing
        assert "nan" not in model.predict(key_added=None)

    def test_integer_labels_are_read_as_text(self, reference, small, fast):
        # conformance 9
        reference.obs["cluster"] = reference.obs["cell_type"].map({"B cell": 2, "NK cell": 10, "T cell": 1}).astype(int)
        TransAnno.setup_anndata(reference, "cluster")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        assert list(model.predict(soft=True).columns) == ["1", "10", "2"]
        assert reference.obs["cluster"].dtype.kind == "i"

    def test_unused_categories_are_no_classes(self, reference, small):
        # conformance 10
        types = ["Ghost", *sorted(set(reference.obs["cell_type"])), "Zombie"]
        reference.obs["cell_type"] = pd.Categorical(reference.obs["cell_type"], categories=types)
        TransAnno.setup_anndata(reference, "cell_type")
        assert TransAnno(reference, **small).module.n_classes == 3
        assert list(reference.obs["cell_type"].cat.categories) == types

    @pytest.mark.parametrize("step", [None, 3, 1], ids=["fully labeled", "partly labeled", "unlabeled"])
    @pytest.mark.parametrize("as_category", [False, True], ids=["text", "category"])
    def test_any_share_of_labels_can_be_set_up(self, step, as_category, reference):
        # conformance 12
        if step:
            reference.obs.loc[reference.obs_names[::step], "cell_type"] = "Unlabeled"
        if as_category:
            reference.obs["cell_type"] = reference.obs["cell_type"].astype("category")
        TransAnno.setup_anndata(reference, "cell_type")
        assert (reference.obs["_scvi_labels"].to_numpy() >= 0).all()

    def test_unlabeled_category_of_any_name(self, reference, small, fast):
        # conformance 12; its place in the alphabet must not matter
        reference.obs.loc[reference.obs_names[::4], "cell_type"] = "A missing label"
        TransAnno.setup_anndata(reference, "cell_type", "A missing label")
        model = TransAnno(reference, **small)
        model.train(1, plan_kwargs={"lr": 5e-3}, **fast)
        assert model.module.n_classes == 3
        is_labeled = (reference.obs["cell_type"] != "A missing label").to_numpy()
        assert (model.predict()[is_labeled] == reference.obs["cell_type"].to_numpy()[is_labeled]).mean() > 0.9


def scvi_setup(adata):
    scvi.model.SCVI.setup_anndata(adata, labels_key="batch", batch_key="cell_type")


def scanvi_setup(adata):
    # A type as the unlabeled category permutes the codes that all models share.
    scvi.model.SCANVI.setup_anndata(adata, "cell_type", "B cell")


@pytest.mark.parametrize("other_setup", [scvi_setup, scanvi_setup])
@pytest.mark.parametrize("when", ["before_setup", "before_init", "before_train", "before_predict"])
def test_models_on_the_same_data_do_not_swap_labels(other_setup, when, make_adata, small, fast):
    # conformance 13
    expected = fit(make_adata(), small, fast, batch_key="batch")
    adata = make_adata()
    hooks = {}
    if when == "before_setup":
        other_setup(adata)
    else:
        hooks[when] = other_setup
    np.testing.assert_array_equal(fit(adata, small, fast, batch_key="batch", **hooks), expected)


def test_pretraining_is_not_disturbed_by_another_model(make_adata, small, fast):
    # conformance 13
    latents = []
    for disturb in (lambda _: None, scvi_setup):
        adata = make_adata()
        TransAnnoPretrain.setup_anndata(adata, batch_key="batch")
        disturb(adata)
        scvi.settings.seed = 5
        pretrained = TransAnnoPretrain(adata, **small)
        disturb(adata)
        pretrained.train(2, **fast)
        disturb(adata)
        latents.append(pretrained.get_latent_representation())
    np.testing.assert_array_equal(*latents)


def test_two_models_of_one_object_keep_their_own_labels(reference, small, fast):
    # conformance 13
    reference.obs["coarse"] = np.where(reference.obs["cell_type"] == "B cell", "Z", "A")
    models = {}
    for key in ("cell_type", "coarse"):
        TransAnno.setup_anndata(reference, key)
        models[key] = TransAnno(reference, **small)
    for _ in range(2):
        for key, model in models.items():
            model.train(1, plan_kwargs={"lr": 5e-3}, **fast)
            assert (model.predict() == reference.obs[key].to_numpy()).mean() > 0.9


class TestContents:
    @pytest.mark.parametrize("backed", [False, True])
    def test_counts_of_genes_that_were_not_measured_are_refused(self, backed, reference, tmp_path):
        reference.var["is_missing"] = [True, *[False] * 52]
        if backed:
            reference.write_h5ad(tmp_path / "reference.h5ad")
            reference = ad.read_h5ad(tmp_path / "reference.h5ad", backed="r")
        with pytest.raises(ValueError, match="1 gene.s. of adata have counts, although"):
            TransAnno.setup_anndata(reference, "cell_type")
        if backed:
            reference.file.close()

    def test_values_stored_in_parts_are_summed(self, reference, small, fast):
        """The logarithm of a sum is not the sum of logarithms."""
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(3, **fast)
        expected = model.predict(soft=True, key_added=None)
        whole = reference.X
        halves = np.stack([whole.data // 2, whole.data - whole.data // 2], axis=1).ravel()
        parts = sp.csr_matrix((halves, whole.indices.repeat(2), whole.indptr * 2), shape=whole.shape)
        assert not parts.has_canonical_format
        reference.X = parts
        np.testing.assert_allclose(model.predict(soft=True, key_added=None), expected, atol=1e-6)
        assert parts.nnz == 2 * whole.nnz
