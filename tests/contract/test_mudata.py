"""Conformance 49: MuData."""

from __future__ import annotations

import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from transanno import TransAnno, TransAnnoPretrain, tl


@pytest.fixture
def mdata(make_mdata):
    return make_mdata()


@pytest.fixture
def query(make_mdata):
    return make_mdata(61, seed=1)


@pytest.fixture
def model(mdata, small, fast):
    """Trained on MuData."""
    TransAnno.setup_mudata(mdata, "cell_type", batch_key="batch")
    model = TransAnno(mdata, **small)
    model.train(1, plan_kwargs={"lr": 5e-3}, **fast)
    return model


def probabilities(model, data=None):
    return model.predict(data, soft=True, key_added=None)


def test_equals_anndata(model, make_adata, small, fast, make_mdata):
    """The other modalities play no part."""
    adata = make_adata()
    TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
    torch.manual_seed(3)
    np.random.seed(3)
    of_anndata = TransAnno(adata, **small)
    of_anndata.train(1, shuffle_set_split=False, **fast)
    mdata = make_mdata()
    TransAnno.setup_mudata(mdata, "cell_type", batch_key="batch")
    torch.manual_seed(3)
    np.random.seed(3)
    of_mudata = TransAnno(mdata, **small)
    of_mudata.train(1, shuffle_set_split=False, **fast)
    np.testing.assert_array_equal(probabilities(of_mudata), probabilities(of_anndata))


def test_predictions_are_written_to_the_mudata(model, mdata):
    labels = model.predict()
    assert (labels == mdata.obs["cell_type"].to_numpy()).mean() > 0.9
    assert list(mdata.obs["transanno"]) == list(labels)
    assert isinstance(mdata.obs["transanno"].dtype, pd.CategoricalDtype)
    assert ((mdata.obs["transanno_confidence"] > 0) & (mdata.obs["transanno_confidence"] <= 1)).all()
    for modality in mdata.mod.values():
        assert not [column for column in modality.obs if "transanno" in column]


def test_predictions_survive_update(model, mdata):
    labels = model.predict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mudata 0.3 on what 0.4 will do
        mdata.update()
    assert list(mdata.obs["transanno"]) == list(labels)


def test_written_file_comes_back(model, mdata, tmp_path):
    labels = model.predict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mudata 0.3 on what 0.4 will do
        mdata.write_h5mu(tmp_path / "cells.h5mu")
        read = mudata.read_h5mu(tmp_path / "cells.h5mu")
    assert list(read.obs["transanno"]) == list(labels)
    np.testing.assert_allclose(probabilities(model, read), probabilities(model), atol=1e-6)


def test_new_mudata(model, query):
    labels = model.predict(query)
    assert (labels == query.obs["cell_type"].to_numpy()).mean() > 0.9
    assert list(query.obs["transanno"]) == list(labels)
    assert not [column for column in query.obs if column.startswith("_scvi")]
    assert model.get_latent_representation(query).shape == (61, 22)


def test_indices(model):
    expected = probabilities(model)
    found = model.predict(indices=[40, 2, 96], soft=True, key_added=None)
    pd.testing.assert_frame_equal(found, expected.iloc[[40, 2, 96]], atol=1e-6)


def test_modality_alone_can_be_predicted(model, query):
    adata = query["rna"].copy()
    adata.obs["batch"] = query.obs["batch"]
    np.testing.assert_allclose(probabilities(model, adata), probabilities(model, query), atol=1e-6)


@pytest.mark.parametrize("where", ["labels", "batches", "both"])
def test_columns_inside_the_modality(where, mdata, query, small, fast):
    modalities = {"rna_layer": "rna"}
    for key, column in (("labels_key", "cell_type"), ("batch_key", "batch")):
        if where in {"both", {"labels_key": "labels", "batch_key": "batches"}[key]}:
            modalities[key] = "rna"
            for data in (mdata, query):
                data["rna"].obs[column] = data.obs[column].to_numpy()
                data.obs = data.obs.drop(columns=column)
    TransAnno.setup_mudata(mdata, "cell_type", batch_key="batch", modalities=modalities)
    model = TransAnno(mdata, **small)
    model.train(1, **fast)
    assert model.module.n_classes == 3
    assert model.module.batch_embedding.num_embeddings == 2
    labels = model.predict()
    assert list(mdata.obs["transanno"]) == list(labels)
    query_model = TransAnno.load_query_data(query, model)
    np.testing.assert_allclose(probabilities(query_model), probabilities(model, query), atol=1e-6)


def test_layer(mdata, query, small, fast):
    for data in (mdata, query):
        data["rna"].layers["counts"] = data["rna"].X.copy()
        data["rna"].X = np.random.default_rng(0).normal(size=data["rna"].shape)
    TransAnno.setup_mudata(mdata, "cell_type", rna_layer="counts", batch_key="batch")
    model = TransAnno(mdata, **small)
    model.train(1, **fast)
    query_model = TransAnno.load_query_data(query, model)
    np.testing.assert_allclose(probabilities(query_model), probabilities(model, query), atol=1e-6)
    del query["rna"].layers["counts"]
    with (
        pytest.warns(UserWarning, match="layer='counts' is not a layer of adata"),
        pytest.raises(ValueError, match="looks scaled"),
    ):
        model.predict(query)


def test_save_and_load(model, mdata, query, tmp_path):
    model.save(tmp_path / "model")
    loaded = TransAnno.load(tmp_path / "model", mdata)
    pd.testing.assert_frame_equal(probabilities(loaded), probabilities(model), check_exact=True)
    loaded = TransAnno.load(tmp_path / "model", adata=False)
    pd.testing.assert_frame_equal(probabilities(loaded, query), probabilities(model, query), check_exact=True)
    shuffled = mudata_of(query["rna"][:, ::-1].copy(), query.obs)
    loaded = TransAnno.load(tmp_path / "model", shuffled)
    np.testing.assert_allclose(probabilities(loaded), probabilities(model, query), atol=1e-6)


def test_save_with_data(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mudata 0.3 on what 0.4 will do
        model.save(tmp_path / "model", save_anndata=True)
        loaded = TransAnno.load(tmp_path / "model")
    pd.testing.assert_frame_equal(probabilities(loaded), probabilities(model), check_exact=True)


def mudata_of(rna, obs):
    """MuData of one modality, with columns of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mudata 0.3 on what 0.4 will do
        mdata = mudata.MuData({"rna": rna})
        for key in obs:
            mdata.obs[key] = obs[key].to_numpy()
    return mdata


class TestQuery:
    def test_new_batches(self, model, make_mdata, fast):
        query = make_mdata(61, seed=1, batches=("batch2", "batch3"))
        obs = query.obs.copy()
        query_model = TransAnno.load_query_data(query, model)
        pd.testing.assert_frame_equal(query.obs, obs)
        query_model.train(1, plan_kwargs={"lr": 1e-4}, **fast)
        assert (query_model.predict() == obs["cell_type"].to_numpy()).mean() > 0.9
        assert {"transanno", "transanno_confidence"} == set(query.obs) - set(obs)
        for modality in query.mod.values():
            assert not modality.obs.columns.tolist()

    def test_missing_extra_and_reordered_genes(self, model, query):
        expected = probabilities(model, query)
        rna = query["rna"]
        adata = ad.AnnData(
            sp.hstack([rna.X[:, ::-1], rna.X[:, :2]]).tocsr(),
            obs=pd.DataFrame(index=rna.obs_names),
            var=pd.DataFrame(index=[*rna.var_names[::-1], "extra1", "extra2"]),
        )
        found = probabilities(TransAnno.load_query_data(mudata_of(adata, query.obs), model))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        fewer = mudata_of(rna[:, 5:].copy(), query.obs)
        query_model = TransAnno.load_query_data(fewer, model)
        assert query_model.module.is_missing.sum() == 5
        np.testing.assert_allclose(probabilities(query_model), probabilities(model, fewer), atol=1e-6)

    def test_anndata_for_a_model_of_mudata(self, model, query):
        adata = query["rna"].copy()
        query_model = TransAnno.load_query_data(adata, model)
        assert (query_model.predict() == query.obs["cell_type"].to_numpy()).mean() > 0.9
        assert "transanno" in adata.obs

    def test_saved_query_model(self, model, query, tmp_path):
        query_model = TransAnno.load_query_data(query, model)
        query_model.save(tmp_path / "query")
        loaded = TransAnno.load(tmp_path / "query", query)
        np.testing.assert_allclose(probabilities(loaded), probabilities(query_model), atol=1e-6)

    def test_no_labels(self, model, query):
        expected = probabilities(model, query)
        query.obs = query.obs.drop(columns="cell_type")
        np.testing.assert_allclose(probabilities(TransAnno.load_query_data(query, model)), expected, atol=1e-6)

    def test_annotate(self, model, query):
        tl.annotate(query, model=model)
        assert (query.obs["transanno"] == query.obs["cell_type"].to_numpy()).mean() > 0.9
        assert query.obsm["X_transanno"].shape == (61, 22)


class TestRefused:
    def test_missing_modality(self, model, query, mdata):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # mudata 0.3 on what 0.4 will do
            other = mudata.MuData({"protein": query["protein"].copy()})
        with pytest.raises(KeyError, match="no modality 'rna'.*'protein'"):
            model.predict(other)
        with pytest.raises(KeyError, match="no modality 'rna'"):
            TransAnno.load_query_data(other, model)

    def test_not_raw_counts(self, mdata):
        mdata["rna"].X = mdata["rna"].X.multiply(0.37).tocsr()
        mdata["rna"].X.data = np.log1p(mdata["rna"].X.data)
        with pytest.raises(ValueError, match="raw counts"):
            TransAnno.setup_mudata(mdata, "cell_type")

    def test_missing_column(self, mdata):
        with pytest.raises(KeyError, match="celltype"):
            TransAnno.setup_mudata(mdata, "celltype")


def test_other_name_of_the_modality(mdata, query, small, fast):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mudata 0.3 on what 0.4 will do
        renamed = [mudata.MuData({"gex": data["rna"], "protein": data["protein"]}) for data in (mdata, query)]
    for new, old in zip(renamed, (mdata, query), strict=True):
        for key in old.obs:
            new.obs[key] = old.obs[key].to_numpy()
    TransAnno.setup_mudata(renamed[0], "cell_type", modalities={"rna_layer": "gex"})
    model = TransAnno(renamed[0], **small)
    model.train(1, **fast)
    assert TransAnno.load_query_data(renamed[1], model).predict().shape == (61,)


def test_pretraining(mdata, query, make_adata, small, fast, tmp_path):
    TransAnnoPretrain.setup_mudata(mdata, batch_key="batch")
    pretrained = TransAnnoPretrain(mdata, **small)
    pretrained.train(1, **fast)
    assert pretrained.get_latent_representation(query).shape == (61, 22)
    pretrained.save(tmp_path / "pretrained")
    TransAnno.setup_mudata(query, "cell_type")
    model = TransAnno.from_pretrained(tmp_path / "pretrained", query)
    model.train(1, **fast)
    assert model.predict().shape == (61,)
    model = TransAnno.from_pretrained(pretrained, make_adata(), "cell_type")
    model.train(1, **fast)
    assert model.predict().shape == (97,)
