"""A training run: what it starts from, what learns in it, and for how long."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.dataloaders import DataSplitter
from scvi.train import merge_kwargs
from sklearn.metrics import mutual_info_score

from transanno.checks._data import check_choice
from transanno.checks._quiet import calm_libraries
from transanno.checks._warn import warn
from transanno.predictions._torch import as_tensor
from transanno.training._epochs import MAX_EPOCHS, N_STEPS, N_VISITS, default_max_epochs
from transanno.training._experts import teach_experts
from transanno.training._minibatches import first_rows, training_minibatches
from transanno.training._plan import TransAnnoTrainingPlan
from transanno.training._progress import current_stage, stage, with_bar
from transanno.training._threads import at_most_threads

if TYPE_CHECKING:
    from transanno.models._base import TransAnnoBase
    from transanno.models._transanno import TransAnno

# Cells from which gene embeddings and mean expression start.
_N_INITIALIZATION = 5000
# Share of the uncertainty about the type that the batch may explain without a warning.
_MAX_CONFOUNDING = 0.8
# Peak learning rate on a query, a third of that on a reference: nothing but the embeddings of its batches learns.
_QUERY_LR = 1e-3


def run_training(
    model: TransAnnoBase,
    data_splitter: Any,
    *,
    max_epochs: int,
    plan_kwargs: dict[str, Any],
    trainer_kwargs: dict[str, Any],
    trainer_config: Any,
    name: str = "training",
    **runner_kwargs: Any,
) -> TransAnnoTrainingPlan:
    """Fit the module to what the splitter loads -> the plan by which it was trained; ``name`` is what its bar says."""
    trainer_kwargs = with_bar(merge_kwargs(trainer_config, trainer_kwargs, name="trainer"))
    trainer_kwargs.setdefault("gradient_clip_val", 1.0)
    # Its default, elbo_validation, holds no classification loss.
    trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
    if trainer_kwargs.get("early_stopping") and getattr(data_splitter, "n_val", 1) == 0:
        raise ValueError(
            "early_stopping=True needs validation cells, but none were left aside (train_size=1.0, or too few "
            "cells). Lower train_size, or switch early stopping off."
        )
    n_steps = getattr(data_splitter, "n_train", 0) // max(getattr(data_splitter, "batch_size", 128), 1)
    trainer_kwargs.setdefault("log_every_n_steps", int(np.clip(n_steps, 1, 10)))
    model.module.train()  # Lightning leaves a trained module in evaluation mode, without dropout
    model._registered_center = None
    plan = model._training_plan_cls(model.module, is_missing=_missing_in(model, data_splitter), **plan_kwargs)
    was_trained: bool = model.is_trained  # type: ignore[has-type]
    # A trained model without a history, as load_query_data makes it, would not be given one.
    model.is_trained = was_trained and model.history is not None
    try:
        with calm_libraries(), stage(current_stage() or name), at_most_threads(model.module.encoder.n_training_threads):
            if not trainer_kwargs.get("early_stopping"):  # scvi-tools says so even then
                warnings.filterwarnings(
                    "ignore", message="early_stopping was automatically disabled due to the use of DDP"
                )
            runner = model._train_runner_cls(
                model,
                training_plan=plan,
                data_splitter=data_splitter,
                max_epochs=max_epochs,
                **runner_kwargs,
                **trainer_kwargs,
            )
            runner()
    finally:
        model.is_trained = model.is_trained or was_trained
    return plan


def _missing_in(model: TransAnnoBase, data_splitter: Any) -> torch.Tensor:
    """-> genes that the cells to train on lack ``(n_vars,)``; a data module of the user's has all."""
    if isinstance(data_splitter, DataSplitter):
        return torch.from_numpy(model._registered_cells().is_missing)
    return torch.zeros(model.module.n_input, dtype=torch.bool)


def initialize_module(model: TransAnnoBase, data_splitter: Any, *, genes: bool) -> None:
    """Start gene embeddings and mean expression from a sample of the training cells, validation cells left out."""
    data_splitter.setup("fit")
    if isinstance(data_splitter, DataSplitter):
        sample = np.asarray(data_splitter.train_idx, dtype=int)
        sample = np.sort(sample[torch.randperm(len(sample))[:_N_INITIALIZATION].numpy()])
        dense = as_tensor(model._registered_cells().counts.rows(sample), sparse=False)
    else:
        key = REGISTRY_KEYS.X_KEY
        dense = first_rows(training_minibatches(data_splitter), _N_INITIALIZATION, key)[key]
    model.module.initialize_from_data(dense, _missing_in(model, data_splitter), genes=genes)


def check_freeze(model: TransAnno, freeze: str | None) -> None:
    """Raise ValueError unless this can be frozen."""
    if freeze is None:
        return
    check_choice("freeze", freeze, ("encoder", "partial"))
    if model.n_reference_batches_ is not None:
        raise ValueError(
            f"freeze={freeze!r} is for a reference, but this is the model of a query: its weights are frozen already. "
            "Leave freeze out; `load_query_data(..., unfrozen=True)` lets all of them learn."
        )
    if not (model.was_pretrained_ or model.is_trained_):
        raise ValueError(
            f"freeze={freeze!r} would keep random weights: the model was neither pretrained nor trained. Make it with "
            "`TransAnno.from_pretrained(pretrained, adata, ...)`, or leave freeze out."
        )


def prepare_reference(model: TransAnno, splitter: Any, freeze: str | None) -> tuple[int, dict[str, Any]]:
    """Start what does not learn by gradient descent, and freeze -> default epochs and arguments of the plan."""
    cells, has_cells = None, isinstance(splitter, DataSplitter)
    if has_cells:
        cells = model._registered_cells()
        _warn_if_confounded(model, cells.batch)
    per_epoch = (splitter.n_steps_per_epoch, N_STEPS) if has_cells else (model.summary_stats.n_cells, N_VISITS)
    epochs = default_max_epochs(*per_epoch, MAX_EPOCHS)
    if not model.is_trained_:
        initialize_module(model, splitter, genes=not model.was_pretrained_)
        teach_experts(model.module, None if cells is None else cells.counts, splitter, ~model._is_gene)
    if freeze is not None and model.n_new_genes_:
        warn(
            f"freeze={freeze!r} keeps the gene embeddings as they are, and {model.n_new_genes_} of "
            f"{len(model.genes)} genes were not in pretraining: theirs stay random. Restrict the reference to the "
            "pretrained genes, or train without freeze."
        )
    model.module.freeze(freeze)
    return epochs, {}


def prepare_query(model: TransAnno) -> tuple[int, dict[str, Any]] | None:
    """Freeze what is the reference's -> default epochs and arguments of the plan; None if nothing is left to train."""
    assert model.n_reference_batches_ is not None
    if not model.query_trains_["unfrozen"]:
        model.module.freeze_for_query(model.n_reference_batches_)
        if model.query_trains_["classifier"] and model.module.classifier is not None:
            model.module.classifier.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.module.parameters()):
        warn(
            "Nothing to train: all batches of the query are known to the reference, and its weights are frozen. "
            "The model can predict as it is."
        )
        return None
    epochs = max(default_max_epochs(model.summary_stats.n_cells, N_VISITS, MAX_EPOCHS) // 2, 1)
    plan = {"lr": _QUERY_LR, "batch_dropout": 0.0, "reconstruction_weight": 1.0, "use_labels": model._learns_labels}
    return epochs, plan


def _warn_if_confounded(model: TransAnno, batches: np.ndarray) -> None:
    """Warn if the batch ``(n_obs,)`` of a reference cell gives its type away."""
    labels = model._label_codes()
    is_labeled = labels >= 0
    shared = mutual_info_score(labels[is_labeled], batches[is_labeled])
    entropy = mutual_info_score(labels[is_labeled], labels[is_labeled])
    if shared > _MAX_CONFOUNDING * entropy:
        warn(
            f"Batch and cell type nearly coincide in the reference: knowing the batch of a cell leaves "
            f"{max(1 - shared / entropy, 0):.0%} of the uncertainty about its type. No method can tell the two apart here; "
            "set the model up without batch_key."
        )
