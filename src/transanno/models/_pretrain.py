"""Self-supervised pretraining on unlabeled cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.utils import setup_anndata_dsp

from transanno.checks._arguments import check_adata, check_training, one_column
from transanno.checks._warn import warn
from transanno.data._positions import as_positions
from transanno.models._base import TransAnnoBase, plan_arguments
from transanno.models._fields import anndata_fields, check_no_other_keys, default_modalities, mudata_fields
from transanno.models._from_original import model_without_data, read_genes
from transanno.models._train import initialize_module, run_training
from transanno.nn import Architecture
from transanno.predictions._torch import as_minibatch
from transanno.presets import PAPER
from transanno.saving._original import load_weights, read_checkpoint
from transanno.training._epochs import MAX_PRETRAINING_EPOCHS, N_PRETRAINING_VISITS, default_max_epochs
from transanno.training._processes import count_processes
from transanno.training._seed import seeded
from transanno.training._splitter import SplitOnce, ignored_size_warnings


class TransAnnoPretrain(TransAnnoBase):
    """Masked-expression pretraining of the TransAnno encoder on cells without labels.

    Some genes of every cell are hidden and the molecules of the others thinned; the network predicts the
    expression bins of the hidden genes from the rest, as in TransAnno-Net :cite:p:`transannonet2025` and
    scBERT :cite:p:`yang2022scbert`. :meth:`transanno.TransAnno.from_pretrained` takes the weights over.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`, or MuData registered with :meth:`setup_mudata`.
    registry
        Registry of a data module, for training without AnnData.
    datamodule
        Set by scvi-tools when a model is loaded with a data module.
    **architecture
        The network, see :class:`transanno.nn.Architecture`; all but ``head``.

    Examples
    --------
    >>> import transanno
    >>> transanno.TransAnnoPretrain.setup_anndata(atlas, batch_key="batch")
    >>> pretrained = transanno.TransAnnoPretrain(atlas)
    >>> pretrained.train()
    >>> pretrained.save("pretrained/")
    """

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        datamodule: Any = None,
        **architecture: Unpack[Architecture],
    ) -> None:
        super().__init__(adata, registry)
        self._build_module(architecture)
        # How the last training hid genes, as arguments of the module's `inference`.
        self.masking_: dict[str, float] = {"max_masked_fraction": 0.4}

    def train(
        self,
        max_epochs: int | None = None,
        train_size: float | None = 0.9,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int = 128,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        plan_config: Any = None,
        trainer_config: Any = None,
        datamodule: Any = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on the registered cells.

        Parameters
        ----------
        max_epochs
            Passes over the cells. Default: as many as it takes to visit 90,000 cells, between 5 and 120.
        train_size, validation_size, shuffle_set_split, datasplitter_kwargs
            See :class:`scvi.dataloaders.DataSplitter`.
        batch_size
            Cells in a minibatch.
        accelerator, devices
            See :class:`scvi.train.Trainer`.
        plan_kwargs, plan_config
            Arguments of the training plan, such as ``lr``, ``masking`` or ``lr_schedule``; the user guide lists them.
        trainer_config
            See :class:`scvi.train.Trainer`.
        datamodule
            Lightning data module to load cells from, for a model that was built from a ``registry``.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, such as ``early_stopping``, ``accumulate_grad_batches`` or
            ``callbacks``.

        Notes
        -----
        ``history`` has the share of hidden genes whose bin was predicted right, ``masked_accuracy_train`` and
        ``masked_accuracy_validation``, and beside it what always guessing each gene's commonest bin would have
        reached, ``masked_accuracy_commonest_train`` and ``masked_accuracy_commonest_validation``. See also
        :meth:`get_reconstruction_accuracy`.
        """
        check_training(
            max_epochs=max_epochs,
            train_size=train_size,
            validation_size=validation_size,
            batch_size=batch_size,
            plan_kwargs=plan_kwargs,
            trainer_kwargs={"accelerator": accelerator, **trainer_kwargs},
        )
        n_processes = count_processes(accelerator, devices, trainer_config, trainer_kwargs)
        splitter = datamodule
        if datamodule is None:
            self._check_has_data()
            with ignored_size_warnings():
                splitter = SplitOnce(
                    self.adata_manager,
                    train_size=train_size,
                    validation_size=validation_size,
                    shuffle_set_split=shuffle_set_split,
                    batch_size=batch_size,
                    **({"distributed_sampler": True} if n_processes > 1 else {}),
                    **(datasplitter_kwargs or {}),
                )
        if not self.is_trained_:
            initialize_module(self, splitter, genes=True)
        plan = run_training(
            self,
            splitter,
            max_epochs=max_epochs
            or default_max_epochs(self.summary_stats.n_cells, N_PRETRAINING_VISITS, MAX_PRETRAINING_EPOCHS),
            plan_kwargs=plan_arguments(plan_config, plan_kwargs),
            trainer_kwargs=trainer_kwargs,
            accelerator=accelerator,
            devices=devices,
            trainer_config=trainer_config,
            name="pretraining",
        )
        self.masking_ = plan.masking

    def get_reconstruction_accuracy(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
        seed: int | None = 0,
    ) -> pd.Series:
        """How well hidden genes are predicted, beside always guessing each gene's commonest bin.

        Genes of every cell are hidden once, as they were in training, and their expression bins predicted from the
        rest. A model that does not beat the guess has learned nothing about cells. The guess knows what the
        network is told: where only expressed genes are hidden, it is the commonest bin of the cells that express a
        gene. It was counted on up to 5,000 of the cells that the model was trained with.

        Parameters
        ----------
        adata
            Cells; their genes are matched by name. Default: the data of the model, most of which it was trained on:
            give cells that were left aside for an honest number.
        indices
            Positions or boolean mask of the cells to use. Default: all.
        batch_size
            Cells in a minibatch.
        seed
            Decides which genes are hidden; ``None`` draws from torch's generator as it is.

        Returns
        -------
        ``"accuracy"`` and ``"accuracy_commonest"``, shares in [0, 1] (the latter NaN for an original checkpoint,
        whose training data are not here), and ``"n_hidden"``, the number of hidden genes that they are shares of.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If it has no data and is given none, or the cells do not fit it.
        """
        self._check_if_trained(warn=False)
        target, cells = self._resolve(adata)
        is_missing = torch.from_numpy(cells.is_missing).to(self.module.device)
        options: dict[str, Any] = {**self.masking_, "is_missing": is_missing, "center": self._center(cells)}
        n_right, positions = np.zeros(3), as_positions(indices, target.n_obs)
        size = batch_size or self.module.encoder.inference_batch_size
        self.module.eval()
        with seeded(seed), torch.inference_mode():
            for start in range(0, len(positions), size):
                rows = positions[start : start + size]
                tensors = as_minibatch(self.module, cells.counts.rows(rows), cells.batch[rows], sparse=False)
                tensors = {key: value.to(self.module.device) for key, value in tensors.items()}
                outputs, generated, loss = self.module(tensors, inference_kwargs=options)
                n_hidden = outputs["is_hidden"][:, generated["genes"]].sum()
                shares = [loss.extra_metrics[key] for key in ("masked_accuracy", "masked_accuracy_commonest")]
                n_right += [float(share * n_hidden) for share in shares] + [int(n_hidden)]
        accuracies = n_right[:2] / max(n_right[2], 1)
        return pd.Series(
            [*accuracies, int(n_right[2])], index=["accuracy", "accuracy_commonest", "n_hidden"], dtype=object
        )

    @classmethod
    def from_checkpoint(cls, path: str | Path, genes: Sequence[str] | str | Path) -> Self:
        """Load an encoder of TransAnno-Net :cite:p:`transannonet2025` or scBERT :cite:p:`yang2022scbert`.

        The model holds no cells: :meth:`transanno.TransAnno.from_pretrained` takes its weights over for fine-tuning.
        Positions from gene2vec are read like learned ones, and learn further. The classifier of a fine-tuned
        checkpoint is left out.

        Parameters
        ----------
        path
            File that ``torch.save`` wrote: a state dictionary, or one under ``"model_state_dict"`` or
            ``"state_dict"``. It is read with ``weights_only=True``.
        genes
            Names of the genes in the order of their positions, or a file of them, see
            :func:`transanno.pp.read_vocabulary`.

        Returns
        -------
        Pretrained model, on the CPU.

        Raises
        ------
        ValueError
            If the file cannot be read, or weights are missing, left over or of another shape; it lists them.

        Examples
        --------
        >>> import transanno
        >>> pretrained = transanno.TransAnnoPretrain.from_checkpoint("pretrain.pth", genes="genes.txt")
        >>> model = transanno.TransAnno.from_pretrained(pretrained, reference, labels_key="cell_type")
        >>> model.train(batch_size=2, accumulate_grad_batches=60)
        """
        checkpoint = read_checkpoint(path)
        model = model_without_data(
            cls,
            read_genes(genes, checkpoint),
            pd.DataFrame(index=["placeholder"]),
            setup={},
            model={"encoder": "performer", **checkpoint.architecture},
        )
        load_weights(model.module, checkpoint)
        plan = PAPER.pretrain["plan_kwargs"]
        model.masking_ = {name: plan[name] for name in ("masked_fraction", "replace_probability")}
        if not checkpoint.has_expression_head:
            warn(
                f"{path} is not from pretraining: it cannot predict the expression of hidden genes. That part of the "
                "model starts untrained, and a classifier in the file is left out."
            )
        model.module.eval()
        model.is_trained_ = True
        return model

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_anndata(
        cls, adata: AnnData, layer: str | None = None, batch_key: str | None = None, **kwargs: Any
    ) -> None:
        """%(summary)s.

        Parameters
        ----------
        %(param_adata)s
        layer
            Layer of raw counts. Default: ``adata.X``.
        %(param_batch_key)s
        """
        check_no_other_keys(kwargs)
        check_adata(adata, name="adata")
        batch_key = one_column(batch_key, argument="batch_key")
        setup_method_args = cls._get_setup_method_args(**locals())
        manager = AnnDataManager(fields=anndata_fields(layer, batch_key), setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_mudata(
        cls,
        mdata: MuData,
        rna_layer: str | None = None,
        batch_key: str | None = None,
        modalities: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """%(summary_mdata)s.

        Parameters
        ----------
        %(param_mdata)s
        rna_layer
            Layer of raw counts in the RNA modality. Default: its ``X``.
        %(param_batch_key)s
        modalities
            Modality of each argument: ``{"rna_layer": "rna"}`` by default. Add ``"batch_key": "rna"`` where the
            column lives in the modality instead of ``mdata.obs``.
        """
        check_no_other_keys(kwargs)
        batch_key = one_column(batch_key, argument="batch_key")
        setup_method_args = cls._get_setup_method_args(**locals())
        modalities = default_modalities(modalities, setup_method_args)
        where = cls._create_modalities_attr_dict(modalities, setup_method_args)
        fields = mudata_fields(where, rna_layer, batch_key)
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)
