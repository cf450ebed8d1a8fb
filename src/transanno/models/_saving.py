"""Saving without pickle, and loading without running what is in the file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from transanno.data._cells import DataSpec, align, rna_modality
from transanno.data._vocabulary import VOCABULARY_FILE, write_lines
from transanno.saving._card import CARD_FILE, write_card
from transanno.saving._format import SAFE_FORMAT, building, download, read_saved_data, read_saved_model


class SavingMixin(BaseModelClass):
    """Files of a model, safe to be opened by others."""

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
        arguments = {**(save_kwargs or {}), "pickle_module": SAFE_FORMAT}
        super().save(str(dir_path), prefix, overwrite, save_anndata, arguments, *args, **kwargs)
        beside = Path(dir_path)
        write_lines(self.genes, beside / f"{prefix or ''}{VOCABULARY_FILE}")
        write_card(self._card(), beside / f"{prefix or ''}{CARD_FILE}")

    def _card(self) -> dict[str, Any]:
        """What someone who finds the model in a folder wants to know -> content of ``card.json``."""
        setup, history = self.registry["setup_args"], self.history or {}
        return {
            "class": type(self).__name__,
            "is_trained": bool(self.is_trained),
            "n_genes": len(self.genes),
            "first_genes": list(self.genes[:5]),
            "n_cells": int(self.summary_stats.n_cells),
            "n_batches": int(self.summary_stats.n_batch),
            "batch_key": setup.get("batch_key"),
            "architecture": self.init_params_["non_kwargs"],
            "last_epoch": {name: float(values.iloc[-1, 0]) for name, values in history.items() if len(values)},
        }

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
            with saved.as_trusted_folder() as folder, building(dir_path, with_data=bool(data)):
                return super(SavingMixin, cls).load(
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
            spec = DataSpec.from_registry(saved.registry)
        if pd.Index(rna_modality(adata, spec, name="adata").var_names.astype(str)).equals(spec.vocabulary):
            return load(adata)
        aligned = align(adata, spec, shares=saved.attributes.get("gene_shares_"), name="adata")
        with ignored_gene_warnings():
            model = load(aligned.to_registrable())
        model._attach(adata, aligned)
        return model

    @staticmethod
    def load_registry(dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Registry of a saved model, read without executing anything in the file."""
        return read_saved_model(dir_path, prefix=prefix).registry

    @staticmethod
    def view_setup_args(dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the arguments that a saved model was set up with."""
        import rich.pretty  # noqa: F401  scvi-tools uses it without importing it

        AnnDataManager.view_setup_method_args(SavingMixin.load_registry(dir_path, prefix))

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


@contextmanager
def ignored_gene_warnings() -> Iterator[None]:
    """Without scvi-tools' warning of other genes: ours are matched by name, and checked when they are registered."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`var_names` for the loaded")
        yield
