from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import scvi
import torch
from scvi import REGISTRY_KEYS
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from transanno import TransAnno
from transanno.predictions._torch import as_minibatch
from transanno.training._module import TransAnnoModule
from transanno.training._plan import TransAnnoTrainingPlan, _parameter_groups, _warm_restarts, _warmup_cosine

SMALL = {"n_hidden": 12, "n_latent": 22, "n_networks": 2, "n_layers": 1, "n_heads": 3}


@pytest.fixture
def module() -> TransAnnoModule:
    return TransAnnoModule(13, 5, 4, **SMALL)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((17, 13), 4.0)),
        REGISTRY_KEYS.BATCH_KEY: torch.arange(17)[:, None] % 5,
        REGISTRY_KEYS.LABELS_KEY: torch.arange(17)[:, None] % 4,
    }


class TestLog:
    @pytest.fixture
    def logged(self, monkeypatch) -> list:
        """What reaches Lightning."""
        calls = []
        monkeypatch.setattr(
            "lightning.pytorch.LightningModule.log", lambda self, name, value, **how: calls.append((name, value, how))
        )
        return calls

    def test_numbers_of_an_epoch_are_averaged_over_its_cells(self, module, logged):
        plan = TransAnnoTrainingPlan(module)
        for _ in range(2):
            plan._is_in_training_step = True
            plan.log("train_accuracy", torch.tensor(1.0), batch_size=3, on_epoch=True)
            plan.log_dict({"train_accuracy": torch.tensor(0.2)}, batch_size=1, on_epoch=True)
            plan.log("train_loss", torch.tensor(2.0), prog_bar=True)
            assert not logged
            plan._is_in_training_step = False
            plan.on_train_epoch_end()
            assert [(name, float(value)) for name, value, _ in logged] == [
                ("train_accuracy", pytest.approx(0.8)),
                ("train_loss", 2.0),
            ]
            assert logged[1][2] == {"prog_bar": True, "on_epoch": True}
            logged.clear()

    def test_metric_objects_are_handed_over_once(self, module, logged):
        plan = TransAnnoTrainingPlan(module)
        plan._is_in_training_step = True
        for _ in range(3):
            plan.log("train_f1", plan.validation_f1, batch_size=3)
        plan._is_in_training_step = False
        plan.on_train_epoch_end()
        assert [(name, value) for name, value, _ in logged] == [("train_f1", plan.validation_f1)]

    def test_validation_and_steps_reach_lightning_at_once(self, module, logged):
        plan = TransAnnoTrainingPlan(module)
        plan.log("validation_loss", torch.tensor(1.0))
        plan._is_in_training_step = True
        plan.log("train_loss_step", torch.tensor(1.0), on_step=True)
        assert [name for name, _, _ in logged] == ["validation_loss", "train_loss_step"]


class TestWarmupCosine:
    def test_values_by_hand(self):
        shares = [_warmup_cosine(step, 4, 12) for step in range(14)]
        cosine = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
        assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0, *cosine, 0.0, 0.0])

    @pytest.mark.parametrize(("n_warmup", "n_steps"), [(1, 1), (1, 2), (7, 7), (3, 101)])
    def test_stays_between_zero_and_one_and_reaches_the_peak(self, n_warmup, n_steps):
        shares = [_warmup_cosine(step, n_warmup, n_steps) for step in range(n_steps)]
        assert all(0 < share <= 1 for share in shares)
        assert shares[n_warmup - 1] == 1.0
        assert shares[n_warmup:] == sorted(shares[n_warmup:], reverse=True)


class TestWarmRestarts:
    """Cycles of 15, 30, 60, ... epochs, 5 of them warm-up, each peak nine tenths of the one before."""

    @pytest.mark.parametrize(
        ("epoch", "share"),
        [
            (0, 0.2),
            (4, 1.0),
            (5, 1.0),
            (10, 0.5),
            (14, 0.5 * (1 + math.cos(0.9 * math.pi))),
            (15, 0.9 * 0.2),
            (19, 0.9),
            (15 + 5 + 5, 0.9 * 0.5 * (1 + math.cos(0.2 * math.pi))),
            (45, 0.81 * 0.2),
            (49, 0.81),
            (105 + 4, 0.729),
        ],
    )
    def test_values_by_hand(self, epoch, share):
        assert _warm_restarts(epoch) == pytest.approx(share)

    def test_cosines_are_those_of_torch(self):
        """Without warm-up and decay of the peak, the tail of a cycle is torch's schedule of as many epochs."""
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
        for epoch in range(5, 15):
            assert _warm_restarts(epoch) == pytest.approx(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()


class TestParameterGroups:
    def test_only_weights_of_linear_layers_decay(self, module):
        decayed, others, genes = _parameter_groups(module, 0.03, 0.5, 0.1)
        assert [group["weight_decay"] for group in (decayed, others, genes)] == [0.03, 0.0, 0.0]
        names = {id(p): name for name, p in module.named_parameters()}
        linear = {f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
        assert {names[id(p)] for p in decayed["params"]} == linear
        assert {names[id(p)] for p in genes["params"]} == {"encoder.gene_embedding"}
        assert {names[id(p)] for p in others["params"]} == set(names.values()) - linear - {"encoder.gene_embedding"}
        assert "batch_embedding.weight" not in linear

    def test_gene_embeddings_have_their_own_rate(self, module):
        decayed, others, genes = _parameter_groups(module, 0.03, 0.5, 0.1)
        assert "lr" not in decayed
        assert "lr" not in others
        assert genes["lr"] == pytest.approx(0.05)

    @pytest.mark.parametrize("arguments", [{}, {"use_labels": False}], ids=str)
    def test_gene_embeddings_learn_at_the_rate_of_the_others_by_default(self, module, arguments):
        assert TransAnnoTrainingPlan(module, **arguments).gene_lr == 1.0
        assert TransAnnoTrainingPlan(module, **arguments, gene_lr=0.3).gene_lr == 0.3

    def test_frozen_parameters_are_left_out(self, module):
        module.freeze_for_query(3)
        (group,) = _parameter_groups(module, 0.03, 0.5, 0.1)
        assert group["weight_decay"] == 0.0
        assert [id(p) for p in group["params"]] == [id(module.batch_embedding.weight)]


def trainer(n_steps: int, precision: str = "32-true") -> SimpleNamespace:
    return SimpleNamespace(estimated_stepping_batches=n_steps, precision=precision)


class TestOptimizer:
    def test_learning_rate_follows_the_schedule(self, module, monkeypatch):
        monkeypatch.setattr(TransAnnoTrainingPlan, "trainer", trainer(23))
        plan = TransAnnoTrainingPlan(module, lr=0.02, warmup_fraction=0.2, weight_decay=0.3)
        configured = plan.configure_optimizers()
        optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        assert configured["lr_scheduler"]["interval"] == "step"
        assert isinstance(optimizer, torch.optim.AdamW)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0, 0.0]
        rates = []
        for _ in range(23):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates == pytest.approx([0.02 * _warmup_cosine(step, 4, 23) for step in range(23)])
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.0)

    def test_warm_restarts_are_stepped_every_epoch_and_end_at_the_minimum(self, module, monkeypatch):
        monkeypatch.setattr(TransAnnoTrainingPlan, "trainer", trainer(23))
        plan = TransAnnoTrainingPlan(module, lr=0.02, lr_schedule="warm_restarts", lr_min=0.002)
        configured = plan.configure_optimizers()
        assert configured["lr_scheduler"]["interval"] == "epoch"
        optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        rates = []
        for _ in range(46):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates == pytest.approx([0.002 + 0.018 * _warm_restarts(epoch) for epoch in range(46)])
        assert min(rates) > 0.002

    def test_cosine_ends_at_the_minimum(self, module, monkeypatch):
        monkeypatch.setattr(TransAnnoTrainingPlan, "trainer", trainer(11))
        plan = TransAnnoTrainingPlan(module, lr=0.02, lr_min=0.005)
        configured = plan.configure_optimizers()
        optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        for _ in range(11):
            optimizer.step()
            scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)

    @pytest.mark.parametrize("name", ["Adam", "AdamW"])
    def test_optimizer_by_name(self, name, module, monkeypatch):
        monkeypatch.setattr(TransAnnoTrainingPlan, "trainer", trainer(7))
        plan = TransAnnoTrainingPlan(module, optimizer=name)
        assert type(plan.configure_optimizers()["optimizer"]).__name__ == name

    @pytest.mark.parametrize("warmup_fraction", [0.0, 1.0])
    def test_no_warmup_and_nothing_else(self, warmup_fraction, module, monkeypatch):
        monkeypatch.setattr(TransAnnoTrainingPlan, "trainer", trainer(7))
        plan = TransAnnoTrainingPlan(module, lr=0.02, warmup_fraction=warmup_fraction)
        rate = plan.configure_optimizers()["optimizer"].param_groups[0]["lr"]
        assert rate == pytest.approx(0.02 if warmup_fraction == 0 else 0.02 / 7)

    @pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
    def test_one_kernel_in_full_precision_only(self, precision, module, monkeypatch):
        monkeypatch.setattr(TransAnnoTrainingPlan, "trainer", trainer(7, precision))
        optimizer = TransAnnoTrainingPlan(module).configure_optimizers()["optimizer"]
        assert optimizer.defaults["fused"] == (precision == "32-true")


class TestArguments:
    @pytest.mark.parametrize("value", [0.0, -0.1, 1.1])
    def test_min_count_fraction(self, value, module):
        with pytest.raises(ValueError, match=rf"min_count_fraction={value} is outside \(0, 1\]"):
            TransAnnoTrainingPlan(module, min_count_fraction=value)

    @pytest.mark.parametrize("value", [1.0, -0.1, 1.1])
    def test_max_masked_fraction(self, value, module):
        with pytest.raises(ValueError, match=rf"max_masked_fraction={value} is outside \[0, 1\)"):
            TransAnnoTrainingPlan(module, max_masked_fraction=value)

    @pytest.mark.parametrize(
        ("name", "value", "interval"),
        [
            ("lr", -1e-3, r"\[0, inf\)"),
            ("lr_min", 0.1, r"\[0, 0.002\]"),
            ("gene_lr", 1.5, r"\[0, 1\]"),
            ("weight_decay", -0.1, r"\[0, inf\)"),
            ("gene_noise", -0.5, r"\[0, inf\)"),
            ("warmup_fraction", 1.5, r"\[0, 1\]"),
            ("masked_fraction", 1.0, r"\[0, 1\)"),
            ("replace_probability", -0.5, r"\[0, 1\]"),
            ("batch_dropout", 1.5, r"\[0, 1\]"),
            ("batch_dropout", math.nan, r"\[0, 1\]"),
            ("reconstruction_weight", -1.0, r"\[0, inf\)"),
            ("label_smoothing", 1.0, r"\[0, 1\)"),
        ],
    )
    def test_out_of_range(self, name, value, interval, module):
        with pytest.raises(ValueError, match=rf"^{name}={value} is outside {interval}\. Choose"):
            TransAnnoTrainingPlan(module, **{name: value})

    @pytest.mark.parametrize(
        ("name", "allowed"),
        [
            ("optimizer", "'AdamW', 'Adam'"),
            ("lr_schedule", "'cosine', 'warm_restarts'"),
            ("masking", "'panel', 'uniform', 'expressed'"),
        ],
    )
    def test_unknown_word(self, name, allowed, module):
        with pytest.raises(ValueError, match=f"^{name}='adam' is not known. Allowed: {allowed}"):
            TransAnnoTrainingPlan(module, **{name: "adam"})

    @pytest.mark.parametrize(
        "arguments",
        [
            {"max_masked_fraction": 0.0},
            {"masking": "expressed", "masked_fraction": 0.0},
            {"reconstruction_weight": 0.0},
            {"reconstruction_weight": 0.0, "masking": "panel"},
        ],
        ids=str,
    )
    def test_nothing_to_learn_from(self, arguments, module):
        TransAnnoTrainingPlan(module, **arguments)
        for labels in ({"use_labels": False}, {}):
            unlabeled = module if labels else TransAnnoModule(13, 5, 0, **SMALL)
            with pytest.raises(ValueError, match="nothing to learn from"):
                TransAnnoTrainingPlan(unlabeled, **arguments, **labels)

    @pytest.mark.parametrize("arguments", [{"use_labels": False}, {"reconstruction_weight": 0.1}], ids=str)
    def test_genes_of_a_panel_are_not_to_be_predicted(self, arguments, module):
        with pytest.raises(ValueError, match=r"^reconstruction_weight=.*, but masking='panel'.*Choose another masking"):
            TransAnnoTrainingPlan(module, masking="panel", **arguments)

    def test_unknown_argument(self, module):
        with pytest.raises(TypeError, match="learning_rate"):
            TransAnnoTrainingPlan(module, learning_rate=1e-3)


class TestDefaults:
    """What depends on what is learned: labels, hidden genes, or both."""

    LABELS_ONLY = {"max_masked_fraction": 0.4, "is_panel": True, "min_count_fraction": 0.15, "gene_noise": 0.7}
    GENES_ONLY = {"max_masked_fraction": 0.4, "min_count_fraction": 0.15, "gene_noise": 0.0}
    BOTH = {"max_masked_fraction": 0.4, "min_count_fraction": 0.15, "gene_noise": 0.7}

    @pytest.mark.parametrize(
        ("n_labels", "arguments", "augmentation", "weight"),
        [
            (4, {}, LABELS_ONLY, 0.0),
            (4, {"use_labels": False}, GENES_ONLY, 1.0),
            (0, {}, GENES_ONLY, 1.0),
            (4, {"reconstruction_weight": 0.3}, BOTH, 0.3),
            (4, {"masking": "uniform"}, BOTH, 0.0),
            (4, {"use_labels": False, "gene_noise": 0.2}, GENES_ONLY | {"gene_noise": 0.2}, 1.0),
            (4, {"gene_noise": 0.0}, LABELS_ONLY | {"gene_noise": 0.0}, 0.0),
        ],
    )
    def test_augmentation_and_weight(self, n_labels, arguments, augmentation, weight):
        plan = TransAnnoTrainingPlan(TransAnnoModule(13, 5, n_labels, **SMALL), **arguments)
        assert plan.augmentation == augmentation | {"batch_dropout": 0.5}
        assert plan.loss_kwargs["reconstruction_weight"] == weight

    def test_learning_rate_is_that_of_the_encoder(self, module):
        assert TransAnnoTrainingPlan(module).lr == module.encoder.lr

    @pytest.mark.parametrize("balanced", [True, False])
    def test_balance_reaches_the_loss(self, balanced, module):
        assert TransAnnoTrainingPlan(module).loss_kwargs["balanced"]
        assert TransAnnoTrainingPlan(module, balanced=balanced).loss_kwargs["balanced"] == balanced


class TestForward:
    def test_training_cells_are_augmented_and_validation_cells_not(self, module, tensors):
        arguments = {"min_count_fraction": 0.3, "gene_noise": 0.2, "max_masked_fraction": 0.5, "batch_dropout": 0.7}
        plan = TransAnnoTrainingPlan(module, **arguments, masking="uniform")
        assert plan.augmentation == arguments
        plan.train()
        outputs, generated, _ = plan(tensors, loss_kwargs={})
        assert outputs["is_hidden"].any()
        assert "bin_logits" in generated
        plan.eval()
        outputs, generated, _ = plan(tensors, loss_kwargs={})
        assert not outputs["is_hidden"].any()
        assert generated == {}
        expected = module.inference(**module._get_inference_input(tensors))
        assert torch.equal(outputs["logits"], expected["logits"])

    def test_pretraining_hides_genes_of_validation_cells_but_thins_nothing(self, tensors, monkeypatch):
        module = TransAnnoModule(13, 5, 0, **SMALL)
        plan = TransAnnoTrainingPlan(module, max_masked_fraction=0.5).eval()
        seen = {}
        inference = module.inference

        def spy(*args, **kwargs):
            seen.update(kwargs)
            return inference(*args, **kwargs)

        monkeypatch.setattr(module, "inference", spy)
        _, _, loss = plan(tensors, loss_kwargs={})
        assert loss.loss > 0
        assert seen["max_masked_fraction"] == 0.5
        assert seen.get("min_count_fraction", 1.0) == 1.0
        assert seen.get("gene_noise", 0.0) == 0.0
        assert seen.get("batch_dropout", 0.0) == 0.0

    def test_expressed_genes_are_masked_in_training_and_in_validation_of_pretraining(self, tensors):
        arguments = {"masking": "expressed", "masked_fraction": 0.3, "replace_probability": 0.7}
        for n_labels in (0, 4):
            module = TransAnnoModule(13, 5, n_labels, **SMALL)
            plan = TransAnnoTrainingPlan(module, min_count_fraction=1.0, gene_noise=0.0, **arguments)
            assert plan.augmentation == {
                "min_count_fraction": 1.0,
                "gene_noise": 0.0,
                "masked_fraction": 0.3,
                "replace_probability": 0.7,
                "batch_dropout": 0.5,
            }
            for is_training in (True, False):
                outputs, generated, _ = plan.train(is_training)(tensors, loss_kwargs={})
                assert bool(generated) == (is_training or n_labels == 0)
                assert not outputs["is_hidden"].expand(17, -1)[tensors[REGISTRY_KEYS.X_KEY] == 0].any()

    def test_loss_arguments_reach_the_loss(self, module):
        plan = TransAnnoTrainingPlan(module, reconstruction_weight=0.7, use_labels=False, label_smoothing=0.2)
        assert {key: plan.loss_kwargs[key] for key in ("reconstruction_weight", "use_labels", "label_smoothing")} == {
            "reconstruction_weight": 0.7,
            "use_labels": False,
            "label_smoothing": 0.2,
        }


def test_logged_validation_metrics_are_those_of_the_predictions(reference, small, fast):
    TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
    scvi.settings.seed = 1  # decides the split
    model = TransAnno(reference, **small, head="conv")  # the other experts would make no error on these data
    model.train(1, train_size=0.6, check_val_every_n_epoch=1, plan_kwargs={"reconstruction_weight": 0.1}, **fast)
    cells = model.validation_indices
    truth = reference.obs["cell_type"].to_numpy()[cells]
    # In validation, as in a loader of minibatches, cells are compared with the mean of the reference.
    registered = model._registered_cells()
    minibatch = as_minibatch(model.module, registered.counts.rows(cells), registered.batch[cells])
    predicted = model.predict(dataloader=[minibatch])
    assert abs(f1_score(truth, predicted, average="macro") - accuracy_score(truth, predicted)) > 0.01
    history = {key: frame.iloc[-1].item() for key, frame in model.history.items()}
    assert history["validation_accuracy"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-5)
    assert history["validation_f1_score"] == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-5)
    assert history["validation_loss"] == pytest.approx(history["validation_classification_loss"], abs=1e-5)
    for key in ("train_accuracy", "train_classification_loss", "masked_accuracy_train"):
        assert key in history, sorted(history)
