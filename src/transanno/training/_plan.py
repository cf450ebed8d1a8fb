"""How the module is trained: augmentation, optimizer, schedule, logged metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from scvi.train import TrainingPlan
from torch import nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassF1Score

from transanno.checks._data import check_choice, check_interval

if TYPE_CHECKING:
    from transanno.training._module import TransAnnoModule

# Warm restarts in epochs, as TransAnno-Net's: the second cycle is twice as long as the first, and so on.
_FIRST_CYCLE, _CYCLE_FACTOR, _WARMUP_EPOCHS, _PEAK_DECAY = 15, 2, 5, 0.9


class TransAnnoTrainingPlan(TrainingPlan):
    """Warm-up and cosine decay on augmented cells, for pretraining and fine-tuning alike.

    The defaults are the package's; :data:`transanno.presets.PAPER` holds those of TransAnno-Net
    :cite:p:`transannonet2025`.

    Parameters
    ----------
    module
        The module to train.
    is_missing
        Genes that the cells lack ``(n_vars,)``. Default: none.
    optimizer
        ``"AdamW"``, or ``"Adam"``, whose weight decay is part of the gradient.
    lr
        Peak learning rate. Default: 0.002 with views, 0.001 with the Performer.
    gene_lr
        Peak learning rate of the encoder's gene embeddings, as a share of ``lr``.
    lr_schedule
        ``"cosine"``: a rise, then one cosine to ``lr_min``, stepped at every update. ``"warm_restarts"``: cosines over
        15, 30, 60, … epochs :cite:p:`loshchilov2017sgdr`, each after a rise over its first 5 epochs and each with nine
        tenths of the peak of the one before, stepped every epoch.
    lr_min
        Where the cosines end.
    weight_decay
        Decay of weight matrices; embeddings, biases and norms are not decayed.
    warmup_fraction
        Share of all steps over which the learning rate rises to its peak, with ``lr_schedule="cosine"``.
    min_count_fraction
        Count thinning: the cells of a minibatch keep a share of their molecules drawn from
        U(``min_count_fraction``, 1), each a little more or less of them. 1 switches it off.
    gene_noise
        All counts of a gene in a minibatch are multiplied by exp(N(0, s)), with s drawn from U(0, ``gene_noise``) for each,
        as if another platform had captured the genes. 0 switches it off. Default: 0.7 where labels are learned.
    masking
        ``"panel"``: in half of the minibatches a share of all genes, drawn from U(0, ``max_masked_fraction``), is hidden in all
        cells, as if they had been measured with a smaller panel, and none is to be predicted; the default where only labels
        are learned. ``"uniform"``: every training cell hides a share of all its genes, drawn from
        U(0, ``max_masked_fraction``); the default otherwise. ``"expressed"``: a share
        ``masked_fraction`` of the genes that a cell expresses has to be predicted, and of these a share
        ``replace_probability`` is hidden, as in TransAnno-Net and scBERT :cite:p:`yang2022scbert`.
    max_masked_fraction
        See ``masking="panel"`` and ``"uniform"``; 0 hides nothing.
    masked_fraction, replace_probability
        See ``masking="expressed"``.
    batch_dropout
        Probability that a training cell's batch is replaced by "unknown batch".
    reconstruction_weight
        Weight of the masked-expression loss beside the classification loss. Default: 0 where labels are learned, else 1.
    use_labels
        Whether labels enter the loss; if not, their loss and accuracy are only logged.
    label_smoothing
        Label smoothing of the classification loss.
    balanced
        Whether a type with n cells in a minibatch weighs as sqrt(n) in the classification loss, instead of n.

    Raises
    ------
    ValueError
        If an argument is out of its range, or if there is nothing to learn from.
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        is_missing: torch.Tensor | None = None,
        optimizer: Literal["AdamW", "Adam"] = "AdamW",
        lr: float | None = None,
        gene_lr: float = 1.0,
        lr_schedule: Literal["cosine", "warm_restarts"] = "cosine",
        lr_min: float = 0.0,
        weight_decay: float = 0.05,
        warmup_fraction: float = 0.1,
        min_count_fraction: float = 0.15,
        gene_noise: float | None = None,
        masking: Literal["panel", "uniform", "expressed"] | None = None,
        max_masked_fraction: float = 0.4,
        masked_fraction: float = 0.15,
        replace_probability: float = 0.9,
        batch_dropout: float = 0.5,
        reconstruction_weight: float | None = None,
        use_labels: bool = True,
        label_smoothing: float = 0.05,
        balanced: bool = True,
    ) -> None:
        learns_labels = use_labels and module.n_classes > 0
        gene_noise = (0.7 if learns_labels else 0.0) if gene_noise is None else gene_noise
        if reconstruction_weight is None:
            reconstruction_weight = 0.0 if learns_labels else 1.0
        masking = ("uniform" if reconstruction_weight else "panel") if masking is None else masking
        check_choice("optimizer", optimizer, ("AdamW", "Adam"))
        check_choice("lr_schedule", lr_schedule, ("cosine", "warm_restarts"))
        check_choice("masking", masking, ("panel", "uniform", "expressed"))
        lr = module.encoder.lr if lr is None else lr
        check_interval("lr", lr, 0.0)
        check_interval("gene_lr", gene_lr, 0.0, 1.0)
        check_interval("lr_min", lr_min, 0.0, lr)
        check_interval("weight_decay", weight_decay, 0.0)
        check_interval("warmup_fraction", warmup_fraction, 0.0, 1.0)
        check_interval("min_count_fraction", min_count_fraction, 0.0, 1.0, open_at="low")
        check_interval("gene_noise", gene_noise, 0.0)
        check_interval("max_masked_fraction", max_masked_fraction, 0.0, 1.0, open_at="high")
        check_interval("masked_fraction", masked_fraction, 0.0, 1.0, open_at="high")
        check_interval("replace_probability", replace_probability, 0.0, 1.0)
        check_interval("batch_dropout", batch_dropout, 0.0, 1.0)
        check_interval("reconstruction_weight", reconstruction_weight, 0.0)
        check_interval("label_smoothing", label_smoothing, 0.0, 1.0, open_at="high")
        super().__init__(
            module,
            optimizer=optimizer,
            lr=lr,
            lr_min=lr_min,
            weight_decay=weight_decay,
            reconstruction_weight=reconstruction_weight,
            use_labels=use_labels,
            label_smoothing=label_smoothing,
            balanced=balanced,
        )
        self.register_buffer("is_missing", is_missing)
        self.gene_lr = gene_lr
        self.lr_schedule = lr_schedule
        self.warmup_fraction = warmup_fraction
        self.masking: dict[str, float | bool] = {"max_masked_fraction": max_masked_fraction}
        if masking == "panel":
            self.masking["is_panel"] = True
        if masking == "expressed":
            self.masking = {"masked_fraction": masked_fraction, "replace_probability": replace_probability}
        elif masking == "panel" and reconstruction_weight:
            raise ValueError(
                f"reconstruction_weight={reconstruction_weight}, but masking='panel' hides the same genes in all cells of a "
                "minibatch, which are not to be predicted. Choose another masking, or leave reconstruction_weight out."
            )
        has_targets = reconstruction_weight > 0.0 and next(iter(self.masking.values())) > 0.0
        if not has_targets and not learns_labels:
            raise ValueError(
                f"There is nothing to learn from: labels are not used, and with {next(iter(self.masking))}="
                f"{next(iter(self.masking.values()))} and reconstruction_weight={reconstruction_weight} neither are hidden "
                "genes. Make both larger than 0."
            )
        self.augmentation = {
            "min_count_fraction": min_count_fraction,
            "gene_noise": gene_noise,
            **self.masking,
            "batch_dropout": batch_dropout,
        }
        self._is_in_training_step = False
        # Of the epoch so far, by name: sum and number of cells, or a metric object and None; and how it is logged.
        self._epoch_logs: dict[str, tuple[Any, int | None, dict[str, Any]]] = {}
        n_classes = module.n_classes
        self.validation_f1 = MulticlassF1Score(n_classes, average="macro") if n_classes > 1 else None

    def forward(self, tensors: dict[str, torch.Tensor], loss_kwargs: dict[str, Any]) -> tuple[Any, Any, LossOutput]:
        """Minibatch -> outputs and loss; training cells are augmented, validation cells are not.

        Without labels the only loss is that of hidden genes, so then validation cells hide genes too.
        """
        inference_kwargs = self.augmentation if self.training else {}
        if not self.training and (self.validation_f1 is None or not self.loss_kwargs["use_labels"]):
            inference_kwargs = self.masking
        inference_kwargs = {"is_missing": self.is_missing, **inference_kwargs}
        return self.module(tensors, inference_kwargs=inference_kwargs, loss_kwargs=loss_kwargs)

    def log(self, name: str, value: Any, **how: Any) -> None:
        """Lightning's log, but in training once an epoch instead of once a minibatch.

        Its bookkeeping took a quarter of a training step. Numbers are averaged here, over cells where ``batch_size`` says of
        how many they are; metric objects are updated by whoever logs them, and average themselves.
        """
        if not self._is_in_training_step or how.get("on_step"):
            # scvi-tools logs in inference mode, whose tensors several processes cannot add up in place on CPUs.
            with torch.inference_mode(False):
                super().log(name, value.clone() if isinstance(value, torch.Tensor) else value, **how)
            return
        if isinstance(value, Metric):
            self._epoch_logs[name] = (value, None, how)
            return
        n_cells = how.pop("batch_size", None) or 1
        total, n_total, _ = self._epoch_logs.get(name, (0.0, 0, how))
        self._epoch_logs[name] = (total + n_cells * torch.as_tensor(value).detach(), n_total + n_cells, how)

    def log_dict(self, dictionary: Mapping[str, Any], **how: Any) -> None:
        """:meth:`log` of each."""
        for name, value in dictionary.items():
            self.log(name, value, **how)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Minibatch -> loss."""
        self._is_in_training_step = True
        try:
            return super().training_step(batch, batch_idx)
        finally:
            self._is_in_training_step = False

    def on_train_start(self) -> None:
        """Let every process draw augmentations of its own: they start from one seed."""
        if self.trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)
        super().on_train_start()

    def on_train_epoch_end(self) -> None:
        """Hand the averages of the epoch over to Lightning."""
        logs, self._epoch_logs = self._epoch_logs, {}
        for name, (total, n_total, how) in logs.items():
            super().log(name, total if n_total is None else total / n_total, **{**how, "on_epoch": True})
        super().on_train_epoch_end()

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: dict[str, Any], mode: str) -> None:
        """Log the loss components, and accuracy (both modes) and macro-F1 (validation) of labeled cells."""
        super().compute_and_log_metrics(loss_output, metrics, mode)
        if loss_output.classification_loss is None:
            return
        labels, predicted = loss_output.true_labels, loss_output.logits.argmax(dim=-1)
        how = {"on_step": False, "on_epoch": True, "batch_size": len(labels), "sync_dist": self.use_sync_dist}
        self.log(f"{mode}_classification_loss", loss_output.classification_loss, **how)
        self.log(f"{mode}_accuracy", (predicted == labels).float().mean(), **how)
        if mode == "validation" and self.validation_f1 is not None:
            self.validation_f1.update(predicted, labels)
            self.log("validation_f1_score", self.validation_f1, **how)

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimizer over what is trainable, and its schedule.

        An update is a minibatch, or as many as ``accumulate_grad_batches`` says.
        """
        optimizer = getattr(torch.optim, self.optimizer_name)(
            _parameter_groups(self.module, self.weight_decay, self.lr, self.gene_lr),
            lr=self.lr,
            betas=(0.9, 0.98),
            # One kernel for all parameters: a third of a training step on a CPU otherwise.
            # Lightning cannot clip gradients of a fused optimizer in mixed precision.
            fused=self.module.device.type in {"cpu", "cuda"} and self.trainer.precision == "32-true",
        )
        floor = self.lr_min / self.lr if self.lr else 0.0
        if self.lr_schedule == "warm_restarts":
            share: Callable[[int], float] = _warm_restarts
            interval = "epoch"
        else:
            n_steps = max(int(self.trainer.estimated_stepping_batches), 1)
            n_warmup = max(int(self.warmup_fraction * n_steps), 1)
            share = partial(_warmup_cosine, n_warmup=n_warmup, n_steps=n_steps)
            interval = "step"
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: floor + (1.0 - floor) * share(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}


def _warmup_cosine(step: int, n_warmup: int, n_steps: int) -> float:
    """step -> learning rate as a share of its peak."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    progress = (step - n_warmup) / max(n_steps - n_warmup, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def _warm_restarts(epoch: int) -> float:
    """epoch -> learning rate as a share of its peak in the first cycle."""
    length, peak = _FIRST_CYCLE, 1.0
    while epoch >= length:
        epoch, length, peak = epoch - length, length * _CYCLE_FACTOR, peak * _PEAK_DECAY
    return peak * _warmup_cosine(epoch, _WARMUP_EPOCHS, length)


def _parameter_groups(module: TransAnnoModule, weight_decay: float, lr: float, gene_lr: float) -> list[dict[str, Any]]:
    """Trainable parameters in three groups: gene embeddings, weights of linear layers, which decay, and all others.

    Decay would move the embeddings of genes and batches that a minibatch says nothing about.
    """
    of_genes = {id(module.encoder.gene_embedding)}
    decayed = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)} - of_genes
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in decayed | of_genes], "weight_decay": 0.0},
        {"params": [p for p in trainable if id(p) in of_genes], "weight_decay": 0.0, "lr": lr * gene_lr},
    ]
    return [group for group in groups if group["params"]]
