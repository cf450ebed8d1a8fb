"""Conformance 14-24: training as scvi-tools' users know it."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scvi.dataloaders import DataSplitter
from scvi.train import SaveCheckpoint

from transanno import TransAnno, TransAnnoPretrain
from transanno.training._epochs import default_max_epochs


@pytest.fixture
def new_model(reference, small):
    """Untrained model."""
    TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
    return TransAnno(reference, **small)


@pytest.fixture
def new_pretrained(reference, small):
    """Untrained model for pretraining."""
    TransAnnoPretrain.setup_anndata(reference, batch_key="batch")
    return TransAnnoPretrain(reference, **small)


class RecordCells(Callback):
    """Total counts, as names of cells, of every epoch's training minibatches; whether dropout was on."""

    def __init__(self):
        self.epochs, self.modes = [], []

    def on_train_epoch_start(self, trainer, plan):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        self.epochs[-1] += [tuple(row) for row in batch["X"].tolist()]
        self.modes.append(plan.module.training)


def cells_of(adata):
    """Same names of cells -> positions."""
    return {tuple(row): i for i, row in enumerate(adata.X.toarray().tolist())}


@pytest.mark.parametrize(("per_epoch", "expected"), [(0, 20), (20, 20), (100, 10), (10**6, 5)])
def test_default_number_of_epochs(per_epoch, expected):
    """At most 20, at least 5, and between them as many as it takes."""
    assert default_max_epochs(per_epoch, 1000, 20) == expected


@pytest.mark.parametrize("unlabeled", [0, 40])
def test_default_number_of_epochs_is_that_of_minibatches_of_labeled_cells(
    unlabeled, reference, small, monkeypatch, fast
):
    seen = []
    monkeypatch.setattr("transanno.models._train.N_STEPS", 700)
    monkeypatch.setattr(
        "transanno.models._transanno.run_training", lambda self, *_, max_epochs, **__: seen.append(max_epochs)
    )
    monkeypatch.setattr("transanno.models._transanno.warn_if_collapsed", lambda *_: None)
    labels = reference.obs["cell_type"].astype(str).to_numpy()
    labels[:unlabeled] = "Unlabeled"
    reference.obs["cell_type"] = labels
    TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
    model = TransAnno(reference, **small)
    for batch_size in (1, 32):
        model.train(train_size=1.0, **{**fast, "batch_size": batch_size})
    # 25 minibatches at least
    assert seen == [round(700 / (reference.n_obs - unlabeled)), 20]


class TestTrained:
    """Conformance 14-16."""

    def test_training_ends_in_eval_mode(self, new_model, new_pretrained, fast):
        # conformance 14
        for model in (new_model, new_pretrained):
            assert not model.is_trained
            model.train(1, **fast)
            assert model.is_trained
            assert not any(module.training for module in model.module.modules())

    def test_signal_is_learned(self, model, query):
        labels = model.predict(query)
        assert (labels == query.obs["cell_type"].to_numpy()).mean() > 0.9

    def test_history(self, new_model, fast):
        # conformance 15
        new_model.train(3, check_val_every_n_epoch=1, **fast)
        history = new_model.history
        for key in ("train_loss", "train_accuracy", "train_classification_loss"):
            assert np.isfinite(history[key].to_numpy(dtype=float)).all(), key
            assert len(history[key]) == 3, key
        for key in ("validation_loss", "validation_accuracy", "validation_f1_score", "validation_classification_loss"):
            assert np.isfinite(history[key].to_numpy(dtype=float)).all(), key
            assert len(history[key]) == 3, key

    def test_history_of_pretraining(self, new_pretrained, fast):
        # conformance 15
        new_pretrained.train(3, check_val_every_n_epoch=1, **fast)
        for key in ("train_loss", "masked_accuracy_train", "validation_loss", "masked_accuracy_validation"):
            assert np.isfinite(new_pretrained.history[key].to_numpy(dtype=float)).all(), key
            assert len(new_pretrained.history[key]) == 3, key

    def test_second_training_appends(self, new_model, fast):
        # conformance 16
        new_model.train(2, **fast)
        first = new_model.history["train_loss"].copy()
        new_model.train(3, **fast)
        both = new_model.history["train_loss"]
        assert len(both) == 5
        np.testing.assert_array_equal(both.to_numpy()[:2], first.to_numpy())

    def test_second_training_continues_from_the_first(self, new_model, fast):
        new_model.train(2, **fast)
        before = {name: tensor.clone() for name, tensor in new_model.module.state_dict().items()}
        new_model.train(1, plan_kwargs={"lr": 0.0}, **fast)
        for name, tensor in new_model.module.state_dict().items():
            assert torch.equal(tensor, before[name]), name

    # scvi-tools leaves the module in eval mode after train() and load(), and Lightning trains it as it finds it.
    def test_dropout_is_on_in_every_training(self, new_model, fast):
        recorders = [RecordCells(), RecordCells()]
        for recorder in recorders:
            new_model.train(1, callbacks=[recorder], **fast)
        assert [all(recorder.modes) for recorder in recorders] == [True, True]


class TestCallbacks:
    """Conformance 17-19."""

    def test_early_stopping_with_the_default_monitor(self, new_model, fast):
        # conformance 17
        new_model.train(9, early_stopping=True, early_stopping_patience=1, early_stopping_min_delta=10.0, **fast)
        assert 1 < len(new_model.history["train_loss"]) < 5

    def test_early_stopping_of_pretraining(self, new_pretrained, fast):
        # conformance 17
        new_pretrained.train(9, early_stopping=True, early_stopping_patience=1, early_stopping_min_delta=10.0, **fast)
        assert 1 < len(new_pretrained.history["train_loss"]) < 5

    def test_early_stopping_without_validation_cells_is_an_error(self, new_model, new_pretrained, fast):
        for model in (new_model, new_pretrained):
            with pytest.raises(ValueError, match="validation"):
                model.train(3, early_stopping=True, train_size=1.0, **fast)

    def test_save_checkpoint_loads_the_best(self, new_model, fast, tmp_path):
        # conformance 18
        callback = SaveCheckpoint(dirpath=str(tmp_path), monitor="validation_loss", load_best_on_end=True)
        new_model.train(3, callbacks=[callback], check_val_every_n_epoch=1, enable_checkpointing=True, **fast)
        assert callback.best_model_path
        best = TransAnno.load(callback.best_model_path, new_model.adata, accelerator="cpu")
        expected = best.predict(soft=True, key_added=None)
        np.testing.assert_array_equal(new_model.predict(soft=True, key_added=None), expected)

    @pytest.mark.parametrize("with_callbacks", [False, True])
    def test_n_samples_per_label_is_redrawn_every_epoch(self, with_callbacks, new_model, reference, fast):
        # conformance 19
        recorder, users_list = RecordCells(), [Callback()]
        callbacks = [recorder, *(users_list if with_callbacks else [])]
        new_model.train(
            4, n_samples_per_label=5, callbacks=callbacks, datasplitter_kwargs={"class_balance": 0.0}, **fast
        )
        assert len(callbacks) == 1 + with_callbacks  # the user's list is left as it was
        position = cells_of(reference)
        drawn = [sorted(position[cell] for cell in epoch) for epoch in recorder.epochs]
        labels = reference.obs["cell_type"].to_numpy()
        for epoch in drawn:
            assert {label: int((labels[epoch] == label).sum()) for label in set(labels)} == dict.fromkeys(
                set(labels), 5
            )
        assert len(set(map(tuple, drawn))) > 1


class TestEpisodes:
    @pytest.mark.usefixtures("whole_epochs")
    def test_every_minibatch_is_one(self, new_model, reference, fast):
        """25 minibatches, each of another composition, and no fewer cells in the last."""
        sizes, shares = [], []
        labels = {cell: reference.obs["cell_type"].iloc[i] for cell, i in cells_of(reference).items()}

        class Record(Callback):
            def on_train_batch_start(self, trainer, plan, batch, batch_idx):
                found = [labels[tuple(row)] for row in batch["X"].tolist()]
                sizes.append(len(found))
                shares.append(found.count("B cell") / len(found))

        new_model.train(2, callbacks=[Record()], **fast)
        assert sizes == [fast["batch_size"]] * 50
        assert np.std(shares) > 0.15

    def test_cells_without_label_take_no_part(self, reference, small, fast):
        labels = reference.obs["cell_type"].astype(str).to_numpy()
        labels[::3] = "Unlabeled"
        reference.obs["cell_type"] = labels
        TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
        recorder = RecordCells()
        TransAnno(reference, **small).train(2, callbacks=[recorder], **fast)
        position = cells_of(reference)
        assert "Unlabeled" not in {labels[position[cell]] for epoch in recorder.epochs for cell in epoch}


class TestSplit:
    """Conformance 20."""

    @pytest.mark.parametrize("fixture", ["new_model", "new_pretrained"])
    def test_sizes_and_indices(self, fixture, request, fast):
        model = request.getfixturevalue(fixture)
        model.train(1, train_size=0.6, validation_size=0.3, **fast)
        parts = [model.train_indices, model.validation_indices, model.test_indices]
        assert sorted(np.concatenate(parts).tolist()) == list(range(97))
        for part, share in zip(parts, (0.6, 0.3, 0.1), strict=True):
            assert abs(len(part) / 97 - share) < 0.05

    @pytest.mark.parametrize("fixture", ["new_model", "new_pretrained"])
    def test_external_indexing(self, fixture, request, reference, fast):
        model = request.getfixturevalue(fixture)
        order = np.random.default_rng(1).permutation(97)
        parts = [order[:71], order[71:90], order[90:]]
        recorder = RecordCells()
        model.train(2, datasplitter_kwargs={"external_indexing": parts}, callbacks=[recorder], **fast)
        for found, expected in zip(
            (model.train_indices, model.validation_indices, model.test_indices), parts, strict=True
        ):
            assert sorted(found) == sorted(expected)
        position = cells_of(reference)
        assert {position[cell] for epoch in recorder.epochs for cell in epoch} <= set(parts[0].tolist())

    @pytest.mark.parametrize("fixture", ["new_model", "new_pretrained"])
    @pytest.mark.parametrize("drop_last", [False, True])
    def test_drop_last(self, fixture, drop_last, request, fast):
        model = request.getfixturevalue(fixture)
        recorder = RecordCells()
        arguments = {"drop_last": drop_last} | ({"class_balance": 0.5} if fixture == "new_model" else {})
        model.train(1, train_size=1.0, datasplitter_kwargs=arguments, callbacks=[recorder], **fast)
        assert len(recorder.epochs[0]) == (96 if drop_last else 97)

    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_nothing_starts_from_cells_that_are_left_aside(self, cls, make_adata, small, fast):
        """Gene embeddings and means of expression are read from data, too."""
        split = np.split(np.arange(97), [60, 80])
        starts = []
        for scale in (1, 7):
            adata = make_adata(container=np.asarray)
            adata.X[60:, :20] *= scale
            cls.setup_anndata(adata, **({"labels_key": "cell_type"} if cls is TransAnno else {}))
            torch.manual_seed(0)
            model = cls(adata, **small)
            arguments = {"datasplitter_kwargs": {"external_indexing": split}, "plan_kwargs": {"lr": 0.0}}
            model.train(1, max_steps=1, **arguments, **fast)
            starts.append({name: value.clone() for name, value in model.module.state_dict().items()})
        assert starts[0]["commonest_bins"].min() >= 0
        for name in starts[0]:
            assert torch.equal(starts[0][name], starts[1][name]), name

    @pytest.mark.parametrize("fixture", ["new_model", "new_pretrained"])
    def test_what_is_fitted_before_training_sees_the_same_cells(self, fixture, request, fast, monkeypatch):
        """Also without a seed, where scvi-tools splits anew whenever it is asked."""
        scvi.settings.seed = None
        model = request.getfixturevalue(fixture)
        seen = []
        for where in ("_train.initialize_module", "_pretrain.initialize_module", "_train.teach_experts"):
            module, name = where.split(".")
            original = getattr(sys.modules[f"transanno.models.{module}"], name)

            def spy(*args, original=original, **kwargs):
                original(*args, **kwargs)
                seen.extend(each.train_idx for each in args if isinstance(each, DataSplitter))

            monkeypatch.setattr(f"transanno.models.{where}", spy)
        model.train(1, train_size=0.6, **fast)
        assert len(seen) == (2 if fixture == "new_model" else 1)
        for cells in seen:
            np.testing.assert_array_equal(cells, model.train_indices)

    def test_no_shuffling(self, new_model, fast):
        new_model.train(1, train_size=0.8, shuffle_set_split=False, **fast)
        found = np.sort(np.r_[new_model.train_indices, new_model.validation_indices])
        np.testing.assert_array_equal(found, np.arange(97))
        # scvi-tools takes the validation cells from the front.
        assert new_model.validation_indices.max() < new_model.train_indices.min()

    def test_a_type_with_one_cell_is_trained_on(self, reference, small, fast):
        reference.obs["cell_type"] = reference.obs["cell_type"].astype(object)
        reference.obs.loc[reference.obs_names[13], "cell_type"] = "Rare"
        TransAnno.setup_anndata(reference, "cell_type")
        for seed in range(5):
            scvi.settings.seed = seed
            model = TransAnno(reference, **small)
            model.train(1, train_size=0.5, max_steps=1, **fast)
            assert 13 in model.train_indices


class TestArguments:
    """Conformance 21, 23, 24."""

    @pytest.mark.parametrize("fixture", ["new_model", "new_pretrained"])
    def test_unknown_plan_argument_raises(self, fixture, request, fast):
        # conformance 21
        model = request.getfixturevalue(fixture)
        with pytest.raises(TypeError, match="learning_rat"):
            model.train(1, plan_kwargs={"learning_rat": 1e-3}, **fast)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("min_count_fraction", 0.0), ("min_count_fraction", 1.5), ("max_masked_fraction", 1.0)],
    )
    def test_plan_argument_out_of_range_raises(self, name, value, new_model, fast):
        with pytest.raises(ValueError, match=name):
            new_model.train(1, plan_kwargs={name: value}, **fast)

    def test_class_balance_out_of_range_raises(self, new_model, fast):
        with pytest.raises(ValueError, match="class_balance"):
            new_model.train(1, datasplitter_kwargs={"class_balance": 2.0}, **fast)

    @pytest.mark.parametrize(
        "plan_kwargs",
        [
            {"min_count_fraction": 1.0},
            {"gene_noise": 0.0},
            {"gene_lr": 0.1},
            {"balanced": False},
            {"masking": "uniform"},
            {"masking": "expressed", "reconstruction_weight": 0.3},
            {"max_masked_fraction": 0.0},
            {"batch_dropout": 0.0},
            {"batch_dropout": 1.0},
            {"reconstruction_weight": 0.0},
            {"label_smoothing": 0.0},
            {"weight_decay": 0.0},
            {"warmup_fraction": 0.0},
            {"min_count_fraction": 1.0, "gene_noise": 0.0, "max_masked_fraction": 0.0, "batch_dropout": 0.0},
        ],
        ids=str,
    )
    def test_every_plan_argument_trains(self, plan_kwargs, new_model, fast):
        new_model.train(1, plan_kwargs=plan_kwargs, check_val_every_n_epoch=1, **fast)
        assert math.isfinite(new_model.history["validation_loss"].iloc[-1, 0])

    @pytest.mark.parametrize("fixture", ["new_model", "new_pretrained"])
    def test_workers(self, fixture, request, fast):
        # conformance 23
        model = request.getfixturevalue(fixture)
        with warnings.catch_warnings():
            # Python 3.12 warns of forks of processes with threads, torch of forks in general.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            model.train(2, datasplitter_kwargs={"num_workers": 1}, **fast)
        assert len(model.history["train_loss"]) == 2

    def test_trainer_arguments_pass_through(self, new_model, fast):
        # conformance 24
        # Lightning refuses to clip gradients (which is on by default) in mixed precision with a fused optimizer.
        new_model.train(
            2, gradient_clip_val=0.3, accumulate_grad_batches=2, precision="bf16-mixed", log_every_n_steps=1, **fast
        )
        trainer = new_model.trainer
        assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches, trainer.precision) == (0.3, 2, "bf16-mixed")
        assert np.isfinite(new_model.predict(soft=True, key_added=None).to_numpy()).all()
        assert all(parameter.dtype == torch.float32 for parameter in new_model.module.parameters())

    @pytest.mark.usefixtures("whole_epochs")
    def test_default_number_of_epochs(self, new_model, monkeypatch, fast):
        seen = []

        def run(self, splitter, *, max_epochs, **kwargs):
            splitter.setup()
            seen.append(max_epochs)

        monkeypatch.setattr("transanno.models._transanno.run_training", run)
        monkeypatch.setattr("transanno.models._train.N_STEPS", 300)
        new_model.train(**fast)
        new_model.train(7, **fast)
        assert seen == [12, 7]


def test_batches_that_give_the_type_away_are_warned_of(reference, small, fast):
    reference.obs["batch"] = "lane of " + reference.obs["cell_type"].astype(str)
    TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
    with pytest.warns(UserWarning, match="leaves 0% of the uncertainty.*without batch_key"):
        TransAnno(reference, **small).train(1, **fast)


class TestSeed:
    """Conformance 22."""

    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_same_seed_gives_the_same_weights(self, cls, make_adata, small, fast):
        states, splits = [], []
        for _ in range(2):
            adata = make_adata()
            cls.setup_anndata(adata, **({"labels_key": "cell_type"} if cls is TransAnno else {}))
            scvi.settings.seed = 11
            model = cls(adata, **small)
            model.train(1, **fast)
            states.append(model.module.state_dict())
            splits.append(model.train_indices)
        np.testing.assert_array_equal(*splits)
        for name in states[0]:
            assert torch.equal(states[0][name], states[1][name]), name

    def test_same_seed_gives_the_same_predictions(self, make_adata, small, fast):
        found = []
        for seed in (11, 11, 12):
            adata = make_adata()
            TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
            scvi.settings.seed = seed
            model = TransAnno(adata, **small)
            model.train(1, **fast)
            found.append(model.predict(make_adata(61, seed=1), soft=True).to_numpy())
        np.testing.assert_array_equal(found[0], found[1])
        assert not np.array_equal(found[0], found[2])
