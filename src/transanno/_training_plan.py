"""How the module is trained: augmentation, optimizer, schedule, logged metrics."""

from __future__ import annotations

import math
from typing import Any

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from scvi.train import TrainingPlan
from torch import nn
from torchmetrics.classification import MulticlassF1Score


class TransAnnoTrainingPlan(TrainingPlan):
    """AdamW with warm-up and cosine decay on augmented cells, for pretraining and fine-tuning alike.

    Parameters
    ----------
    module
        The module to train.
    lr
        Peak learning rate.
    weight_decay
        Decoupled weight decay of weight matrices; embeddings, biases and norms are not decayed.
    warmup_fraction
        Share of all steps over which the learning rate rises from 0 to its peak.
    min_count_fraction
        Count thinning: every training cell keeps a share of its molecules drawn from
        U(``min_count_fraction``, 1). 1 switches it off.
    max_masked_fraction
        Every training cell hides a share of its genes drawn from U(0, ``max_masked_fraction``).
    batch_dropout
        Probability that a training cell's batch is replaced by "unknown batch".
    reconstruction_weight
        Weight of the masked-expression loss beside the classification loss.
    use_labels
        Whether labels enter the loss; if not, their loss and accuracy are only logged.
    label_smoothing
        Label smoothing of the classification loss.
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        min_count_fraction: float = 0.2,
        max_masked_fraction: float = 0.4,
        batch_dropout: float = 0.5,
        reconstruction_weight: float = 0.1,
        use_labels: bool = True,
        label_smoothing: float = 0.05,
    ) -> None:
        super().__init__(
            module,
            lr=lr,
            weight_decay=weight_decay,
            reconstruction_weight=reconstruction_weight,
            use_labels=use_labels,
            label_smoothing=label_smoothing,
        )
        if not 0.0 < min_count_fraction <= 1.0:
            raise ValueError(f"min_count_fraction={min_count_fraction} is outside (0, 1].")
        if not 0.0 <= max_masked_fraction < 1.0:
            raise ValueError(f"max_masked_fraction={max_masked_fraction} is outside [0, 1).")
        self.warmup_fraction = warmup_fraction
        self.augmentation = {
            "min_count_fraction": min_count_fraction,
            "max_masked_fraction": max_masked_fraction,
            "batch_dropout": batch_dropout,
        }
        n_classes = module.n_classes
        self.validation_f1 = MulticlassF1Score(n_classes, average="macro") if n_classes > 1 else None

    def forward(self, tensors: dict[str, torch.Tensor], loss_kwargs: dict[str, Any]) -> tuple[Any, Any, LossOutput]:
        """Minibatch -> outputs and loss; training cells are augmented, validation cells are not.

        Without labels the only loss is that of hidden genes, so then validation cells hide genes too.
        """
        inference_kwargs = self.augmentation if self.training else {}
        if not self.training and self.validation_f1 is None:
            inference_kwargs = {"max_masked_fraction": self.augmentation["max_masked_fraction"]}
        return self.module(tensors, inference_kwargs=inference_kwargs, loss_kwargs=loss_kwargs)

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
        """AdamW over what is trainable, learning rate stepped every minibatch."""
        optimizer = torch.optim.AdamW(
            _parameter_groups(self.module, self.weight_decay),
            lr=self.lr,
            betas=(0.9, 0.98),
            # One kernel for all parameters: a third of a training step on a CPU otherwise.
            # Lightning cannot clip gradients of a fused optimizer in mixed precision.
            fused=self.module.device.type in {"cpu", "cuda"} and self.trainer.precision == "32-true",
        )
        n_steps = max(int(self.trainer.estimated_stepping_batches), 1)
        n_warmup = max(int(self.warmup_fraction * n_steps), 1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup_cosine(step, n_warmup, n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _warmup_cosine(step: int, n_warmup: int, n_steps: int) -> float:
    """step -> learning rate as a share of its peak."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    progress = (step - n_warmup) / max(n_steps - n_warmup, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: weights of linear layers decay, everything else does not.

    Decay would move the embeddings of genes and batches that a minibatch says nothing about.
    """
    decayed = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
