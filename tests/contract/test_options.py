"""Training options of TransAnno-Net: each on its own, and all together as the preset."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scvi.train import SaveCheckpoint

from transanno import TransAnno, TransAnnoPretrain
from transanno.predictions._torch import as_minibatch
from transanno.presets import PAPER


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


@pytest.fixture
def from_pretrained(pretrained, reference):
    """Untrained model with pretrained weights."""
    return TransAnno.from_pretrained(pretrained, reference, "cell_type", batch_key="batch")


class RecordRates(Callback):
    """Learning rate of every update, and the epoch it belongs to."""

    def __init__(self):
        self.rates, self.epochs = [], []

    def on_before_optimizer_step(self, trainer, plan, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.epochs.append(trainer.current_epoch)


class RecordCells(Callback):
    """Ids of the cells of every minibatch: their number is the count of the first gene."""

    def __init__(self):
        self.seen = {"train": [], "validation": []}

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        self.seen["train"] += batch["X"][:, 0].int().tolist()

    def on_validation_batch_start(self, trainer, plan, batch, batch_idx, dataloader_idx=0):
        self.seen["validation"] += batch["X"][:, 0].int().tolist()


class TestOversampling:
    @pytest.mark.parametrize("class_balance", [0.0, 0.5, 1.0, "oversample", "episodes"])
    @pytest.mark.parametrize("on_disk", [False, True])
    def test_no_cell_is_on_both_sides_of_a_split(self, class_balance, on_disk, reference, small, fast, tmp_path):
        counts = reference.X.toarray()
        counts[:, 0] = np.arange(97)
        reference.X = sp.csr_matrix(counts)
        labels = reference.obs["cell_type"].to_numpy()
        if on_disk:
            reference.write_h5ad(tmp_path / "reference.h5ad")
            reference = ad.read_h5ad(tmp_path / "reference.h5ad", backed="r")
        TransAnno.setup_anndata(reference, "cell_type")
        model, recorder = TransAnno(reference, **small), RecordCells()
        model.train(
            3,
            train_size=0.6,
            validation_size=0.2,
            check_val_every_n_epoch=1,
            datasplitter_kwargs={"class_balance": class_balance},
            callbacks=[recorder],
            **fast,
        )
        train, validation, test = (
            set(map(int, indices)) for indices in (model.train_indices, model.validation_indices, model.test_indices)
        )
        assert len(train) + len(validation) + len(test) == len(train | validation | test) == 97
        assert min(map(len, (train, validation, test))) > 10
        seen = recorder.seen["train"]
        assert set(seen) <= train
        assert sorted(recorder.seen["validation"]) == sorted(3 * list(validation))  # each cell once per epoch
        if class_balance == "oversample":
            assert set(seen) == train
            n_largest = max((labels[list(train)] == label).sum() for label in set(labels))
            assert {label: int((labels[seen] == label).sum()) for label in set(labels)} == dict.fromkeys(
                set(labels), 3 * n_largest
            )
        if on_disk:
            reference.file.close()


# As many minibatches in an epoch as there are cells for.
AS_IN_THE_DATA = {"class_balance": 0.0}


class TestSchedule:
    def test_warm_restarts_step_once_an_epoch(self, new_model, fast):
        recorder = RecordRates()
        plan = {"lr": 0.01, "lr_schedule": "warm_restarts", "lr_min": 0.001}
        new_model.train(17, plan_kwargs=plan, datasplitter_kwargs=AS_IN_THE_DATA, callbacks=[recorder], **fast)
        share = [0.2, 0.4, 0.6, 0.8, 1.0, *(0.5 * (1 + np.cos(np.pi * np.arange(10) / 10))), 0.18, 0.36]
        expected = 0.001 + 0.009 * np.array(share)
        assert len(recorder.rates) == 17 * 3
        np.testing.assert_allclose(recorder.rates, np.repeat(expected, 3), rtol=1e-6)

    # 87 training cells, 8 in a minibatch: 11 minibatches, and with 4 of them accumulated 3 updates an epoch.
    @pytest.mark.parametrize("lr_schedule", ["cosine", "warm_restarts"])
    def test_accumulated_minibatches_are_one_step_of_the_schedule(self, lr_schedule, new_model, fast):
        recorder = RecordRates()
        plan = {"lr": 0.01, "lr_schedule": lr_schedule}
        arguments = fast | {"batch_size": 8, "accumulate_grad_batches": 4, "callbacks": [recorder]}
        new_model.train(5, plan_kwargs=plan, datasplitter_kwargs=AS_IN_THE_DATA, **arguments)
        assert recorder.epochs == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
        rates = np.array(recorder.rates) / 0.01
        if lr_schedule == "warm_restarts":
            np.testing.assert_allclose(rates, np.repeat([0.2, 0.4, 0.6, 0.8, 1.0], 3))
        else:  # one step of warm-up, 14 of the cosine
            np.testing.assert_allclose(rates, [1.0, *(0.5 * (1 + np.cos(np.pi * np.arange(14) / 14)))], atol=1e-9)

    def test_accumulated_gradient_is_that_of_the_whole_minibatch(self, reference, fast):
        """With the Performer: views compare cells with the mean of their minibatch."""
        performer = {"encoder": "performer", "n_hidden": 18, "n_layers": 1, "n_heads": 2, "head_dim": 7}
        weights = []
        for batch_size, n_accumulated in ((24, 1), (6, 4)):
            scvi.settings.seed = 5
            TransAnno.setup_anndata(reference[:48].copy(), "cell_type")
            adata = reference[:48].copy()
            TransAnno.setup_anndata(adata, "cell_type")
            model = TransAnno(adata, **performer, dropout_rate=0.0)
            plan = {"min_count_fraction": 1.0, "gene_noise": 0.0, "max_masked_fraction": 0.0, "batch_dropout": 0.0}
            plan |= {"warmup_fraction": 0.0, "balanced": False}
            model.train(
                2,
                train_size=1.0,
                plan_kwargs=plan,
                datasplitter_kwargs=AS_IN_THE_DATA,
                accumulate_grad_batches=n_accumulated,
                **(fast | {"batch_size": batch_size}),
            )
            weights.append(model.module.classifier.perceptron[-1].weight.detach())
        assert weights[0].abs().max() > 1e-3
        torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-6)


class TestEarlyStopping:
    def test_on_validation_accuracy(self, reference, small, fast):
        TransAnno.setup_anndata(reference, "cell_type")
        new_model = TransAnno(reference, **small, head="conv")  # the other experts would be right from the start
        new_model.train(
            60,
            train_size=0.7,
            early_stopping=True,
            early_stopping_monitor="validation_accuracy",
            early_stopping_mode="max",
            early_stopping_patience=7,
            plan_kwargs={"lr": 5e-3},
            **fast,
        )
        accuracy = new_model.history["validation_accuracy"].to_numpy(dtype=float).ravel()
        best = int(accuracy.argmax())
        assert accuracy[best] > accuracy[0]
        assert len(accuracy) == best + 1 + 7 < 60

    def test_weights_of_the_best_epoch_are_restored_on_request(self, new_model, fast, tmp_path):
        callback = SaveCheckpoint(
            dirpath=str(tmp_path), monitor="validation_accuracy", mode="max", load_best_on_end=True
        )
        new_model.train(
            20,
            train_size=0.6,
            early_stopping=True,
            early_stopping_monitor="validation_accuracy",
            early_stopping_mode="max",
            early_stopping_patience=3,
            callbacks=[callback],
            plan_kwargs={"lr": 5e-3},
            **fast,
        )
        cells = new_model.validation_indices
        truth = new_model.adata.obs["cell_type"].to_numpy()[cells]
        registered = new_model._registered_cells()
        minibatch = as_minibatch(new_model.module, registered.counts.rows(cells), registered.batch[cells])
        accuracy = (new_model.predict(dataloader=[minibatch]) == truth).mean()
        assert accuracy == pytest.approx(new_model.history["validation_accuracy"].to_numpy(dtype=float).max())


def changed_weights(before: dict[str, torch.Tensor], model: TransAnno) -> set[str]:
    """Names of the parameters that training moved."""
    return {name for name, weight in model.module.named_parameters() if not torch.equal(weight, before[name])}


def copied(model: TransAnno) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.module.named_parameters()}


class TestFreeze:
    # The paper's rule in the default encoder: its final norm and its last layer.
    LEARNING = {"encoder": ("classifier.", "batch_embedding."), "partial": (
        "classifier.", "batch_embedding.", *(f"encoder.networks.{k}.{part}." for k in (0, 1) for part in ("norm", "blocks.0")))}  # fmt: skip

    @pytest.mark.parametrize("freeze", ["encoder", "partial"])
    def test_only_what_it_says_changes(self, freeze, from_pretrained, fast):
        before = copied(from_pretrained)
        from_pretrained.train(3, freeze=freeze, plan_kwargs={"weight_decay": 0.1}, **fast)
        assert changed_weights(before, from_pretrained) == {n for n in before if n.startswith(self.LEARNING[freeze])}

    # What predicts expression learns only where it has to.
    EVERYTHING = {"reconstruction_weight": 0.3}

    def test_a_later_training_changes_all(self, from_pretrained, fast):
        from_pretrained.train(1, freeze="partial", **fast)
        before = copied(from_pretrained)
        from_pretrained.train(2, **fast)
        assert changed_weights(before, from_pretrained) == {n for n in before if not n.startswith("expression_head.")}
        before = copied(from_pretrained)
        from_pretrained.train(2, plan_kwargs=self.EVERYTHING, **fast)
        assert changed_weights(before, from_pretrained) == set(before)

    def test_after_saving_and_loading(self, from_pretrained, reference, query, fast, tmp_path):
        from_pretrained.train(2, freeze="partial", **fast)
        from_pretrained.save(tmp_path / "model")
        loaded = TransAnno.load(tmp_path / "model", reference, accelerator="cpu")
        expected = from_pretrained.predict(query, soft=True)
        pd.testing.assert_frame_equal(loaded.predict(query, soft=True), expected)
        before = copied(loaded)
        loaded.train(1, freeze="encoder", **fast)  # what is loaded was trained: it can be frozen
        assert changed_weights(before, loaded) == {n for n in before if n.startswith(self.LEARNING["encoder"])}
        before = copied(loaded)
        loaded.train(2, plan_kwargs=self.EVERYTHING, **fast)
        assert changed_weights(before, loaded) == set(before)

    def test_is_not_handed_down_to_queries(self, from_pretrained, new_batch_query, fast):
        from_pretrained.train(2, freeze="partial", **fast)
        query_model = TransAnno.load_query_data(new_batch_query, from_pretrained, unfrozen=True)
        before = copied(query_model)
        query_model.train(2, plan_kwargs={"batch_dropout": 0.5}, **fast)
        assert changed_weights(before, query_model) == set(before)

    def test_random_weights_are_not_frozen(self, new_model, fast):
        with pytest.raises(ValueError, match="neither pretrained nor trained"):
            new_model.train(1, freeze="encoder", **fast)

    def test_genes_that_pretraining_has_not_seen_are_warned_of(self, reference, small, fast):
        more = reference.copy()
        more.var_names = [*reference.var_names[:-2], "new1", "new2"]
        TransAnnoPretrain.setup_anndata(reference)
        pretrained = TransAnnoPretrain(reference, **small)
        pretrained.train(1, **fast)
        model = TransAnno.from_pretrained(pretrained, more, "cell_type")
        with pytest.warns(UserWarning, match="2 of 53 genes were not in pretraining"):
            model.train(1, freeze="partial", **fast)

    def test_unknown_word(self, from_pretrained, fast):
        with pytest.raises(ValueError, match="freeze='all' is not known. Allowed: 'encoder', 'partial'"):
            from_pretrained.train(1, freeze="all", **fast)

    def test_query_models_are_frozen_already(self, model, new_batch_query, fast):
        query_model = TransAnno.load_query_data(new_batch_query, model)
        with pytest.raises(ValueError, match="model of a query"):
            query_model.train(1, freeze="encoder", **fast)


def two_kinds(n_obs: int, seed: int) -> ad.AnnData:
    """Cells of two kinds that differ in every gene but one, which is so high that the others are in all bins."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(2, size=n_obs, p=[0.6, 0.4])
    mean = np.where((np.arange(53) % 2) == kind[:, None], 1.0, 12.0)
    mean[:, 0] = 3000
    adata = ad.AnnData(
        sp.csr_matrix(rng.poisson(mean).astype("float32")), var=pd.DataFrame(index=[f"G{i}" for i in range(53)])
    )
    TransAnnoPretrain.setup_anndata(adata)
    return adata


class TestReconstructionAccuracy:
    # What the paper hides, and what the package hides by default.
    MASKING = [{"masking": "expressed"}, {}]

    @pytest.mark.parametrize("plan_kwargs", MASKING, ids=["expressed", "uniform"])
    def test_history_has_the_guess_beside_the_model(self, plan_kwargs, small, fast):
        new_pretrained = TransAnnoPretrain(two_kinds(97, 0), **small)
        new_pretrained.train(2, check_val_every_n_epoch=1, plan_kwargs=plan_kwargs, **fast)
        for mode in ("train", "validation"):
            for key in (f"masked_accuracy_{mode}", f"masked_accuracy_commonest_{mode}"):
                values = new_pretrained.history[key].to_numpy(dtype=float)
                assert len(values) == 2
                assert ((values > 0) & (values < 1)).all(), key

    @pytest.mark.parametrize("plan_kwargs", MASKING, ids=["expressed", "uniform"])
    def test_of_cells_that_were_left_aside(self, plan_kwargs, small, fast):
        """The network starts as the guess; enough training on data with a signal beats it."""
        model = TransAnnoPretrain(two_kinds(97, 0), **small)
        model.train(1, plan_kwargs={"lr": 0.0, **plan_kwargs}, **fast)
        left_aside = two_kinds(101, 1)
        untrained = model.get_reconstruction_accuracy(left_aside)
        model.train(15, plan_kwargs={"lr": 1e-2, **plan_kwargs}, **fast)
        trained = model.get_reconstruction_accuracy(left_aside)
        assert list(trained.index) == ["accuracy", "accuracy_commonest", "n_hidden"]
        assert untrained["accuracy"] == pytest.approx(untrained["accuracy_commonest"], abs=0.03)
        assert untrained["accuracy_commonest"] + 0.03 < trained["accuracy"] < 1
        assert trained[1:].equals(untrained[1:])  # the same genes were hidden, and the guess does not learn
        n_expressed = int((left_aside.X > 0).sum())
        n_expected = 0.15 * n_expressed if plan_kwargs else 0.2 * 101 * 53
        assert abs(trained["n_hidden"] / n_expected - 1) < 0.1

    def test_guess_is_the_commonest_bin_of_the_training_cells(self, new_pretrained, reference, query, fast):
        new_pretrained.train(1, plan_kwargs={"max_masked_fraction": 0.99}, **fast)
        found = new_pretrained.get_reconstruction_accuracy(query)

        def bins(adata) -> np.ndarray:
            x = adata.X.toarray().astype(float)
            return np.log2(1 + 1e4 * x / x.sum(axis=1, keepdims=True)).astype(int).clip(max=5)

        guess = pd.DataFrame(bins(reference)).mode().iloc[0].to_numpy()
        all_genes = (bins(query) == guess).mean()  # of which about half are hidden
        assert abs(found["accuracy_commonest"] - all_genes) < 5 * np.sqrt(0.25 / found["n_hidden"])

    def test_saved_and_loaded(self, new_pretrained, query, fast, tmp_path):
        new_pretrained.train(1, plan_kwargs={"masking": "expressed", "masked_fraction": 0.4}, **fast)
        expected = new_pretrained.get_reconstruction_accuracy(query)
        new_pretrained.save(tmp_path / "model")
        loaded = TransAnnoPretrain.load(tmp_path / "model", False, accelerator="cpu")
        assert loaded.get_reconstruction_accuracy(query).equals(expected)

    def test_genes_are_matched_and_cells_chosen(self, pretrained, query):
        expected = pretrained.get_reconstruction_accuracy(query, indices=[5, 3])
        assert pretrained.get_reconstruction_accuracy(query[[5, 3], np.arange(53)[::-1]].copy()).equals(expected)
        missing = pretrained.get_reconstruction_accuracy(query[:, 10:].copy())
        assert missing["n_hidden"] < pretrained.get_reconstruction_accuracy(query)["n_hidden"]

    def test_seed_decides_and_leaves_no_trace(self, pretrained, query):
        state = torch.random.get_rng_state()
        first, second = (pretrained.get_reconstruction_accuracy(query, seed=seed) for seed in (0, 1))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert not first.equals(second)

    def test_untrained(self, new_pretrained):
        with pytest.raises(RuntimeError, match="train"):
            new_pretrained.get_reconstruction_accuracy()


class TestPaper:
    """All of it together; the network of the paper is tested where it is there."""

    N_OBS, N_GENES = 157, 401

    def cells(self, seed: int) -> ad.AnnData:
        rng = np.random.default_rng(seed)
        labels = np.r_[0, 1, 2, rng.choice(3, size=self.N_OBS - 3, p=[0.7, 0.2, 0.1])]
        profiles = np.random.default_rng(0).gamma(0.3, 1.0, size=(3, self.N_GENES))
        return ad.AnnData(
            sp.csr_matrix(rng.poisson(5.0 * profiles[labels]).astype("float32")),
            obs=pd.DataFrame(
                {"cell_type": np.array(["a", "b", "c"])[labels]}, index=[f"c{i}" for i in range(self.N_OBS)]
            ),
            var=pd.DataFrame(index=[f"G{i}" for i in range(self.N_GENES)]),
        )

    @pytest.mark.parametrize(
        "architecture",
        [
            pytest.param({}, id="views"),
            # The paper's is ten times wider and three times deeper: minutes on a CPU.
            pytest.param({**PAPER.model, "n_hidden": 20, "n_layers": 2, "n_heads": 2, "head_dim": 10}, id="performer"),
        ],
    )
    def test_pretrains_fine_tunes_and_predicts(self, architecture):
        on_cpu = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 1}
        atlas, reference = self.cells(1), self.cells(2)
        TransAnnoPretrain.setup_anndata(atlas)
        pretrained = TransAnnoPretrain(atlas, **architecture)
        pretrained.train(**{**PAPER.pretrain, **on_cpu})
        assert pretrained.trainer.global_step == 2  # 125 cells, 2 × 60 in an update
        assert np.isfinite(pretrained.history["train_loss"].to_numpy(dtype=float)).all()
        accuracy = pretrained.get_reconstruction_accuracy(reference)
        assert 0 < accuracy["accuracy_commonest"] < 1
        model = TransAnno.from_pretrained(pretrained, reference, "cell_type")
        before = copied(model)
        model.train(**{**PAPER.finetune, **on_cpu})
        frozen = before.keys() - changed_weights(before, model)
        norms = {f"encoder.networks.{k}.norm.weight" for k in (0, 1)} if not architecture else {"encoder.norm.weight"}
        assert norms < set(before)
        assert not norms & frozen
        assert {name for name in before if name.startswith("expression_head.")} <= frozen
        labels = model.adata.obs["cell_type"].to_numpy()[model.train_indices]
        n_drawn = 3 * max((labels == label).sum() for label in set(labels))
        assert model.trainer.num_training_batches == -(-n_drawn // 6)
        assert model.trainer.early_stopping_callback.monitor == "validation_accuracy"
        assert model.predict(key_added=None).shape == (self.N_OBS,)

    def test_nobody_can_change_it(self):
        with pytest.raises(TypeError):
            PAPER.finetune["plan_kwargs"]["lr"] = 1.0
        with pytest.raises(AttributeError):
            PAPER.model = {}
