"""Conformance 35-41: what is saved comes back, and nothing else is accepted."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from transanno import TransAnno, TransAnnoPretrain
from transanno.nn import Architecture

GOLDEN = Path(__file__).parents[1] / "golden" / "saved_model_format4"


def probabilities(model, adata=None):
    return model.predict(adata, soft=True, key_added=None)


class TestRoundTrip:
    """Conformance 35, 36."""

    def test_predictions_are_identical(self, reference, query, small, fast, tmp_path):
        # conformance 35
        TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
        model = TransAnno(reference, **small)
        model.train(2, **fast)
        model.save(tmp_path / "model")
        loaded = TransAnno.load(tmp_path / "model", reference)
        for adata in (None, query):
            pd.testing.assert_frame_equal(probabilities(loaded, adata), probabilities(model, adata), check_exact=True)
            np.testing.assert_array_equal(
                loaded.get_latent_representation(adata), model.get_latent_representation(adata)
            )
            refined = [m.predict(adata, soft=True, refine=True, key_added=None) for m in (loaded, model)]
            pd.testing.assert_frame_equal(*refined, check_exact=True)
        assert loaded.is_trained
        assert not loaded.module.training

    def test_pretrained_cell_states_are_identical(self, pretrained, query, tmp_path):
        # conformance 35
        pretrained.save(tmp_path / "model")
        loaded = TransAnnoPretrain.load(tmp_path / "model", pretrained.adata)
        for adata in (None, query):
            np.testing.assert_array_equal(
                loaded.get_latent_representation(adata), pretrained.get_latent_representation(adata)
            )

    @pytest.mark.parametrize("as_type", [str, Path])
    def test_path_may_be_of_either_type(self, as_type, model, tmp_path, reference):
        model.save(as_type(tmp_path / "model"))
        TransAnno.load(as_type(tmp_path / "model"), reference)

    def test_prefix(self, model, reference, tmp_path):
        # conformance 36
        model.save(tmp_path, prefix="mine_", overwrite=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine_card.json", "mine_genes.txt", "mine_model.pt"]
        loaded = TransAnno.load(tmp_path, reference, prefix="mine_")
        pd.testing.assert_frame_equal(probabilities(loaded), probabilities(model))
        with pytest.raises(ValueError, match="holds no model.pt"):
            TransAnno.load(tmp_path, reference)

    def test_overwrite(self, model, tmp_path):
        # conformance 36
        model.save(tmp_path / "model")
        with pytest.raises(ValueError, match="already exists"):
            model.save(tmp_path / "model")
        model.save(tmp_path / "model", overwrite=True)

    def test_save_anndata(self, model, tmp_path):
        # conformance 36
        expected = probabilities(model)
        model.save(tmp_path / "model", save_anndata=True)
        loaded = TransAnno.load(tmp_path / "model")
        pd.testing.assert_frame_equal(probabilities(loaded), expected, check_exact=True)
        assert loaded.adata is not model.adata

    def test_load_without_data(self, model, reference, query, tmp_path):
        # conformance 36
        model.save(tmp_path / "model")
        loaded = TransAnno.load(tmp_path / "model", adata=False)
        assert loaded.adata is None
        for method in (loaded.predict, loaded.get_latent_representation):
            with pytest.raises(ValueError, match="holds no data"):
                method()
        pd.testing.assert_frame_equal(probabilities(loaded, query), probabilities(model, query), check_exact=True)
        pd.testing.assert_frame_equal(probabilities(loaded, reference), probabilities(model), check_exact=True)

    def test_model_without_data_can_be_saved_again(self, model, query, tmp_path):
        expected = probabilities(model, query)
        model.save(tmp_path / "first")
        TransAnno.load(tmp_path / "first", adata=False).save(tmp_path / "second")
        loaded = TransAnno.load(tmp_path / "second", adata=False)
        pd.testing.assert_frame_equal(probabilities(loaded, query), expected, check_exact=True)

    def test_training_goes_on_after_loading(self, model, fast):
        n_epochs = len(model.history["train_loss"])
        model.train(2, **fast)
        assert len(model.history["train_loss"]) == n_epochs + 2

    def test_untrained_model(self, reference, small, tmp_path):
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.save(tmp_path / "model")
        loaded = TransAnno.load(tmp_path / "model", reference)
        assert not loaded.is_trained
        for name, tensor in loaded.module.state_dict().items():
            assert torch.equal(tensor, model.module.state_dict()[name]), name

    def test_session_is_left_alone(self, model, tmp_path):
        state = torch.random.get_rng_state()
        model.save(tmp_path / "model")
        assert torch.equal(torch.random.get_rng_state(), state)


class TestData:
    """What may be attached to a saved model; conformance 38."""

    def test_genes_are_matched_by_name(self, model, saved_reference, query, snapshot, changed):
        expected = probabilities(model, query)
        order = np.random.default_rng(0).permutation(query.n_vars)
        extra = ad.AnnData(
            query.X[:, :7].copy(), obs=query.obs[[]], var=pd.DataFrame(index=[f"extra{i}" for i in range(7)])
        )
        other = ad.concat([query[:, order], extra], axis=1, merge="first")
        other.obs = query.obs.copy()
        before = snapshot(other)
        loaded = TransAnno.load(saved_reference, other)
        np.testing.assert_allclose(probabilities(loaded), expected, atol=1e-6)
        np.testing.assert_allclose(probabilities(loaded, query), expected, atol=1e-6)
        assert changed(before, other) == set()
        loaded.predict()
        assert changed(before, other) == {"obs[transanno]", "obs[transanno_confidence]"}

    def test_data_with_the_genes_of_the_model_are_registered(self, saved_reference, reference, snapshot, changed):
        # as in scvi-tools; the docstring of load says "left as it is"
        before = snapshot(reference)
        TransAnno.load(saved_reference, reference)
        assert changed(before, reference) == {"obs[_scvi_batch]", "obs[_scvi_labels]", "uns"}

    def test_missing_genes_are_masked(self, model, saved_reference, query):
        fewer = query[:, query.var_names[3:]].copy()
        loaded = TransAnno.load(saved_reference, fewer)
        np.testing.assert_allclose(probabilities(loaded), probabilities(model, fewer), atol=1e-6)
        assert loaded._registered_cells().is_missing.sum() == 3

    @pytest.mark.parametrize("types", [["B cell"], ["NK cell", "T cell"]], ids=["one", "two"])
    def test_data_with_some_of_the_types_keep_the_head(self, types, model, saved_reference, reference):
        # conformance 38
        some = reference[reference.obs["cell_type"].isin(types)].copy()
        expected = probabilities(model, some)
        loaded = TransAnno.load(saved_reference, some)
        assert loaded.module.n_classes == 3
        pd.testing.assert_frame_equal(probabilities(loaded), expected, check_exact=False, atol=1e-6)
        assert list(expected.columns) == list(model.labels)
        assert (loaded.predict() == some.obs["cell_type"].to_numpy()).mean() > 0.9

    def test_data_without_labels(self, model, saved_reference, reference):
        expected = probabilities(model)
        del reference.obs["cell_type"]
        pd.testing.assert_frame_equal(probabilities(TransAnno.load(saved_reference, reference)), expected)

    def test_unknown_labels_are_an_error(self, saved_reference, reference):
        reference.obs["cell_type"] = reference.obs["cell_type"].astype(object)
        reference.obs.loc[reference.obs_names[5], "cell_type"] = "Platypus"
        with pytest.raises(ValueError, match="Platypus"):
            TransAnno.load(saved_reference, reference)

    def test_unknown_batches_are_an_error(self, saved_reference, new_batch_query):
        with pytest.raises(ValueError, match="batch3.*load_query_data"):
            TransAnno.load(saved_reference, new_batch_query)


class TestRefused:
    """Conformance 37."""

    def test_other_class_of_ours(self, saved_reference, saved_pretrained, reference):
        with pytest.raises(ValueError, match="holds a TransAnno model.*TransAnno.load"):
            TransAnnoPretrain.load(saved_reference, reference)
        with pytest.raises(ValueError, match="holds a TransAnnoPretrain model.*TransAnnoPretrain.load"):
            TransAnno.load(saved_pretrained, reference)

    @pytest.mark.parametrize("adata", [None, False, "reference"])
    def test_scvi_model(self, adata, reference, tmp_path):
        scvi.model.SCVI.setup_anndata(reference)
        scvi.model.SCVI(reference, n_hidden=8, n_latent=3).save(tmp_path / "scvi")
        with pytest.raises(ValueError, match=r"holds more than data.*as models of scvi-tools itself do"):
            TransAnno.load(tmp_path / "scvi", reference if adata == "reference" else adata)

    def test_no_model(self, reference, tmp_path):
        with pytest.raises(ValueError, match="does not exist"):
            TransAnno.load(tmp_path / "nowhere", reference)
        with pytest.raises(ValueError, match="holds no model.pt"):
            TransAnno.load(tmp_path, reference)

    @pytest.mark.parametrize("damage", ["empty", "cut", "text", "other pickle", "state dict"])
    def test_damaged_file(self, damage, saved_reference, reference, tmp_path):
        folder = tmp_path / "model"
        shutil.copytree(saved_reference, folder)
        path = folder / "model.pt"
        if damage == "empty":
            path.write_bytes(b"")
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:10_000])
        elif damage == "text":
            path.write_text("version https://git-lfs.github.com/spec/v1")
        elif damage == "other pickle":
            torch.save([1, 2], path)
        else:
            torch.save({"weight": torch.zeros(3)}, path)
        with pytest.raises(ValueError, match="damaged|lacks"):
            TransAnno.load(folder, reference)


class ChildWithDefaults(TransAnno):
    """Subclass without its own ``__init__``."""


class ChildWithKwargs(TransAnno):
    """Subclass that hands everything on."""

    def __init__(self, adata=None, registry=None, **kwargs):
        super().__init__(adata, registry, **kwargs)


class ChildWithArgument(TransAnno):
    """Subclass with an argument of its own."""

    def __init__(self, adata=None, registry=None, flavor="plain", **kwargs):
        super().__init__(adata, registry, **kwargs)
        self.flavor = flavor
        self.init_params_ = self._get_init_params(locals())


class TestArguments:
    """Conformance 40."""

    VIEWS = {
        "encoder": "views",
        "head": "conv",
        "n_hidden": 12,
        "n_latent": 10,
        "n_networks": 5,
        "n_layers": 2,
        "n_heads": 3,
        "dropout_rate": 0.3,
    }
    PERFORMER = {
        "encoder": "performer",
        "head": "experts",
        "n_hidden": 12,
        "n_layers": 2,
        "n_heads": 3,
        "head_dim": 5,
        "n_features": 7,
        "dropout_rate": 0.3,
    }

    @pytest.mark.parametrize("arguments", [VIEWS, PERFORMER], ids=["views", "performer"])
    @pytest.mark.parametrize(
        "cls", [TransAnno, TransAnnoPretrain, ChildWithDefaults, ChildWithKwargs, ChildWithArgument]
    )
    def test_every_argument_survives(self, cls, arguments, reference, fast, tmp_path):
        if cls is TransAnnoPretrain:
            arguments = {name: value for name, value in arguments.items() if name != "head"}
        cls.setup_anndata(reference, **({} if cls is TransAnnoPretrain else {"labels_key": "cell_type"}))
        own = {"flavor": "spicy"} if cls is ChildWithArgument else {}
        model = cls(reference, **own, **arguments)
        model.train(1, **fast)
        model.save(tmp_path / "model")
        # scvi-tools reads the arguments from the locals of one __init__ by the signature of another.
        loaded = cls.load(tmp_path / "model", reference)
        saved, found = model.init_params_, loaded.init_params_
        assert found == saved
        assert loaded.module.architecture == arguments
        np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
        if own:
            assert loaded.flavor == "spicy"
        if cls is not TransAnnoPretrain:
            dropouts = [part for part in loaded.module.classifier.modules() if isinstance(part, torch.nn.Dropout)]
            assert {part.p for part in dropouts} == {0.3}

    def test_every_argument_is_tested(self):
        assert {*self.VIEWS, *self.PERFORMER} == Architecture.__annotations__.keys()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [({"encoder": "ants"}, "encoder='ants'"), ({"n_hidden": 10, "n_heads": 4}, "n_heads=4")],
    )
    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_wrong_arguments_are_refused(self, cls, arguments, message, reference):
        cls.setup_anndata(reference, **({"labels_key": "cell_type"} if cls is TransAnno else {}))
        with pytest.raises(ValueError, match=message):
            cls(reference, **arguments)

    def test_training_record_survives(self, model, saved_reference):
        assert len(model.history["train_loss"]) == 4
        assert len(model.train_indices) + len(model.validation_indices) == 97


@pytest.mark.gpu
def test_model_saved_on_gpu_loads_onto_cpu(reference, query, small, fast, tmp_path):
    # conformance 39
    TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
    model = TransAnno(reference, **small)
    model.train(2, **{**fast, "accelerator": "gpu"})
    assert model.device.type == "cuda"
    expected = probabilities(model, query)
    model.save(tmp_path / "model")
    loaded = TransAnno.load(tmp_path / "model", reference, accelerator="cpu")
    assert loaded.device.type == "cpu"
    np.testing.assert_allclose(probabilities(loaded, query), expected, atol=1e-4)
    query_model = TransAnno.load_query_data(query, model, accelerator="cpu")
    assert query_model.device.type == "cpu"
    np.testing.assert_allclose(probabilities(query_model), expected, atol=1e-4)


class TestGolden:
    """Conformance 41: a model saved under scvi-tools 1.4.2; see tests/golden/README.md."""

    @pytest.fixture
    def golden(self):
        with np.load(GOLDEN / "expected.npz") as arrays:
            return dict(arrays)

    @pytest.fixture
    def cells(self, golden):
        return ad.AnnData(
            golden["counts"].astype("float32"),
            obs=pd.DataFrame({"batch": golden["batch"]}, index=golden["obs_names"]),
            var=pd.DataFrame(index=golden["genes"]),
        )

    def test_predictions(self, golden, cells):
        model = TransAnno.load(GOLDEN / "model", adata=False, accelerator="cpu")
        found = probabilities(model, cells)
        assert list(found.columns) == list(golden["classes"])
        np.testing.assert_allclose(found, golden["probabilities"], atol=1e-5)
        np.testing.assert_allclose(model.get_latent_representation(cells), golden["latent"], atol=1e-4)

    def test_with_data(self, golden, cells):
        model = TransAnno.load(GOLDEN / "model", cells, accelerator="cpu")
        np.testing.assert_allclose(probabilities(model), golden["probabilities"], atol=1e-5)

    def test_query(self, golden, cells):
        cells.obs["batch"] = "a new batch"
        model = TransAnno.load_query_data(cells, GOLDEN / "model", accelerator="cpu")
        found = model.predict()
        assert (found == golden["classes"][golden["probabilities"].argmax(axis=1)]).mean() > 0.9
