"""What both models share: registered and given cells, training, inference, saving and loading."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass
from scvi.train import TrainRunner, merge_kwargs

from transanno._constants import JUDGED_KEY, OTHER_GENES
from transanno.checks._data import did_you_mean
from transanno.checks._quiet import calm_libraries
from transanno.data._batches import encode_batches
from transanno.data._cells import AlignedData, DataSpec, align, read_obs, rna_modality
from transanno.data._counts import MatrixCounts
from transanno.data._match_genes import missing_genes
from transanno.data._positions import as_positions
from transanno.html._render import Table, summary
from transanno.models._from_scanvi import refuse_unknown_arguments
from transanno.models._registry import as_anndata_registry, spec_of
from transanno.models._summary import facts
from transanno.nn import Architecture
from transanno.predictions._run import Cells, Outputs, run
from transanno.predictions._torch import TorchBackend, center_of
from transanno.saving._format import SAFE_FORMAT, building, download, read_saved_data, read_saved_model
from transanno.saving._names import folder_of
from transanno.saving._save import card_of, write_beside
from transanno.training._minibatches import Minibatch
from transanno.training._module import TransAnnoModule
from transanno.training._plan import TransAnnoTrainingPlan


@dataclass(frozen=True, eq=False)
class Attached:
    """The object that the user gave and that predictions are written to, where that is not the registered one."""

    target: AnnData | MuData
    layer: str | None
    """of its counts; None: that of the model"""
    registered: AnnData | MuData
    """the aligned copy of it; of some of its cells where it stays on disk"""
    cells: Cells | None = None
    """all of its cells where it stays on disk"""


class TransAnnoBase(BaseModelClass):
    """Base of both models; stands first in their bases so that its guards run before scvi-tools' methods."""

    module: TransAnnoModule

    _module_cls = TransAnnoModule
    _training_plan_cls = TransAnnoTrainingPlan
    _train_runner_cls = TrainRunner

    # Share of every gene in the counts of the reference, where the model normalizes by all counts of a cell.
    gene_shares_: dict[str, float] | None = None
    _attached: Attached | None = None
    # Registered counts, and the mean of their log-expression: it is computed once, and belongs to the data set.
    _registered_center: tuple[Any, torch.Tensor | None] | None = None

    def __init__(self, adata: AnnData | MuData | None = None, registry: dict[str, Any] | None = None) -> None:
        has_labels = "labels_key" in inspect.signature(self.setup_anndata).parameters
        super().__init__(adata, as_anndata_registry(registry, type(self).__name__, has_labels=has_labels))
        if adata is not None:
            self._validate_anndata(adata)  # another model may have been set up on it since
        weakref.finalize(self, _let_go, type(self), self.id).atexit = False

    def _build_module(self, architecture: Architecture, *, n_labels: int = 0, summary: str = "") -> None:
        """Make the module, and remember its architecture with the defaults that it filled in."""
        known = Architecture.__annotations__.keys() - ({"head"} if n_labels == 0 else set())
        for name in architecture.keys() - known:
            raise TypeError(
                f"{type(self).__name__} has no argument {name!r}. {did_you_mean(name, sorted(known), what='Arguments')}"
            )
        stats = self.summary_stats
        # float32 whatever torch's default is, which other libraries may have changed in this session.
        self.module = self._module_cls(stats.n_vars, stats.n_batch, n_labels, **architecture).float()
        self._model_summary_string = (
            f"{type(self).__name__} model with {describe(dict(self.module.architecture))}, genes: {stats.n_vars}, "
            f"batches: {stats.n_batch}{summary}"
        )
        self.module.is_other.copy_(torch.from_numpy(~self._is_gene))
        # Not `_get_init_params`: it reads the signature of a subclass, and loses what that passes on as **kwargs.
        self.init_params_ = {"kwargs": {}, "non_kwargs": dict(self.module.architecture)}

    def _repr_html_(self) -> str:
        return summary(f"{type(self).__name__} model", tables=[Table([], list(facts(self).items()))])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        # With HTML alone, notebooks would call scvi-tools' __repr__ beside it, which prints.
        lines = [f"{name}: {value}" for name, value in facts(self).items()]
        return {"text/plain": "\n".join([f"{type(self).__name__} model", *lines]), "text/html": self._repr_html_()}

    @property
    def _spec(self) -> DataSpec:
        return spec_of(self.registry)

    @property
    def genes(self) -> pd.Index:
        """Gene vocabulary of the model, in the order of its weights."""
        return self._spec.vocabulary[self._is_gene]

    @property
    def _batches(self) -> list[str]:
        """Names of the batches, in the order of their codes."""
        state = self.registry["field_registries"][REGISTRY_KEYS.BATCH_KEY]["state_registry"]
        return [str(batch) for batch in state["categorical_mapping"]]

    @property
    def _is_gene(self) -> np.ndarray:
        """Which columns of the registered counts are genes ``(n_vars,)``: all but the count of other genes."""
        return np.asarray(self._spec.vocabulary != OTHER_GENES)

    def get_var_names(self, legacy_mudata_format: bool = False) -> Any:
        """Genes as scvi-tools wants them: an array, or for a MuData one per modality."""
        if self.adata is None and self._spec.modality is not None and not legacy_mudata_format:
            return {self._spec.modality: self._spec.vocabulary.to_numpy()}
        return super().get_var_names(legacy_mudata_format=legacy_mudata_format)

    # -- cells ---------------------------------------------------------------------------------------------------

    def _attach(self, target: AnnData | MuData, *, layer: str | None = None, cells: Cells | None = None) -> None:
        """Remember whose cells the registered ones are, and in which layer; and all ``cells`` if these are only some of them."""
        self._attached = Attached(target, layer, self.adata, cells)

    @property
    def _attachment(self) -> Attached | None:
        """Whose cells the registered ones are, where they are a copy."""
        # `model.adata = other` attaches data in the model's gene order, or scvi-tools had refused them.
        return self._attached if self._attached is not None and self._attached.registered is self.adata else None

    def _owns(self, target: Any) -> bool:
        """Whether it is the object that the model was set up on or mapped to."""
        return target is (self.adata if self._attachment is None else self._attachment.target)

    def _check_is_whole(self, what: str) -> None:
        """Raise `ValueError` if only some of the query's cells are registered, because it stays on disk."""
        attached = self._attachment
        if attached is not None and attached.cells is not None:
            raise ValueError(
                f"The query has {len(attached.cells.obs)} cells and stays on disk, so that {what} would only see the "
                f"{self.adata.n_obs} of them that the model holds in memory. Read it into memory, or some of its cells: "
                "load_query_data(query[cells].to_memory(), model)."
            )

    def _resolve(self, adata: AnnData | MuData | None = None, *, only_some: bool = False) -> tuple[Any, Cells]:
        """-> the user's object, the model's own by default, and its cells; with ``only_some`` read when they are asked for."""
        registered = self.adata
        attached = self._attachment
        own = registered if attached is None else attached.target
        target: Any = own if adata is None else adata
        if target is None:
            raise ValueError(
                "The model holds no data: it was loaded without AnnData. Pass the cells, as in predict(adata)."
            )
        is_own = target is registered or target is own
        streamed = None if attached is None or target is registered else attached.cells
        # The user may have subset or reordered the object since.
        if is_own and streamed is not None:
            if target.obs_names.astype(str).equals(streamed.obs.index):
                return target, streamed
        elif is_own and target.obs_names.astype(str).equals(registered.obs_names.astype(str)):
            self._validate_anndata(registered)  # another model may have registered it since
            return target, self._registered_cells()
        layer = attached.layer if is_own and attached is not None else None
        aligned = align(target, self._spec, shares=self.gene_shares_, layer=layer, name="adata", only_some=only_some)
        return target, self._encode(aligned)

    def _encode(self, aligned: AlignedData) -> Cells:
        can_map = hasattr(self, "load_query_data")
        batch = encode_batches(aligned.obs, self._batches, batch_key=self._spec.batch_key, can_map=can_map)
        return Cells(aligned.counts, batch, aligned.is_missing, aligned.obs)

    def _registered_cells(self) -> Cells:
        counts = MatrixCounts(self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY))
        batch = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        # The registered data mark which genes were not measured: these are unknown, not zero.
        is_missing = missing_genes(rna_modality(self.adata, self._spec, name="adata").var)
        return Cells(counts, batch, is_missing, read_obs(self.adata, self._spec))

    def _center(self, cells: Cells) -> torch.Tensor | None:
        """Mean log-expression of the data set that the cells are; None if no result depends on it."""
        values = getattr(cells.counts, "matrix", cells.counts)
        if self._registered_center is not None and self._registered_center[0] is values:
            return self._registered_center[1]
        center = center_of(self.module, cells, np.arange(cells.counts.shape[0]))
        is_streamed = self._attachment is not None and self._attachment.cells is cells
        if is_streamed or (
            self.adata is not None and values is self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        ):
            self._registered_center = values, center
        return center

    # -- training ------------------------------------------------------------------------------------------------

    def _check_has_data(self) -> None:
        """Raise unless there are registered cells, and restore what another model may have registered over."""
        if self.adata is None:
            raise ValueError(
                "The model holds no cells to train on: it was loaded without AnnData. Load it with the data, as in "
                "load(dir_path, adata), or pass a datamodule."
            )
        self._check_is_whole("training")
        self._validate_anndata(self.adata)

    # -- inference -----------------------------------------------------------------------------------------------

    def _run(
        self,
        cells: Cells,
        positions: np.ndarray,
        batch_size: int | None = None,
        *,
        axes: np.ndarray | None = None,
        center: torch.Tensor | None = None,
    ) -> Outputs:
        """Cells at ``positions`` -> outputs; ``center`` is the mean of their data set, by default of all ``cells``."""
        backend = TorchBackend(self.module, center=self._center(cells) if center is None else center, axes=axes)
        return run(backend, cells, positions, batch_size=batch_size or self.module.encoder.inference_batch_size)

    def _run_minibatches(self, dataloader: Iterable[Minibatch]) -> Outputs:
        """Minibatches of the user's, of which nothing else is known, -> outputs."""
        is_missing = np.zeros(self.module.n_input, dtype=bool)
        if self.adata is not None:
            is_missing = self._registered_cells().is_missing
        return TorchBackend(self.module).run_minibatches(dataloader, is_missing)

    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        *,
        batch_size: int | None = None,
        dataloader: Iterable[Minibatch] | None = None,
        **kwargs: Any,
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
        **kwargs
            Arguments of scVI's and scANVI's method that have no effect here, such as ``mc_samples``, with a warning.

        Returns
        -------
        Cell states ``(n_cells, n_latent)``, in the order of ``indices``.
        """
        refuse_unknown_arguments(self.get_latent_representation, kwargs)
        self._check_if_trained()
        if dataloader is not None:
            return self._run_minibatches(dataloader).z
        target, cells = self._resolve(adata)
        return self._run(cells, as_positions(indices, target.n_obs), batch_size).z

    # -- saving --------------------------------------------------------------------------------------------------

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Save the weights as data, without pickle, so that whoever loads them runs no code of the file.

        Beside ``model.pt`` are written the gene vocabulary, ``genes.txt``, and a card that says what the model knows,
        ``card.json``.

        Parameters
        ----------
        dir_path
            Folder to write.
        prefix
            What the names of the files begin with.
        overwrite
            Replace a model in the folder.
        save_anndata
            Save the registered data, too.
        save_kwargs
            Arguments of :func:`torch.save`; not ``pickle_module``, which makes the format.
        *args, **kwargs
            Further arguments of :meth:`scvi.model.base.BaseModelClass.save`.

        Raises
        ------
        TypeError
            If an attribute of a subclass is neither numbers, text nor arrays, so that it would need pickle.
        ValueError
            If the folder exists, unless ``overwrite`` is given.
        """
        if "pickle_module" in (save_kwargs or {}):
            raise ValueError(
                "save_kwargs holds pickle_module, but models are saved without pickle, so that opening one runs no code. "
                "Leave it out."
            )
        if save_anndata:
            self._check_is_whole("whoever loads it with its data")
        arguments = {**(save_kwargs or {}), "pickle_module": SAFE_FORMAT}
        super().save(str(dir_path), prefix, overwrite, save_anndata, arguments, *args, **kwargs)
        write_beside(self, self._card(), Path(dir_path), prefix or "")

    def _card(self) -> dict[str, Any]:
        return card_of(self)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | MuData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        datamodule: Any = None,
        allowed_classes_names_list: list[str] | None = None,
        **kwargs: Any,
    ):
        """Load a saved model, with or without data. Nothing in the file is executed.

        Parameters
        ----------
        dir_path
            Folder that :meth:`save` wrote.
        adata
            Cells to attach; their genes are matched by name, and the object is left as it is. ``None``: the AnnData
            saved with the model, if any. ``False``: none.
        prefix
            What the names of the files begin with.
        backup_url
            Where to download the file from if the folder has none.
        accelerator, device, datamodule, allowed_classes_names_list, **kwargs
            See :meth:`scvi.model.base.BaseModelClass.load`.

        Returns
        -------
        The model.

        Raises
        ------
        ValueError
            If the folder holds no model, a damaged one, one of another class or of another format, or if the file holds
            more than data.
        """
        if backup_url is not None:
            download(backup_url, dir_path, prefix)
        saved = read_saved_model(dir_path, cls.__name__, prefix=prefix, allowed=allowed_classes_names_list)
        if adata is None:
            adata = read_saved_data(dir_path, prefix)

        def load(data: Any) -> Any:
            with saved.as_trusted_folder() as folder, building(dir_path, with_data=bool(data)), calm_libraries():
                return super(TransAnnoBase, cls).load(
                    folder,
                    data,
                    accelerator=accelerator,
                    device=device,
                    datamodule=datamodule,
                    allowed_classes_names_list=allowed_classes_names_list,
                    **kwargs,
                )

        if adata is None or adata is False:
            return load(adata)
        with building(dir_path, with_data=False):
            spec = spec_of(saved.registry)
        if pd.Index(rna_modality(adata, spec, name="adata").var_names.astype(str)).equals(spec.vocabulary):
            return load(adata)
        aligned = align(adata, spec, shares=saved.attributes.get("gene_shares_"), name="adata")
        with ignored_gene_warnings():
            model = load(aligned.to_registrable())
        model._attach(adata)
        return model

    @staticmethod
    def load_registry(dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Registry of a saved model, read without executing anything in the file."""
        return read_saved_model(dir_path, prefix=prefix).registry

    @staticmethod
    def view_setup_args(dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the arguments that a saved model was set up with."""
        import rich.pretty  # noqa: F401  scvi-tools uses it without importing it

        AnnDataManager.view_setup_method_args(TransAnnoBase.load_registry(dir_path, prefix))

    @classmethod
    def convert_legacy_save(cls, *args: Any, **kwargs: Any) -> None:
        """Not for these models: scvi-tools before 0.15, whose files it converts, had none.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            f"{cls.__name__} models were never saved in the format of scvi-tools before 0.15, and its files are pickles, "
            "which can run code when they are opened. Load the folder with load()."
        )


def _let_go(cls: type[TransAnnoBase], model_id: str) -> None:
    """Forget the cells of a model that is gone, but for what the user registered: scvi-tools keeps all for as long as Python runs."""
    for uuid, manager in cls._per_instance_manager_store.pop(model_id, {}).items():
        if JUDGED_KEY in manager.adata.uns:  # a copy of counts that we made
            cls._setup_adata_manager_store.pop(uuid, None)


@contextmanager
def ignored_gene_warnings() -> Iterator[None]:
    """Without scvi-tools' warning of other genes: ours are matched by name, and checked when they are registered."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`var_names` for the loaded")
        yield


_Model = TypeVar("_Model", bound=TransAnnoBase)


def as_model(model: _Model | str | Path, cls: type[_Model], *, argument: str) -> _Model:
    """A trained model, or the folder or name of one -> the model."""
    if isinstance(model, str | Path):
        model = cls.load(folder_of(model), False)
    if not isinstance(model, cls):
        raise TypeError(
            f"{argument} is a {type(model).__name__}. Allowed: a {cls.__name__} model, the folder it was saved in, or its name."
        )
    if not model.is_trained:
        raise ValueError(f"The model given as {argument} is not trained. Call its train() first.")
    return model


def describe(arguments: dict[str, Any]) -> str:
    """Arguments -> one line for the summary of a model."""
    return ", ".join(f"{name}: {value}" for name, value in arguments.items() if value is not None)


def plan_arguments(plan_config: Any, plan_kwargs: Any, **defaults: Any) -> dict[str, Any]:
    """The user's plan arguments over our defaults."""
    return {**defaults, **merge_kwargs(plan_config, plan_kwargs, name="plan")}
