"""Settings under a name: what TransAnno-Net :cite:p:`transannonet2025` was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["PAPER", "Preset"]


@dataclass(frozen=True)
class Preset:
    """Arguments of the models and of their training.

    All are ordinary arguments: ``{**PAPER.finetune, "max_epochs": 5}`` changes one of them.

    Examples
    --------
    >>> from transanno.presets import PAPER
    >>> transanno.TransAnnoPretrain.setup_anndata(atlas)
    >>> pretrained = transanno.TransAnnoPretrain(atlas, **PAPER.model)
    >>> pretrained.train(**PAPER.pretrain)
    >>> model = transanno.TransAnno.from_pretrained(pretrained, reference, labels_key="cell_type")
    >>> model.train(**PAPER.finetune)
    """

    model: Mapping[str, Any]
    """Architecture, for :class:`transanno.TransAnnoPretrain` and :class:`transanno.TransAnno`."""
    pretrain: Mapping[str, Any]
    """Arguments of :meth:`transanno.TransAnnoPretrain.train`."""
    finetune: Mapping[str, Any]
    """Arguments of :meth:`transanno.TransAnno.train`."""


_SCHEDULE = {"optimizer": "Adam", "weight_decay": 0.0, "lr_schedule": "warm_restarts"}
_SCHEDULE |= {"min_count_fraction": 1.0, "gene_noise": 0.0}

PAPER = Preset(
    model=MappingProxyType(
        {
            "encoder": "performer",
            "n_hidden": 200,
            "n_layers": 6,
            "n_heads": 10,
            "dropout_rate": 0.0,
        }
    ),
    pretrain=MappingProxyType(
        {
            "max_epochs": 100,
            "train_size": 0.8,
            "batch_size": 2,
            "accumulate_grad_batches": 60,
            "gradient_clip_val": 100.0,
            "plan_kwargs": MappingProxyType(
                {
                    **_SCHEDULE,
                    "lr": 1e-5,
                    "lr_min": 1e-7,
                    "masking": "expressed",
                    "masked_fraction": 0.15,
                    "replace_probability": 0.9,
                }
            ),
        }
    ),
    finetune=MappingProxyType(
        {
            "max_epochs": 100,
            "train_size": 0.8,
            "batch_size": 6,
            "accumulate_grad_batches": 60,
            "early_stopping": True,
            "early_stopping_monitor": "validation_accuracy",
            "early_stopping_mode": "max",
            "early_stopping_patience": 20,
            "freeze": "partial",
            "datasplitter_kwargs": MappingProxyType({"class_balance": "oversample"}),
            "plan_kwargs": MappingProxyType(
                {
                    **_SCHEDULE,
                    "lr": 1e-4,
                    "lr_min": 1e-6,
                    "max_masked_fraction": 0.0,
                    "label_smoothing": 0.0,
                    "balanced": False,
                }
            ),
        }
    ),
)
"""TransAnno-Net's network and training :cite:p:`transannonet2025`.

Departures: a share of 0.2 of the reference is left aside for early stopping and nothing for a test (that is up to the
caller), genes that are hidden do not enter the total that a cell's counts are scaled by, the limit of 100 epochs for
fine-tuning is ours, and so are ``batch_dropout`` (the paper knows no batches), Adam's betas of (0.9, 0.98) and the
gradient clip of 1.0 in fine-tuning. Every option works with the default
encoder, too; leave ``PAPER.model`` out.
"""
