"""What both models share: training, reading data for inference, cell states, saving and loading."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.dataloaders import DataSplitter
from scvi.train import TrainRunner, merge_kwargs

from transanno._constants import OTHER_GENES
from transanno.data._cells import AlignedData, DataSpec, align, rna_modality
from transanno.data._match_genes import missing_genes
from transanno.models._fields import encode_batches
from transanno.models._registry import as_anndata_registry
from transanno.models._saving import SavingMixin
from transanno.nn import sum_over_cells, sum_over_genes
from transanno.training._minibatches import Minibatch, as_positions, as_tensor, first_rows, take_rows
from transanno.training._module import TransAnnoModule
from transanno.training._plan import TransAnnoTrainingPlan

logger = logging.getLogger(__name__)

# Cells whose mean stands for that of a data set, and as how many cells the mean of the reference counts beside them: of one
# cell there is no mean to speak of.
_N_CENTER, _N_PRIOR = 20_000, 5

# Cells from which gene embeddings and mean expression start.
_N_INITIALIZATION = 5000
# Cells, or minibatches, that a training run visits at least, small references many times over, and its bounds in epochs.
_MIN_EPOCHS = 5
N_VISITS, N_STEPS, MAX_EPOCHS = 30_000, 400, 20
N_PRETRAINING_VISITS, MAX_PRETRAINING_EPOCHS = 90_000, 120


class TransAnnoBase(SavingMixin):
    """Base of both models; stands first in their bases so that its guards run before scvi-tools' methods."""

    module: TransAnnoModule

    _module_cls = TransAnnoModule
    _training_plan_cls = TransAnnoTrainingPlan
    _train_runner_cls = TrainRunner

    # Share of every gene in the counts of the reference, where the model normalizes by all counts of a cell.
    gene_shares_: dict[str, float] | None = None
    # The object that the user gave and that predictions are written to, where it is not `adata` itself.
    _target: AnnData | MuData | None = None
    _target_layer: str | None = None
    # The aligned copy of it that was registered.
    _aligned_adata: AnnData | MuData | None = None

    def __init__(self, adata: AnnData | MuData | None = None, registry: dict[str, Any] | None = None) -> None:
        has_labels = "labels_key" in inspect.signature(self.setup_anndata).parameters
        super().__init__(adata, as_anndata_registry(registry, type(self).__name__, has_labels=has_labels))
        if adata is not None:
            self._validate_anndata(adata)  # another model may have been set up on it since

    def _build_module(self, architecture: dict[str, Any], *, summary: str = "", **module_kwargs: Any) -> None:
        """Make the module, and remember its architecture with the defaults that it filled in."""
        stats = self.summary_stats
        # float32 whatever torch's default is, which other libraries may have changed in this session.
        self.module = self._module_cls(
            n_input=stats.n_vars, n_batch=stats.n_batch, **module_kwargs, **architecture
        ).float()
        self._model_summary_string = (
            f"{type(self).__name__} model with encoder {architecture['encoder']!r}, "
            f"{describe(self.module.encoder_arguments)}, genes: {stats.n_vars}, batches: {stats.n_batch}{summary}"
        )
        self.module.is_other.copy_(torch.from_numpy(~self._is_gene))
        filled = architecture | self.module.encoder_arguments
        if "head" in architecture:
            filled["head"] = self.module.head
        # Not `_get_init_params`: it reads the signature of a subclass, and loses what that passes on as **kwargs.
        self.init_params_ = {"kwargs": {}, "non_kwargs": filled}

    @property
    def _spec(self) -> DataSpec:
        return DataSpec.from_registry(self.registry)

    @property
    def genes(self) -> pd.Index:
        """Gene vocabulary of the model, in the order of its weights."""
        return self._spec.vocabulary[self._is_gene]

    @property
    def _is_gene(self) -> np.ndarray:
        """Which columns of the registered counts are genes ``(n_vars,)``: all but the count of other genes."""
        return np.asarray(self._spec.vocabulary != OTHER_GENES)

    def get_var_names(self, legacy_mudata_format: bool = False) -> Any:
        """Genes as scvi-tools wants them: an array, or for a MuData one per modality."""
        if self.adata is None and self._spec.modality is not None and not legacy_mudata_format:
            return {self._spec.modality: self._spec.vocabulary.to_numpy()}
        return super().get_var_names(legacy_mudata_format=legacy_mudata_format)

    # -- training ------------------------------------------------------------------------------------------------

    def _run_training(
        self,
        data_splitter: Any,
        *,
        max_epochs: int,
        plan_kwargs: dict[str, Any],
        trainer_kwargs: dict[str, Any],
        **runner_kwargs: Any,
    ) -> TransAnnoTrainingPlan:
        """Fit the module to what the splitter loads -> the plan by which it was trained."""
        # scvi-tools appends to the caller's list of callbacks.
        if "callbacks" in trainer_kwargs:
            trainer_kwargs["callbacks"] = list(trainer_kwargs["callbacks"])
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
        self.module.train()  # Lightning leaves a trained module in evaluation mode, without dropout
        plan = self._training_plan_cls(self.module, **plan_kwargs)
        was_trained: bool = self.is_trained  # type: ignore[has-type]
        # A trained model without a history, as load_query_data makes it, would not be given one.
        self.is_trained = was_trained and self.history is not None
        try:
            runner = self._train_runner_cls(
                self,
                training_plan=plan,
                data_splitter=data_splitter,
                max_epochs=max_epochs,
                **runner_kwargs,
                **trainer_kwargs,
            )
            with at_most_threads(self.module.encoder.n_training_threads):
                runner()
        finally:
            self.is_trained = self.is_trained or was_trained
        return plan

    def _check_has_data(self) -> None:
        """Raise unless there are registered cells, and restore what another model may have registered over."""
        if self.adata is None:
            raise ValueError(
                "The model holds no cells to train on: it was loaded without AnnData. Load it with the data, as in "
                "load(dir_path, adata), or pass a datamodule."
            )
        self._validate_anndata(self.adata)
        self._mask_missing_genes()

    def _mask_missing_genes(self) -> None:
        """Genes that the registered data mark as not measured are unknown to the module, not zero."""
        var = rna_modality(self.adata, self._spec, name="adata").var
        self.module.is_missing.copy_(torch.from_numpy(missing_genes(var)))

    def _initialize_module(self, data_splitter: Any, *, genes: bool) -> None:
        """Start gene embeddings and mean expression from a sample of the training cells, validation cells left out."""
        data_splitter.setup("fit")
        if isinstance(data_splitter, DataSplitter):
            sample = np.asarray(data_splitter.train_idx, dtype=int)
            sample = np.sort(sample[torch.randperm(len(sample))[:_N_INITIALIZATION].numpy()])
            dense = as_tensor(take_rows(self._registered_counts(), sample), sparse=False)
        else:
            key = REGISTRY_KEYS.X_KEY
            dense = first_rows(data_splitter.train_dataloader(), _N_INITIALIZATION, key)[key]
        self.module.initialize_from_data(dense, genes=genes)

    # -- inference -----------------------------------------------------------------------------------------------

    def _registered_counts(self) -> Any:
        return self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)

    def _resolve(self, adata: AnnData | MuData | None) -> tuple[AnnData | MuData, AlignedData | None]:
        """-> the user's object, and its aligned data unless it is the data registered with the model."""
        registered = self.adata
        if self._target is not None and registered is not self._aligned_adata:
            # `model.adata = other`: data in the model's gene order, or scvi-tools had refused them.
            self._target = self._target_layer = None
        if registered is not None:
            self._mask_missing_genes()
        target: Any = registered if self._target is None else self._target
        if adata is not None:
            target = adata
        elif target is None:
            raise ValueError(
                "The model holds no data: it was loaded without AnnData. Pass the cells, as in predict(adata)."
            )
        is_own = target is registered or target is self._target
        if registered is not None and is_own:
            # The user may have subset or reordered the object since.
            if target.obs_names.astype(str).equals(registered.obs_names.astype(str)):
                self._validate_anndata(registered)  # another model may have registered it since
                return target, None
        return target, align(
            target, self._spec, shares=self.gene_shares_, layer=self._target_layer if is_own else None, name="adata"
        )

    def _minibatches(
        self,
        aligned: AlignedData | None,
        indices: np.ndarray,
        batch_size: int | None,
        *,
        allow_sparse: bool = True,
    ) -> Iterator[Minibatch]:
        """Cells at ``indices``, in that order -> minibatches on the CPU."""
        if aligned is None:
            counts = self._registered_counts()
            batch = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        else:
            counts = aligned.counts
            state = self.registry["field_registries"][REGISTRY_KEYS.BATCH_KEY]["state_registry"]
            can_map = hasattr(self, "load_query_data")
            batch = encode_batches(aligned.obs, state, batch_key=self._spec.batch_key, can_map=can_map)
        # Sparse kernels pay on a CPU.
        reads_sparse = allow_sparse and self.module.encoder.reads_sparse and self.module.device.type == "cpu"
        size = batch_size or self.module.encoder.inference_batch_size
        for start in range(0, len(indices), size):
            rows = indices[start : start + size]
            yield {
                REGISTRY_KEYS.X_KEY: as_tensor(take_rows(counts, rows), sparse=reads_sparse),
                REGISTRY_KEYS.BATCH_KEY: torch.from_numpy(batch[rows].astype(np.int64))[:, None],
            }

    def _counts(self, aligned: AlignedData | None, indices: np.ndarray) -> sp.csr_matrix:
        """Counts of some cells ``(n_cells, n_vars)``."""
        counts = self._registered_counts() if aligned is None else aligned.counts
        if sp.issparse(counts):
            return sp.csr_matrix(counts[indices], dtype=np.float32)
        return sp.csr_matrix(take_rows(counts, indices), dtype=np.float32)

    def _is_missing(self, aligned: AlignedData | None) -> torch.Tensor:
        """-> genes that the data lack ``(n_vars,)``."""
        if aligned is None:
            return self.module.is_missing
        return torch.from_numpy(aligned.is_missing).to(self.module.device)

    def _center(self, aligned: AlignedData | None, cells: np.ndarray | None = None) -> torch.Tensor | None:
        """Mean log-expression ``(n_vars,)`` of a data set, or of some of its cells, drawn a little to that of the reference.

        None if no result depends on it.
        """
        if not self.module.reads_center:
            return None
        if cells is None:
            cells = np.arange(self._registered_counts().shape[0] if aligned is None else len(aligned.obs))
        n_cells = min(len(cells), _N_CENTER)
        sample = cells[np.linspace(0, len(cells) - 1, n_cells).round().astype(int)] if n_cells else cells
        total = _N_PRIOR * self.module.mean_expression
        is_missing = self._is_missing(aligned)
        for tensors in self._minibatches(aligned, sample, None):
            counts = tensors[REGISTRY_KEYS.X_KEY].to(self.module.device)
            total = total + sum_over_cells(self.module.normalize(counts, (is_missing | self.module.is_other)[None, :]))
        return total / (n_cells + _N_PRIOR)

    def _infer(
        self,
        output: str,
        aligned: AlignedData | None,
        indices: np.ndarray,
        batch_size: int | None,
        dataloader: Iterable[Minibatch] | None = None,
        *,
        center: torch.Tensor | None = None,
    ) -> np.ndarray:
        """One of the module's outputs for every cell -> ``(n_cells, ...)``."""
        return self._infer_all((output,), aligned, indices, batch_size, dataloader, center=center)[0]

    def _infer_all(
        self,
        outputs: Sequence[str],
        aligned: AlignedData | None,
        indices: np.ndarray,
        batch_size: int | None,
        dataloader: Iterable[Minibatch] | None = None,
        *,
        projection: torch.Tensor | None = None,
        center: torch.Tensor | None = None,
    ) -> list[np.ndarray]:
        """Some of the module's outputs for every cell -> ``(n_cells, ...)`` of each.

        One more, ``"projected"``, is the product of log-expression with ``projection (n_vars, width)``. ``center`` is the
        mean of the data set, by default that of all of its cells, and with a ``dataloader`` that of the reference.
        """
        is_missing = self._is_missing(aligned)
        if center is None and dataloader is None:
            center = self._center(aligned)
        minibatches = dataloader if dataloader is not None else self._minibatches(aligned, indices, batch_size)
        parts: list[list[np.ndarray]] = [[] for _ in outputs]
        self.module.eval()
        with torch.inference_mode():
            for tensors in minibatches:
                inputs = self.module._get_inference_input(tensors)
                found = self.module.inference(**inputs, is_missing=is_missing, center=center)
                if projection is not None:
                    found["projected"] = sum_over_genes(found["expression"], projection)
                for part, output in zip(parts, outputs, strict=True):
                    part.append(found[output].float().cpu().numpy())
        widths = {"logits": self.module.n_classes, "z": self.module.n_latent}
        widths["projected"] = 0 if projection is None else projection.shape[1]
        return [
            np.concatenate(part) if part else np.zeros((0, widths[output]), dtype=np.float32)
            for part, output in zip(parts, outputs, strict=True)
        ]

    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        *,
        batch_size: int | None = None,
        dataloader: Iterable[Minibatch] | None = None,
    ) -> np.ndarray:
        """Cell states, for neighbors, UMAP or clustering.

        Parameters
        ----------
        adata
            Cells; their genes are matched by name. Default: the data of the model.
        indices
            Positions or boolean mask of the cells to use. Default: all.
        give_mean
            For compatibility with scvi-tools; the cell state is deterministic.
        batch_size
            Cells in a minibatch.
        dataloader
            Minibatches as dictionaries of tensors, instead of ``adata``.

        Returns
        -------
        Cell states ``(n_cells, n_latent)``, in the order of ``indices``.
        """
        self._check_if_trained()
        if dataloader is not None:
            return self._infer("z", None, np.zeros(0, int), None, dataloader)
        target, aligned = self._resolve(adata)
        return self._infer("z", aligned, as_positions(indices, target.n_obs), batch_size)

    def _attach(self, target: AnnData | MuData, aligned: AlignedData, *, layer: str | None = None) -> None:
        """Remember whose cells these are, in which layer, and which genes they lack."""
        self._target, self._target_layer, self._aligned_adata = target, layer, self.adata
        self.module.is_missing.copy_(torch.from_numpy(aligned.is_missing))


@contextmanager
def at_most_threads(n_threads: int | None) -> Iterator[None]:
    """-> context in which torch has no more threads than these; None: as many as it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, n_threads or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


_Model = TypeVar("_Model", bound=TransAnnoBase)


def as_model(model: _Model | str | Path, cls: type[_Model], *, argument: str) -> _Model:
    """A trained model or the folder of one -> the model."""
    if isinstance(model, str | Path):
        model = cls.load(model, False)
    if not isinstance(model, cls):
        raise TypeError(
            f"{argument} is a {type(model).__name__}. Allowed: a {cls.__name__} model or the folder it was saved in."
        )
    if not model.is_trained:
        raise ValueError(f"The model given as {argument} is not trained. Call its train() first.")
    return model


def describe(arguments: dict[str, Any]) -> str:
    """Arguments -> one line for the summary of a model."""
    return ", ".join(f"{name}: {value}" for name, value in arguments.items() if value is not None)


def default_max_epochs(per_epoch: int, needed: int, most: int) -> int:
    """Number of cells, or of minibatches, in an epoch and in all -> epochs, so that small references are visited as often as it takes."""
    return int(np.clip(round(needed / max(per_epoch, 1)), _MIN_EPOCHS, most))


def plan_arguments(plan_config: Any, plan_kwargs: Any, **defaults: Any) -> dict[str, Any]:
    """The user's plan arguments over our defaults."""
    return {**defaults, **merge_kwargs(plan_config, plan_kwargs, name="plan")}
