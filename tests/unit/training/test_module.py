from __future__ import annotations

import math

import pytest
import torch
from scvi import REGISTRY_KEYS
from torch.nn import functional as F

from transanno.nn import Context, EncoderOutput, Shares, normalize_counts
from transanno.training._module import TransAnnoModule

N_OBS, N_VARS, N_BATCH, N_CLASSES = 17, 13, 5, 3
NONE_MISSING = torch.zeros(N_VARS, dtype=torch.bool)
SMALL = {"n_hidden": 12, "n_latent": 22, "n_networks": 2, "n_layers": 1, "n_heads": 3}
PERFORMER = {"encoder": "performer", "n_hidden": 12, "n_layers": 1, "n_heads": 2, "head_dim": 5}


def make_module(n_vars: int = N_VARS, n_labels: int = N_CLASSES + 1, **kwargs) -> TransAnnoModule:
    sizes = kwargs if kwargs.get("encoder") == "performer" else SMALL | kwargs
    module = TransAnnoModule(n_vars, N_BATCH, n_labels, **sizes)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        module.mean_expression.uniform_(0.0, 8.0)
    return module


def make_tensors(n_vars: int = N_VARS) -> dict[str, torch.Tensor]:
    labels = torch.arange(N_OBS) % (N_CLASSES + 1)  # every fourth cell is unlabeled
    return {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((N_OBS, n_vars), 4.0)),
        REGISTRY_KEYS.BATCH_KEY: torch.arange(N_OBS)[:, None] % N_BATCH,
        REGISTRY_KEYS.LABELS_KEY: labels[:, None],
    }


@pytest.fixture
def module() -> TransAnnoModule:
    return make_module().eval()


@pytest.fixture
def expert_module(module) -> TransAnnoModule:
    """Evaluation mode, all experts."""
    weight, directions = torch.randn(2, N_CLASSES, N_VARS)
    module.classifier.set_experts(
        weight, torch.randn(N_CLASSES), directions, module.mean_expression, Shares(0.5, 0.3, 0.2)
    )
    return module


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return make_tensors()


def classification_by_hand(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> float:
    losses = []
    for row, label in zip(logits.tolist(), labels.flatten().tolist(), strict=True):
        if label == N_CLASSES:
            continue
        log_sum = math.log(sum(math.exp(x) for x in row))
        nll = [log_sum - x for x in row]
        losses.append((1 - smoothing) * nll[label] + smoothing * sum(nll) / N_CLASSES)
    return sum(losses) / len(losses)


def reconstruction_by_hand(x, is_hidden, bin_logits, genes) -> tuple[list[float], float]:
    per_cell, n_right, n_hidden = [], 0, 0
    for i in range(len(x)):
        losses = []
        for j, gene in enumerate(genes.tolist()):
            if not is_hidden[i, gene]:
                continue
            target = min(int(math.log2(1 + 1e4 * x[i, gene].item() / x[i].sum().item())), 5)
            losses.append(-bin_logits[i, :, j].log_softmax(0)[target].item())
            n_right += int(bin_logits[i, :, j].argmax() == target)
        n_hidden += len(losses)
        per_cell.append(sum(losses) / max(len(losses), 1))
    return per_cell, n_right / n_hidden


class TestArguments:
    def test_unknown_encoder_lists_the_known(self):
        with pytest.raises(ValueError, match=r"encoder='ants' is not known\. Allowed: 'views', 'performer'"):
            make_module(encoder="ants")

    def test_heads_have_to_divide_the_width(self):
        with pytest.raises(ValueError, match="n_hidden=12 is not a multiple of n_heads=5"):
            make_module(n_heads=5)

    def test_networks_have_to_divide_the_state(self):
        with pytest.raises(ValueError, match="n_latent=22 is not a multiple of n_networks=3"):
            make_module(n_networks=3)

    @pytest.mark.parametrize(
        ("arguments", "reads_center"),
        [({}, True), ({"head": "conv"}, True), ({**PERFORMER, "head": "experts"}, True), (PERFORMER, False)],
        ids=["views", "views, conv", "performer, experts", "performer"],
    )
    def test_who_reads_the_mean_of_the_data_set(self, arguments, reads_center, tensors):
        module = make_module(**arguments).eval()
        if arguments.get("head") == "experts":
            directions = torch.randn(N_CLASSES, N_VARS)
            module.classifier.set_experts(
                0 * directions, torch.zeros(N_CLASSES), directions, module.mean_expression, Shares(cosine=1.0)
            )
        inputs = module._get_inference_input(tensors)
        found = [module.inference(**inputs, center=value * torch.ones(N_VARS))["logits"] for value in (0.5, 5.0)]
        assert module.reads_center == reads_center
        assert torch.equal(*found) != reads_center

    @pytest.mark.parametrize(("n_labels", "n_classes"), [(0, 0), (1, 0), (4, 3)])
    def test_unlabeled_category_has_no_logit(self, n_labels, n_classes):
        module = make_module(n_labels=n_labels)
        assert module.n_classes == n_classes
        assert (module.classifier is None) == (n_classes == 0)

    def test_draws_no_samples(self, module):
        with pytest.raises(NotImplementedError, match="discriminative"):
            module.sample()


class TestInference:
    def test_shapes(self, module, tensors):
        outputs = module.inference(**module._get_inference_input(tensors))
        assert outputs["z"].shape == (N_OBS, 22)
        assert outputs["tokens"].shape == (N_OBS, 6, 12)
        assert outputs["logits"].shape == (N_OBS, N_CLASSES)
        assert not outputs["is_hidden"].any()

    def test_is_its_parts_in_order(self, expert_module, tensors):
        module, x, batch = expert_module, tensors[REGISTRY_KEYS.X_KEY], tensors[REGISTRY_KEYS.BATCH_KEY]
        is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
        expression = normalize_counts(x, is_masked)
        context = Context(torch.rand(1, N_VARS), module.mean_expression[None, :])
        encoded = module.encoder(expression, is_masked, module.batch_embedding.weight[batch[:, 0]], context)
        tokens, z = encoded
        outputs = module.inference(x, batch, center=context.center[0])
        torch.testing.assert_close(outputs["z"], z)
        torch.testing.assert_close(outputs["tokens"], tokens)
        torch.testing.assert_close(outputs["expression"], expression)
        torch.testing.assert_close(outputs["logits"], module.classifier(encoded, expression, is_masked, context))

    def test_is_deterministic_and_draws_nothing_by_default(self, module, tensors):
        inputs = module._get_inference_input(tensors)
        state = torch.random.get_rng_state()
        first, second = module.inference(**inputs), module.inference(**inputs)
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert torch.equal(torch.random.get_rng_state(), state)

    @pytest.mark.parametrize(
        "augmentation",
        [
            {"min_count_fraction": 0.3},
            {"gene_noise": 0.5},
            {"max_masked_fraction": 0.5},
            {"max_masked_fraction": 0.9, "is_panel": True},
            {"batch_dropout": 0.5},
        ],
        ids=str,
    )
    def test_every_augmentation_draws(self, augmentation, module, tensors):
        inputs = module._get_inference_input(tensors)
        found = [module.inference(**inputs, **augmentation)["z"] for _ in range(9)]
        assert not all(torch.equal(found[0], each) for each in found[1:])

    def test_panel_hides_the_same_genes_in_all_cells_and_asks_for_none(self, module, tensors, monkeypatch):
        seen = encoder_inputs(module, monkeypatch)
        for _ in range(31):
            outputs, generated, _ = module(tensors, inference_kwargs={"max_masked_fraction": 0.9, "is_panel": True})
            assert not outputs["is_hidden"].any()
            assert generated == {}
        assert all(is_masked.shape == (1, N_VARS) for _, is_masked, _, _ in seen)
        n_hidden = [int(is_masked.sum()) for _, is_masked, _, _ in seen]
        assert 0 in n_hidden
        assert len(set(n_hidden)) > 3
        assert all((expression[:, is_masked[0]] == 0).all() for expression, is_masked, _, _ in seen)

    def test_genes_are_perturbed_in_all_cells_alike(self, module, tensors, monkeypatch):
        seen = encoder_inputs(module, monkeypatch)
        tensors[REGISTRY_KEYS.X_KEY] += 1
        module(tensors, inference_kwargs={"gene_noise": 0.7})
        counts = tensors[REGISTRY_KEYS.X_KEY]
        # Normalization scales every cell, so the ratio of two genes tells.
        ratio = seen[0][0].expm1() / counts
        ratio = ratio / ratio[:, :1]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-3)
        assert ratio[0].std() > 1e-3

    def test_missing_genes_have_no_influence(self, expert_module, tensors):
        module = expert_module
        x, batch = tensors[REGISTRY_KEYS.X_KEY], tensors[REGISTRY_KEYS.BATCH_KEY]
        is_missing = torch.arange(N_VARS) % 4 == 1
        measured = module.inference(x, batch)
        as_argument = module.inference(x, batch, is_missing)
        nan_center = module.mean_expression.masked_fill(is_missing, torch.nan)
        center = module.inference(x, batch, is_missing, nan_center)
        garbage = module.inference(x.masked_fill(is_missing, 1e5), batch, is_missing)
        none_missing = module.inference(x, batch, torch.zeros_like(is_missing))
        for key in ("z", "logits"):
            assert not torch.allclose(as_argument[key], measured[key])
            torch.testing.assert_close(garbage[key], as_argument[key])
            torch.testing.assert_close(center[key], as_argument[key])
            torch.testing.assert_close(none_missing[key], measured[key])

    def test_missing_genes_are_never_hidden(self, module, tensors):
        is_missing = torch.arange(N_VARS) % 3 == 0
        outputs = module.inference(
            **module._get_inference_input(tensors), is_missing=is_missing, max_masked_fraction=0.9
        )
        assert outputs["is_hidden"].shape == (N_OBS, N_VARS)
        assert not outputs["is_hidden"][:, ::3].any()
        assert outputs["is_hidden"].any()

    def test_batch_dropout_puts_the_unknown_batch_in_place(self, module, tensors):
        x = tensors[REGISTRY_KEYS.X_KEY]
        forgotten = module.inference(x, tensors[REGISTRY_KEYS.BATCH_KEY], batch_dropout=1.0)["z"]
        with torch.no_grad():
            module.batch_embedding.weight[2] = module.unknown_batch
        unknown = module.inference(x, torch.full((N_OBS, 1), 2))["z"]
        torch.testing.assert_close(forgotten, unknown)

    def test_some_cells_forget_their_batch(self, module, tensors):
        x, batch = tensors[REGISTRY_KEYS.X_KEY], tensors[REGISTRY_KEYS.BATCH_KEY]
        known = module.inference(x, batch)["z"]
        unknown = module.inference(x, batch, batch_dropout=1.0)["z"]
        mixed = module.inference(x, batch, batch_dropout=0.5)["z"]
        is_known, is_unknown = ((mixed - z).abs().amax(dim=1) < 1e-5 for z in (known, unknown))
        assert (is_known | is_unknown).all()
        assert 0 < int(is_unknown.sum()) < N_OBS

    def test_pretraining_has_no_logits(self, tensors):
        module = make_module(n_labels=0)
        assert "logits" not in module.inference(**module._get_inference_input(tensors))


def encoder_inputs(module: TransAnnoModule, monkeypatch) -> list[tuple]:
    """-> list to which the arguments of every pass of the encoder are added."""
    seen = []
    forward = module.encoder.forward
    monkeypatch.setattr(module.encoder, "forward", lambda *args: seen.append(args) or forward(*args))
    return seen


class TestCenter:
    """The mean of the data set that cells are compared with."""

    def test_is_by_default_that_of_the_reference(self, expert_module, tensors):
        inputs = expert_module._get_inference_input(tensors)
        found = [expert_module.inference(**inputs, center=c) for c in (None, expert_module.mean_expression)]
        assert all(torch.equal(found[0][key], found[1][key]) for key in ("z", "logits"))

    def test_is_what_is_given(self, expert_module, tensors):
        inputs = expert_module._get_inference_input(tensors)
        found = [expert_module.inference(**inputs, center=c)["logits"] for c in (None, torch.rand(N_VARS))]
        assert not torch.isclose(*found).all(dim=1).any()

    def test_without_it_cells_do_not_see_each_other(self, expert_module, tensors):
        x, batch = tensors[REGISTRY_KEYS.X_KEY], tensors[REGISTRY_KEYS.BATCH_KEY]
        whole, part = expert_module.inference(x, batch), expert_module.inference(x[3:8], batch[3:8])
        torch.testing.assert_close(part["logits"], whole["logits"][3:8])

    def test_is_in_training_the_mean_of_the_minibatch(self, module, tensors, monkeypatch):
        seen = encoder_inputs(module.train(), monkeypatch)
        module.inference(**module._get_inference_input(tensors))
        expression, _, _, context = seen[0]
        torch.testing.assert_close(context.center[0], expression.mean(dim=0))
        assert torch.equal(context.mean[0], module.mean_expression)

    @pytest.mark.parametrize(
        "masking", [{"max_masked_fraction": 0.8}, {"max_masked_fraction": 0.8, "is_panel": True}], ids=str
    )
    def test_is_in_training_the_mean_of_what_is_seen(self, masking, module, tensors, monkeypatch):
        """Of the augmented cells, and of a gene only over the cells in which it is not hidden."""
        seen = encoder_inputs(module.train(), monkeypatch)
        augmentation = {
            **masking,
            "is_missing": torch.arange(N_VARS) == 2,
            "min_count_fraction": 0.3,
            "gene_noise": 0.5,
        }
        for _ in range(5):
            module.inference(**module._get_inference_input(tensors), **augmentation)
        for expression, is_masked, _, context in seen:
            is_masked = is_masked.expand_as(expression)
            for gene in range(N_VARS):
                visible = expression[~is_masked[:, gene], gene]
                for cell in range(len(context.center)):
                    expected = 0.0 if is_masked[cell, gene] else visible.sum() / max(len(visible), 1)
                    assert context.center[cell, gene].item() == pytest.approx(float(expected), rel=1e-5)
                    expected = 0.0 if is_masked[cell, gene] else module.mean_expression[gene]
                    assert context.mean[cell, gene] == expected
            assert (context.center[:, 2] == 0).all()

    def test_given_one_wins_in_training(self, module, tensors, monkeypatch):
        seen, center = encoder_inputs(module.train(), monkeypatch), torch.rand(N_VARS)
        module.inference(**module._get_inference_input(tensors), center=center)
        assert torch.equal(seen[0][3].center[0], center)

    def test_gene_hidden_in_all_cells_has_no_nan(self, module, tensors):
        module.train()
        for _ in range(9):
            outputs = module.inference(**module._get_inference_input(tensors), max_masked_fraction=0.999, is_panel=True)
            assert outputs["logits"].isfinite().all()


class TestGenerative:
    def test_nothing_hidden_nothing_predicted(self, module, tensors):
        outputs, generated, _ = module(tensors)
        assert len(outputs["is_hidden"]) == 1
        assert generated == {}

    def test_at_most_256_different_genes(self):
        module, tensors = make_module(263), make_tensors(263)
        _, generated, _ = module(tensors, inference_kwargs={"max_masked_fraction": 0.5})
        assert generated["bin_logits"].shape == (N_OBS, 6, 256)
        assert len(set(generated["genes"].tolist())) == 256

    def test_logits_are_those_of_the_genes(self, module, tensors):
        outputs, generated, _ = module(tensors, inference_kwargs={"max_masked_fraction": 0.5})
        assert sorted(generated["genes"].tolist()) == list(range(N_VARS))
        batch = module.batch_embedding.weight[tensors[REGISTRY_KEYS.BATCH_KEY][:, 0]]
        encoded = EncoderOutput(outputs["tokens"], outputs["z"])
        expected = module.expression_head(encoded, batch, torch.arange(N_VARS))
        torch.testing.assert_close(generated["bin_logits"], expected[:, :, generated["genes"]])


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("weight", [0.0, 0.3])
    @pytest.mark.parametrize("use_labels", [True, False])
    def test_equals_hand_computation(self, smoothing, weight, use_labels, module, tensors):
        tensors[REGISTRY_KEYS.X_KEY][:, :2] = 0.0
        is_missing = torch.arange(N_VARS) < 2
        outputs, generated, loss = module(
            tensors,
            inference_kwargs={"is_missing": is_missing, "max_masked_fraction": 0.8, "min_count_fraction": 0.5},
            loss_kwargs={"reconstruction_weight": weight, "label_smoothing": smoothing, "use_labels": use_labels},
        )
        classification = classification_by_hand(outputs["logits"], tensors[REGISTRY_KEYS.LABELS_KEY], smoothing)
        reconstruction, accuracy = reconstruction_by_hand(
            tensors[REGISTRY_KEYS.X_KEY], outputs["is_hidden"], generated["bin_logits"], generated["genes"]
        )
        assert loss.classification_loss.item() == pytest.approx(classification, rel=1e-4)
        assert loss.extra_metrics["masked_accuracy"].item() == pytest.approx(accuracy)
        total = weight * sum(reconstruction) / N_OBS + classification * use_labels
        assert loss.loss.item() == pytest.approx(total, rel=1e-4)
        assert loss.reconstruction_loss_sum.item() == pytest.approx(sum(reconstruction), rel=1e-4)
        assert loss.n_obs_minibatch == N_OBS

    def test_only_labeled_cells_are_classified(self, module, tensors):
        _, _, loss = module(tensors)
        labels = tensors[REGISTRY_KEYS.LABELS_KEY].flatten()
        assert torch.equal(loss.true_labels, labels[labels < N_CLASSES])
        assert loss.logits.shape == (int((labels < N_CLASSES).sum()), N_CLASSES)
        torch.testing.assert_close(loss.loss, F.cross_entropy(loss.logits, loss.true_labels))

    def test_unlabeled_cells_have_no_classification_loss(self, module, tensors):
        tensors[REGISTRY_KEYS.LABELS_KEY][:] = N_CLASSES
        outputs, generated, loss = module(tensors, inference_kwargs={"max_masked_fraction": 0.8})
        reconstruction, _ = reconstruction_by_hand(
            tensors[REGISTRY_KEYS.X_KEY], outputs["is_hidden"], generated["bin_logits"], generated["genes"]
        )
        assert loss.classification_loss is None
        assert loss.loss.item() == pytest.approx(sum(reconstruction) / N_OBS, rel=1e-4)

    def test_pretraining_reads_no_labels(self, tensors):
        del tensors[REGISTRY_KEYS.LABELS_KEY]
        _, _, loss = make_module(n_labels=0)(tensors, inference_kwargs={"max_masked_fraction": 0.8})
        assert loss.classification_loss is None
        assert loss.loss > 0

    def test_target_is_the_cell_before_thinning(self, module, tensors):
        """Thinned input, whole target; checked where thinning leaves next to nothing."""
        outputs, generated, loss = module(
            tensors, inference_kwargs={"max_masked_fraction": 0.8, "min_count_fraction": 1e-3}
        )
        expected, _ = reconstruction_by_hand(
            tensors[REGISTRY_KEYS.X_KEY], outputs["is_hidden"], generated["bin_logits"], generated["genes"]
        )
        torch.testing.assert_close(loss.reconstruction_loss_sum.item(), sum(expected), rtol=1e-4, atol=0.0)


EXPRESSED = {"masked_fraction": 0.4, "replace_probability": 0.6}


class TestExpressedGenes:
    """A share of the expressed genes is predicted, and most of these are hidden."""

    def test_every_target_is_predicted_and_counts(self):
        module, tensors = make_module(307), make_tensors(307)
        tensors[REGISTRY_KEYS.X_KEY] = torch.poisson(torch.full((N_OBS, 307), 0.9))
        outputs, generated, loss = module(tensors, inference_kwargs=EXPRESSED)
        x, is_target = tensors[REGISTRY_KEYS.X_KEY], outputs["is_hidden"]
        assert not is_target[x == 0].any()
        assert sorted(generated["genes"].tolist()) == is_target.any(dim=0).nonzero()[:, 0].tolist()
        assert len(generated["genes"]) > 256
        expected, accuracy = reconstruction_by_hand(x, is_target, generated["bin_logits"], generated["genes"])
        assert loss.reconstruction_loss_sum.item() == pytest.approx(sum(expected), rel=1e-4)
        assert loss.extra_metrics["masked_accuracy"].item() == pytest.approx(accuracy)

    def test_replaced_genes_are_invisible_and_the_other_targets_are_not(self, module, tensors, monkeypatch):
        seen = encoder_inputs(module, monkeypatch)
        outputs, _, _ = module(tensors, inference_kwargs=EXPRESSED)
        expression, is_masked, _, _ = seen[0]
        assert not (is_masked & ~outputs["is_hidden"]).any()
        assert (outputs["is_hidden"] & ~is_masked).any()
        assert torch.equal(expression, normalize_counts(tensors[REGISTRY_KEYS.X_KEY], is_masked))

    def test_missing_genes_are_no_targets(self, module, tensors):
        is_missing = torch.arange(N_VARS) % 3 == 0
        outputs, generated, _ = module(tensors, inference_kwargs={**EXPRESSED, "is_missing": is_missing})
        assert not outputs["is_hidden"][:, ::3].any()
        assert not (generated["genes"] % 3 == 0).any()

    def test_cells_without_counts_have_nothing_to_predict(self, module, tensors):
        tensors[REGISTRY_KEYS.X_KEY].zero_()
        _, generated, loss = module(tensors, inference_kwargs=EXPRESSED)
        assert len(generated["genes"]) == 0
        assert loss.reconstruction_loss_sum == 0
        assert loss.loss.isfinite()
        loss.loss.backward()


def commonest_by_hand(counts: torch.Tensor, *, only_expressed: bool) -> list[int]:
    bins = [[min(int(math.log2(1 + 1e4 * c / sum(row))), 5) for c in row] for row in counts.tolist()]
    result = []
    for gene in range(counts.shape[1]):
        cells = [i for i in range(len(bins)) if counts[i, gene] > 0 or not only_expressed]
        found = [bins[i][gene] for i in cells]
        result.append(max(sorted(set(found)), key=found.count))
    return result


class TestCommonestBins:
    """What the network has to beat."""

    # 600 cells are binned in two parts.
    @pytest.mark.parametrize("n_obs", [31, 600])
    def test_equal_hand_computation(self, n_obs, module):
        counts = torch.poisson(torch.rand(n_obs, N_VARS) * torch.linspace(0.01, 4, N_VARS)) + torch.eye(n_obs, N_VARS)
        counts[:, -1] = 5000  # so that there are low bins, too
        module.initialize_from_data(counts, NONE_MISSING, genes=False)
        assert module.commonest_bins[0].tolist() == commonest_by_hand(counts, only_expressed=False)
        assert module.commonest_bins[1].tolist() == commonest_by_hand(counts, only_expressed=True)
        assert not torch.equal(*module.commonest_bins)

    def test_gene_without_counts(self, module):
        counts = torch.poisson(torch.full((31, N_VARS), 4.0))
        counts[:, 3] = 0
        module.initialize_from_data(counts, NONE_MISSING, genes=False)
        assert module.commonest_bins[:, 3].tolist() == [0, 5]  # 5: every 13th of a cell's counts is in the top bin

    @pytest.mark.parametrize("masking", [{"max_masked_fraction": 0.8}, EXPRESSED], ids=["uniform", "expressed"])
    def test_accuracy_of_the_guess_equals_hand_computation(self, masking, module, tensors):
        x = tensors[REGISTRY_KEYS.X_KEY] = torch.poisson(torch.full((N_OBS, N_VARS), 0.8)) + torch.eye(N_OBS, N_VARS)
        module.commonest_bins.copy_(torch.randint(0, 6, (2, N_VARS)))
        module.commonest_bins[0, ::2], module.commonest_bins[1, ::2] = 0, 5
        outputs, _, loss = module(tensors, inference_kwargs=masking)
        guess = module.commonest_bins[int(masking is EXPRESSED)].tolist()
        right = [
            min(int(math.log2(1 + 1e4 * x[i, gene].item() / x[i].sum().item())), 5) == guess[gene]
            for i, gene in outputs["is_hidden"].nonzero().tolist()
        ]
        assert 0 < sum(right) < len(right)
        assert loss.extra_metrics["masked_accuracy_commonest"].item() == pytest.approx(sum(right) / len(right))

    def test_unknown_before_training_data_are_seen(self, module, tensors):
        _, _, loss = module(tensors, inference_kwargs={"max_masked_fraction": 0.8})
        assert loss.extra_metrics["masked_accuracy_commonest"].isnan()


class TestTrainingLoss:
    """Logits of every network by itself, and weights of types."""

    @pytest.fixture
    def module(self) -> TransAnnoModule:
        return make_module(dropout_rate=0.0).train()

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_every_network_learns_by_itself(self, smoothing, module, tensors):
        outputs, _, loss = module(tensors, loss_kwargs={"label_smoothing": smoothing})
        labels = tensors[REGISTRY_KEYS.LABELS_KEY]
        assert outputs["logits"].shape == (2, N_OBS, N_CLASSES)
        expected = [classification_by_hand(logits, labels, smoothing) for logits in outputs["logits"]]
        assert loss.loss.item() == pytest.approx(sum(expected) / 2, rel=1e-4)
        is_labeled = labels.flatten() < N_CLASSES
        torch.testing.assert_close(loss.logits, outputs["logits"].mean(dim=0)[is_labeled])

    @pytest.mark.parametrize("is_training", [True, False])
    def test_balanced_types_weigh_as_the_root_of_their_number(self, is_training, module, tensors):
        labels = torch.tensor([0] * 11 + [1] * 3 + [N_CLASSES] * 3)[:, None]  # type 2 has no cell
        tensors[REGISTRY_KEYS.LABELS_KEY] = labels
        outputs, _, loss = module.train(is_training)(tensors, loss_kwargs={"balanced": True})
        logits = outputs["logits"].detach().reshape(-1, N_OBS, N_CLASSES)
        nll = -logits.log_softmax(dim=-1)
        per_type = [nll[:, :11, 0].mean(), nll[:, 11:14, 1].mean()]
        weights = [11**0.5, 3**0.5]
        expected = sum(w * each.item() for w, each in zip(weights, per_type, strict=True)) / sum(weights)
        assert loss.loss.item() == pytest.approx(expected, rel=1e-4)

    def test_balance_changes_nothing_where_types_are_even(self, module, tensors):
        tensors[REGISTRY_KEYS.LABELS_KEY] = torch.tensor([0, 1, 2] * 5 + [N_CLASSES] * 2)[:, None]
        losses = [module(tensors, loss_kwargs={"balanced": b, "label_smoothing": 0.1})[2].loss for b in (True, False)]
        torch.testing.assert_close(*losses)

    def test_gradient_reaches_every_network_and_no_expert(self, module, tensors):
        module(tensors, loss_kwargs={"balanced": True})[2].loss.backward()
        without = {name for name, parameter in module.named_parameters() if parameter.grad is None}
        assert without == {"unknown_batch", *(n for n, _ in module.named_parameters() if "expression_head" in n)}
        assert (module.encoder.gene_embedding.grad.abs().sum(dim=0) > 0).all()


class TestFreeze:
    @pytest.mark.parametrize("n_layers", [0, 1, 3])
    def test_exactly_what_learns(self, n_layers):
        module = make_module(n_layers=n_layers)
        names = {name for name, _ in module.named_parameters()}

        def trainable() -> set[str]:
            return {name for name, parameter in module.named_parameters() if parameter.requires_grad}

        always = {name for name in names if name.startswith(("classifier.", "batch_embedding."))}
        parts = [f"encoder.networks.{k}.{part}" for k in (0, 1) for part in ("norm.", f"blocks.{n_layers - 1}.")]
        last = {name for name in names if name.startswith(tuple(parts))}
        module.freeze("encoder")
        assert trainable() == always
        module.freeze("partial")
        assert trainable() == always | last
        assert len(last) == 2 * (2 + 11 * (n_layers > 0))
        module.freeze(None)
        assert trainable() == names


class TestInitializeFromData:
    def test_mean_expression_and_genes(self, module):
        counts = torch.poisson(torch.full((31, N_VARS), 4.0))
        before = module.encoder.gene_embedding.detach().clone()
        module.initialize_from_data(counts, NONE_MISSING, genes=False)
        assert torch.equal(module.encoder.gene_embedding, before)
        expected = torch.log1p(counts / counts.sum(dim=1, keepdim=True) * 1e4).mean(dim=0)
        torch.testing.assert_close(module.mean_expression, expected)
        module.initialize_from_data(counts, NONE_MISSING, genes=True)
        assert not torch.equal(module.encoder.gene_embedding, before)

    def test_other_genes_are_part_of_the_total_and_have_no_mean(self, module):
        counts = torch.poisson(torch.full((31, N_VARS), 4.0))
        module.is_other[-1] = True
        module.initialize_from_data(counts, NONE_MISSING, genes=False)
        expected = torch.log1p(counts / counts.sum(dim=1, keepdim=True) * 1e4).mean(dim=0)
        torch.testing.assert_close(module.mean_expression[:-1], expected[:-1])
        assert module.mean_expression[-1] == 0

    def test_missing_genes_have_mean_zero_and_no_share_in_totals(self, module):
        counts = torch.poisson(torch.full((31, N_VARS), 4.0))
        is_missing = torch.arange(N_VARS) % 3 == 0
        visible = counts.masked_fill(is_missing, 0.0)
        expected = torch.log1p(visible / visible.sum(dim=1, keepdim=True) * 1e4).mean(dim=0)
        module.initialize_from_data(counts, is_missing, genes=False)
        torch.testing.assert_close(module.mean_expression, expected)
        assert (module.mean_expression[::3] == 0).all()


class TestQuery:
    def test_only_rows_of_new_batches_get_a_gradient(self, module, tensors):
        module.freeze_for_query(3)
        _, _, loss = module(tensors, inference_kwargs={"max_masked_fraction": 0.5})
        loss.loss.backward()
        assert [n for n, p in module.named_parameters() if p.requires_grad] == ["batch_embedding.weight"]
        assert [n for n, p in module.named_parameters() if p.grad is not None] == ["batch_embedding.weight"]
        gradient = module.batch_embedding.weight.grad
        assert torch.equal(gradient[:3], torch.zeros(3, 12))
        assert (gradient[3:].abs().sum(dim=1) > 0).all()

    def test_without_new_batches_nothing_trains(self, module):
        module.freeze_for_query(N_BATCH)
        assert not any(parameter.requires_grad for parameter in module.parameters())

    def test_freezing_twice_changes_nothing(self, module, tensors):
        module.freeze_for_query(3)
        module.freeze_for_query(3)
        module(tensors)[2].loss.backward()
        gradient = module.batch_embedding.weight.grad
        assert torch.equal(gradient[:3], torch.zeros(3, 12))
        assert (gradient[3:].abs().sum(dim=1) > 0).all()

    def test_new_batches_start_as_unknown(self, module):
        before = module.batch_embedding.weight.detach().clone()
        module.start_new_batches(3)
        assert torch.equal(module.batch_embedding.weight[:3], before[:3])
        assert torch.equal(module.batch_embedding.weight[3:], module.unknown_batch.expand(2, -1))
