"""Conformance 50: cells from a Lightning data module instead of AnnData, as Census and lamindb offer them."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning import LightningDataModule
from scvi.train import SaveCheckpoint
from torch.utils.data import DataLoader

from transanno import TransAnno, TransAnnoPretrain, tl

# The covariates that such data modules leave out are None, of which Lightning cannot tell a number of cells.
pytestmark = pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`:UserWarning")

TYPES = ["B cell", "NK cell", "T cell"]
BATCHES = ["batch1", "batch2"]


class FakeDataModule(LightningDataModule):
    """What :class:`scvi.dataloaders.MappedCollectionDataModule` offers, over an AnnData in memory."""

    n_batch, n_labels, n_samples = 2, 4, 0
    batch_labels = {batch: code for code, batch in enumerate(BATCHES)}
    label_keys = {label: code for code, label in enumerate(TYPES)}

    def __init__(self, adata, model_name, *, unlabeled=(), validation=True):
        super().__init__()
        self._log_hyperparams = False
        self.allow_zero_length_dataloader_with_multiple_devices = False
        self.model_name, self.genes, self.n_obs, self.n_vars = model_name, list(adata.var_names), *adata.shape
        labels = adata.obs["cell_type"].map(self.label_keys).to_numpy().copy()
        labels[list(unlabeled)] = len(TYPES)
        self.cells = [
            {"X": torch.from_numpy(x), "batch": torch.tensor([b]), "labels": torch.tensor([y])}
            for x, b, y in zip(adata.X.toarray(), adata.obs["batch"].map(self.batch_labels), labels, strict=True)
        ]
        self.validation = validation

    def _collate(self, cells):
        tensors = {key: torch.stack([cell[key] for cell in cells]) for key in ("X", "batch", "labels")}
        return {**tensors, "extra_categorical_covs": None, "extra_continuous_covs": None, "sample": None}

    def train_dataloader(self):
        return DataLoader(self.cells, batch_size=32, shuffle=True, collate_fn=self._collate)

    def val_dataloader(self):
        return DataLoader(self.cells[:31], batch_size=32, collate_fn=self._collate) if self.validation else []

    def inference_dataloader(self):
        return DataLoader(self.cells, batch_size=41, collate_fn=self._collate)

    @property
    def registry(self):
        def covariates(name):
            return {"data_registry": {}, "state_registry": {}, "summary_stats": {f"n_{name}": 0}}

        return {
            "scvi_version": scvi.__version__,
            "model_name": self.model_name,
            "setup_args": {"layer": None, "batch_key": "batch", "labels_key": "cell_type"},
            "field_registries": {
                "X": {
                    "data_registry": {"attr_name": "X", "attr_key": None},
                    "state_registry": {"n_obs": self.n_obs, "n_vars": self.n_vars, "column_names": self.genes},
                    "summary_stats": {"n_vars": self.n_vars, "n_cells": self.n_obs},
                },
                "batch": {
                    "data_registry": {"attr_name": "obs", "attr_key": "_scvi_batch"},
                    "state_registry": {"categorical_mapping": self.batch_labels, "original_key": "batch"},
                    "summary_stats": {"n_batch": self.n_batch},
                },
                "labels": {
                    "data_registry": {"attr_name": "obs", "attr_key": "_scvi_labels"},
                    "state_registry": {
                        "categorical_mapping": np.array([*TYPES, "Unknown"], dtype=object),
                        "original_key": "cell_type",
                        "unlabeled_category": "Unknown",
                    },
                    "summary_stats": {"n_labels": self.n_labels},
                },
                "extra_categorical_covs": covariates("extra_categorical_covs"),
                "extra_continuous_covs": covariates("extra_continuous_covs"),
            },
            "setup_method_name": "setup_datamodule",
        }


@pytest.fixture
def datamodule(reference):
    return FakeDataModule(reference, "TransAnno")


@pytest.fixture
def trained(datamodule, small, fast):
    model = TransAnno(registry=datamodule.registry, **small)
    model.train(4, datamodule=datamodule, plan_kwargs={"lr": 5e-3}, **fast)
    return model


class LateDataModule(FakeDataModule):
    """Makes tensors when cells are handed on, as :class:`scvi.dataloaders.AnnbatchDataModule` does."""

    def _collate(self, cells):
        return {"cells": super()._collate(cells)}

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch["cells"]


def test_a_module_that_makes_tensors_late(reference, query, small, fast):
    datamodule = LateDataModule(reference, "TransAnno", validation=False)
    model = TransAnno(registry=datamodule.registry, **small)
    model.train(4, datamodule=datamodule, plan_kwargs={"lr": 5e-3}, **fast)
    assert (model.predict(query) == query.obs["cell_type"].to_numpy()).mean() > 0.9


@pytest.mark.skipif(not hasattr(TransAnno, "setup_annbatch"), reason="scvi-tools before 1.5 has no annbatch")
@pytest.mark.filterwarnings("ignore")  # of annbatch and zarr
def test_annbatch(make_adata, query, small, fast, tmp_path, monkeypatch):
    for name in ("annbatch", "zarrs", "zarr"):
        pytest.importorskip(name)
    if int(version("annbatch").split(".")[1]) > 2:
        pytest.skip("scvi-tools 1.5.1 passes arguments that annbatch 0.3 no longer has")
    monkeypatch.chdir(tmp_path)
    for seed, n_obs in enumerate((160, 224)):
        make_adata(n_obs, seed=seed).write_h5ad(f"{seed}.h5ad")
    datamodule = TransAnno.setup_annbatch(
        "cells.zarr", ["0.h5ad", "1.h5ad"], "batch", "cell_type", batch_size=32, chunk_size=32, preload_nchunks=4,
        preload_to_gpu=False, shuffle=True,
    )  # fmt: skip
    model = TransAnno(registry=datamodule.registry, **small)
    model.train(4, datamodule=datamodule, plan_kwargs={"lr": 5e-3}, **fast)
    assert (model.predict(query) == query.obs["cell_type"].to_numpy()).mean() > 0.9
    model.save("model", datamodule=datamodule)
    loaded = TransAnno.load("model", adata=False, datamodule=datamodule)
    np.testing.assert_array_equal(loaded.predict(query, soft=True), model.predict(query, soft=True))


def probabilities(model, datamodule):
    return model.predict(dataloader=datamodule.inference_dataloader(), soft=True)


def test_training(trained, datamodule, reference):
    assert trained.is_trained
    assert len(trained.history["train_loss"]) == 4
    labels = trained.predict(dataloader=datamodule.inference_dataloader())
    assert (labels == reference.obs["cell_type"].to_numpy()).mean() > 0.9


def test_default_epochs_and_validation(datamodule, small, fast, monkeypatch):
    monkeypatch.setattr("transanno.models._train.MAX_EPOCHS", 2)
    monkeypatch.setattr("transanno.training._epochs._MIN_EPOCHS", 1)
    model = TransAnno(registry=datamodule.registry, **small)
    model.train(datamodule=datamodule, early_stopping=True, **fast)
    assert len(model.history["validation_accuracy"]) == 2


def test_unlabeled_cells(reference, small, fast):
    datamodule = FakeDataModule(reference, "TransAnno", unlabeled=range(0, 97, 2), validation=False)
    model = TransAnno(registry=datamodule.registry, **small)
    model.train(2, datamodule=datamodule, **fast)
    assert list(probabilities(model, datamodule).columns) == TYPES


def test_pretraining(reference, small, fast, tmp_path):
    datamodule = FakeDataModule(reference, "TransAnnoPretrain")
    pretrained = TransAnnoPretrain(registry=datamodule.registry, **small)
    pretrained.train(2, datamodule=datamodule, **fast)
    assert pretrained.get_latent_representation(dataloader=datamodule.inference_dataloader()).shape == (97, 22)
    model = TransAnno.from_pretrained(pretrained, reference, "cell_type", batch_key="batch")
    model.train(1, **fast)
    pretrained.save(tmp_path / "pretrained", datamodule=datamodule)
    loaded = TransAnnoPretrain.load(tmp_path / "pretrained", adata=False, datamodule=datamodule)
    assert loaded.module.classifier is None
    TransAnno.from_pretrained(tmp_path / "pretrained", reference, "cell_type", batch_key="batch")


def test_cell_states(trained, datamodule):
    latent = trained.get_latent_representation(dataloader=datamodule.inference_dataloader())
    assert latent.shape == (97, 22)
    assert np.isfinite(latent).all()


def test_anndata_can_be_predicted(trained, datamodule, query, reference):
    np.testing.assert_allclose(
        trained.predict(reference, soft=True, key_added=None), probabilities(trained, datamodule), atol=1e-5
    )
    assert (trained.predict(query) == query.obs["cell_type"].to_numpy()).mean() > 0.9
    assert "transanno" in query.obs


@pytest.mark.parametrize("with_datamodule", [True, False])
def test_save_and_load(with_datamodule, trained, datamodule, query, tmp_path):
    trained.save(tmp_path / "model", datamodule=datamodule)
    arguments = {"datamodule": datamodule} if with_datamodule else {}
    loaded = TransAnno.load(tmp_path / "model", adata=False, **arguments)
    pd.testing.assert_frame_equal(
        probabilities(loaded, datamodule), probabilities(trained, datamodule), check_exact=True
    )
    found, expected = (model.predict(query, soft=True, key_added=None) for model in (loaded, trained))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    refined = [model.predict(query, soft=True, refine=True, key_added=None) for model in (loaded, trained)]
    pd.testing.assert_frame_equal(*refined)


def test_training_goes_on_after_loading(trained, datamodule, fast, tmp_path):
    trained.save(tmp_path / "model", datamodule=datamodule)
    loaded = TransAnno.load(tmp_path / "model", adata=False, datamodule=datamodule)
    loaded.train(1, datamodule=datamodule, **fast)
    assert len(loaded.history["train_loss"]) == 5


def test_save_checkpoint(datamodule, small, fast, tmp_path):
    model = TransAnno(registry=datamodule.registry, **small)
    callback = SaveCheckpoint(dirpath=str(tmp_path), monitor="validation_loss", load_best_on_end=True)
    model.train(
        2,
        datamodule=datamodule,
        callbacks=[callback],
        check_val_every_n_epoch=1,
        enable_checkpointing=True,
        **fast,
    )
    assert callback.best_model_path
    assert list(probabilities(model, datamodule).columns) == TYPES


@pytest.mark.parametrize("saved", [False, True])
def test_query_in_anndata(saved, trained, datamodule, new_batch_query, fast, tmp_path):
    reference = trained
    if saved:
        trained.save(tmp_path / "model", datamodule=datamodule)
        reference = tmp_path / "model"
    query_model = TransAnno.load_query_data(new_batch_query[:, ::-1].copy(), reference)
    assert query_model.module.batch_embedding.num_embeddings == 3
    query_model.train(1, plan_kwargs={"lr": 1e-4}, **fast)
    assert (query_model.predict() == new_batch_query.obs["cell_type"].to_numpy()).mean() > 0.9
    query_model.save(tmp_path / "query", save_anndata=True)
    pd.testing.assert_frame_equal(
        TransAnno.load(tmp_path / "query").predict(soft=True), query_model.predict(soft=True), check_exact=True
    )


def test_training_without_any_data_is_an_error(datamodule, small, fast):
    model = TransAnno(registry=datamodule.registry, **small)
    with pytest.raises(ValueError, match="datamodule"):
        model.train(1, **fast)


@pytest.mark.parametrize("module", [FakeDataModule, LateDataModule])
def test_fit_reference_gives_a_model_with_everything(module, make_adata, query, fast, tmp_path):
    """Chosen genes, episodes, calibration by a twin: those that cells in memory have."""
    reference = make_adata(131, seed=5)
    datamodule = module(reference, "TransAnno", unlabeled=[3, 5], validation=False)
    model = tl.fit_reference(datamodule, "cell_type", batch_key="batch", n_top_genes=41, max_epochs=2, **fast)
    assert len(model.genes) == 41
    assert model.calibration_ is not None
    assert model.label_counts_ == reference.obs["cell_type"].drop(reference.obs_names[[3, 5]]).value_counts().to_dict()
    assert model.summary_stats.n_batch == 2
    tl.annotate(query, model=model, fdr=0.1, accelerator="cpu")
    assert "transanno_novelty" in query.obs
    model.save(tmp_path / "model")


def test_fit_reference_counts_validation_cells_in(reference, fast):
    datamodule = FakeDataModule(reference, "TransAnno")  # of which 31 are among both here
    model = tl.fit_reference(datamodule, "cell_type", n_top_genes=41, max_epochs=1, calibrate=False, **fast)
    assert sum(model.label_counts_.values()) == 97 + 31


def test_sparse_minibatches(reference, query, fast):
    class Sparse(FakeDataModule):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return {**batch, "X": batch["X"].to_sparse_csr()}

    options = {"n_top_genes": 41, "max_epochs": 1, "calibrate": False, **fast}
    models = [
        tl.fit_reference(module(reference, "TransAnno", validation=False), "cell_type", **options)
        for module in (Sparse, FakeDataModule)
    ]
    assert list(models[0].genes) == list(models[1].genes)


def test_a_column_that_the_data_module_does_not_have(datamodule, fast):
    with pytest.raises(KeyError, match=r"labels_key='type'.*cell_type"):
        tl.fit_reference(datamodule, "type", **fast)


def test_pretrain_takes_one(reference, fast):
    pretrained = tl.pretrain(FakeDataModule(reference, "TransAnnoPretrain"), n_top_genes=41, max_epochs=1, **fast)
    assert len(pretrained.genes) == 41
    assert pretrained.is_trained
