"""Cell-type annotation: fine-tune on a reference, carry to a query, predict."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from lightning.pytorch.strategies import DDPStrategy
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.utils import setup_anndata_dsp
from sklearn.metrics import mutual_info_score

from transanno._constants import UNLABELED_CATEGORY
from transanno.checks._arguments import check_training, one_column
from transanno.checks._data import check_choice
from transanno.models._base import MAX_EPOCHS, N_STEPS, N_VISITS, default_max_epochs, plan_arguments
from transanno.models._evidence import EvidenceMixin
from transanno.models._experts import ExpertsMixin
from transanno.models._fields import anndata_fields, check_no_other_keys, default_modalities, mudata_fields
from transanno.models._pretrained import PretrainedMixin
from transanno.training._health import warn_if_collapsed
from transanno.training._splitter import AnnotationDataSplitter

# Share of the uncertainty about the type that the batch may explain without a warning.
_MAX_CONFOUNDING = 0.8
# Peak learning rate on a query, a third of that on a reference: nothing but the embeddings of its batches learns.
_QUERY_LR = 1e-3


class TransAnno(EvidenceMixin, ExpertsMixin, PretrainedMixin):
    """Cell types from single-cell RNA-seq counts, learned from a labeled reference.

    A Transformer over views of a cell, by itself and relative to its data set, trained on small data sets of random
    composition, depth, gene efficiencies and panel, so that predictions hold in other laboratories; beside it two simpler
    experts (docs/decisions/0012). It re-implements TransAnno-Net :cite:p:`transannonet2025` as an scvi-tools model :cite:p:`gayoso2022scvitools`; departures from
    the paper are listed in the user guide.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`, or MuData registered with :meth:`setup_mudata`.
    registry
        Registry of a data module, for training without AnnData.
    encoder
        ``"views"``: Transformer layers over three views of a cell, each a sum over all genes. ``"performer"``: that of the
        paper, a token per gene. Much slower; train it in small minibatches (``batch_size``).
    head
        Cell-type head. ``"experts"``: linear in the cell state, beside a regression and mean directions of types, the
        default with views. ``"conv"``: that of the paper, a convolution and a perceptron over the tokens, the default with the
        Performer.
    n_hidden
        Width of a token. Default: 48 with views, where it is a multiple of ``n_heads``; 200 in the Performer.
    n_latent
        Width of the cell state. Default: 64 with views, where it is a multiple of ``n_networks``; in the Performer it is
        ``n_hidden``.
    n_networks
        Number of networks that are averaged, only with views. Default: 2.
    n_layers
        Number of Transformer layers. Default: 1 with views, 6 in the Performer.
    n_heads
        Number of attention heads in a layer. Default: 2 with views, 10 in the Performer.
    head_dim
        Width of an attention head, only in the Performer. Default: 64.
    n_features
        Random features of the attention, only in the Performer. Default: ``int(head_dim * log(head_dim))``.
    dropout_rate
        Dropout in the cell-type head.
    datamodule
        Set by scvi-tools when a model is loaded with a data module.

    Examples
    --------
    >>> import transanno
    >>> transanno.TransAnno.setup_anndata(reference, labels_key="cell_type", batch_key="batch")
    >>> model = transanno.TransAnno(reference)
    >>> model.train()
    >>> query_model = transanno.TransAnno.load_query_data(query, model)
    >>> labels = query_model.predict()
    >>> query.obs["transanno"], query.obs["transanno_confidence"]
    """

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        encoder: str = "views",
        head: str | None = None,
        n_hidden: int | None = None,
        n_latent: int | None = None,
        n_networks: int | None = None,
        n_layers: int | None = None,
        n_heads: int | None = None,
        head_dim: int | None = None,
        n_features: int | None = None,
        dropout_rate: float = 0.1,
        datamodule: Any = None,
    ) -> None:
        super().__init__(adata, registry)
        classes = self.labels
        if len(classes) < 2:
            raise ValueError(
                f"The reference has {len(classes)} cell type{'' if len(classes) == 1 else 's'}"
                f"{': ' + repr(str(classes[0])) if len(classes) else ' (every cell is unlabeled)'}. A classifier needs "
                "at least two types with labeled cells; check `labels_key` and `unlabeled_category`."
            )
        architecture: dict[str, Any] = {
            "encoder": encoder,
            "head": head,
            "n_hidden": n_hidden,
            "n_latent": n_latent,
            "n_networks": n_networks,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "head_dim": head_dim,
            "n_features": n_features,
            "dropout_rate": dropout_rate,
        }
        self._build_module(architecture, n_labels=len(classes) + 1, summary=f", cell types: {len(classes)}")
        self.was_pretrained_ = False
        # Number of batches of the reference, for a model that load_query_data made; None for a reference model.
        self.n_reference_batches_: int | None = None
        self.query_trains_ = {"unfrozen": False, "classifier": False}

    def _card(self) -> dict[str, Any]:
        setup = self.registry["setup_args"]
        keys = ("labels_key", "unlabeled_category")
        return {**super()._card(), "cell_types": self.labels.tolist(), **{key: setup[key] for key in keys}}

    # -- training ------------------------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        n_samples_per_label: int | None = None,
        check_val_every_n_epoch: int | None = None,
        train_size: float = 0.9,
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
        *,
        freeze: Literal["encoder", "partial"] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on the reference, or adapt to the query after :meth:`load_query_data`.

        Parameters
        ----------
        max_epochs
            Passes over the labeled cells, of at least 25 minibatches each. Default: as many as it takes for 400
            minibatches, between 5 and 20; for a query, half of what it takes to visit 30,000 cells.
        n_samples_per_label
            If given, at most so many labeled cells of every type are seen in an epoch, redrawn for each.
        check_val_every_n_epoch
            How often validation cells are evaluated. Default: never, or every epoch with early stopping.
        train_size, validation_size, shuffle_set_split
            Shares of cells; the split is stratified by label, and the last cells of a type stay in training.
        batch_size
            Cells in a minibatch.
        accelerator, devices
            See :class:`scvi.train.Trainer`.
        datasplitter_kwargs
            For example ``external_indexing`` or ``class_balance``: ``"episodes"``, the default, makes every minibatch a data set of
            some of the types in random proportions; a number from 0 (cells as often as they are in the
            data) to 1 (every type as often as every other); or ``"oversample"``, which repeats cells of
            the smaller types until each has as many as the largest. Cells are only ever repeated in training.
        plan_kwargs, plan_config
            Arguments of the training plan, such as ``lr``, ``min_count_fraction`` or ``lr_schedule``; the user guide
            lists them.
        trainer_config
            See :class:`scvi.train.Trainer`.
        datamodule
            Lightning data module to load cells from, for a model that was built from a ``registry``.
        freeze
            Which pretrained weights stay as they are in this run. ``"encoder"``: all. ``"partial"``: all but the
            encoder's final norm and one of its layers, the rule of TransAnno-Net :cite:p:`transannonet2025`; the layer
            is the last one of ``encoder="views"``. The cell-type head and the batches always learn. A later
            ``train()`` changes all weights again unless it is told to freeze, too.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, such as ``early_stopping``, ``accumulate_grad_batches`` or
            ``callbacks``.

        Notes
        -----
        ``early_stopping=True, early_stopping_monitor="validation_accuracy", early_stopping_mode="max"`` stops when
        accuracy no longer rises. As in scvi-tools, the weights are then those of the last epoch; to get those of the
        best, add ``callbacks=[scvi.train.SaveCheckpoint(monitor="validation_accuracy", mode="max",
        load_best_on_end=True)]``.

        Raises
        ------
        ValueError
            If an argument is out of its range, or weights are to be frozen that nothing was learned in yet.
        """
        self._check_freeze(freeze)
        check_training(
            max_epochs=max_epochs,
            train_size=train_size,
            validation_size=validation_size,
            batch_size=batch_size,
            plan_kwargs=plan_kwargs,
            trainer_kwargs={"accelerator": accelerator, **trainer_kwargs},
            n_samples_per_label=n_samples_per_label,
        )
        # Labels that a query happens to carry must not leak into what is then tested on them.
        use_labels = self.n_reference_batches_ is None or any(self.query_trains_.values())
        splitter, n_cells = datamodule, self.summary_stats.n_cells
        if datamodule is None:
            self._check_has_data()
            splitter = AnnotationDataSplitter(
                self.adata_manager,
                n_labels=self.module.n_classes + 1,
                n_samples_per_label=n_samples_per_label,
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                batch_size=batch_size,
                use_labels=use_labels,
                distributed_sampler=_is_distributed(trainer_kwargs.get("strategy")),
                **(datasplitter_kwargs or {}),
            )
        plan_defaults: dict[str, Any] = {}
        if self.n_reference_batches_ is not None:
            self._freeze_for_query(self.n_reference_batches_)
            if not any(parameter.requires_grad for parameter in self.module.parameters()):
                warnings.warn(
                    "Nothing to train: all batches of the query are known to the reference, and its weights are frozen. "
                    "The model can predict as it is.",
                    UserWarning,
                    stacklevel=2,
                )
                return
            plan_defaults = {
                "lr": _QUERY_LR,
                "batch_dropout": 0.0,
                "reconstruction_weight": 1.0,
                "use_labels": use_labels,
            }
            epochs = max(default_max_epochs(n_cells, N_VISITS, MAX_EPOCHS) // 2, 1)
        else:
            if datamodule is None:
                self._warn_if_confounded()
            per_epoch = (n_cells, N_VISITS) if datamodule is not None else (splitter.n_steps_per_epoch, N_STEPS)
            epochs = default_max_epochs(*per_epoch, MAX_EPOCHS)
            if not self.is_trained_:
                self._initialize_module(splitter, genes=not self.was_pretrained_)
                self._fit_experts(splitter)
            if freeze is not None and self.n_new_genes_:
                warnings.warn(
                    f"freeze={freeze!r} keeps the gene embeddings as they are, and {self.n_new_genes_} of "
                    f"{len(self.genes)} genes were not in pretraining: theirs stay random. Restrict the reference to the "
                    "pretrained genes, or train without freeze.",
                    UserWarning,
                    stacklevel=2,
                )
            self.module.freeze(freeze)
        self._run_training(
            splitter,
            max_epochs=max_epochs or epochs,
            plan_kwargs=plan_arguments(plan_config, plan_kwargs, **plan_defaults),
            trainer_kwargs=trainer_kwargs,
            accelerator=accelerator,
            devices=devices,
            check_val_every_n_epoch=check_val_every_n_epoch,
            trainer_config=trainer_config,
        )
        if datamodule is None and self.n_reference_batches_ is None:
            warn_if_collapsed(self)
        if self.n_reference_batches_ is None or any(self.query_trains_.values()):
            self._forget_calibration()  # it was that of other weights
        if datamodule is None and self.n_reference_batches_ is None and len(splitter.val_idx):
            self._calibrate(splitter.train_idx, splitter.val_idx)

    def _check_freeze(self, freeze: str | None) -> None:
        """Raise ValueError unless this can be frozen."""
        if freeze is None:
            return
        check_choice("freeze", freeze, ("encoder", "partial"))
        if self.n_reference_batches_ is not None:
            raise ValueError(
                f"freeze={freeze!r} is for a reference, but this is the model of a query: its weights are frozen already. "
                "Leave freeze out; `load_query_data(..., unfrozen=True)` lets all of them learn."
            )
        if not (self.was_pretrained_ or self.is_trained_):
            raise ValueError(
                f"freeze={freeze!r} would keep random weights: the model was neither pretrained nor trained. Make it with "
                "`TransAnno.from_pretrained(pretrained, adata, ...)`, or leave freeze out."
            )

    def _warn_if_confounded(self) -> None:
        """Warn if the batch of a reference cell gives its type away."""
        labels = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        batches = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        is_labeled = labels < self.module.n_classes
        shared = mutual_info_score(labels[is_labeled], batches[is_labeled])
        entropy = mutual_info_score(labels[is_labeled], labels[is_labeled])
        if shared > _MAX_CONFOUNDING * entropy:
            warnings.warn(
                f"Batch and cell type nearly coincide in the reference: knowing the batch of a cell leaves "
                f"{max(1 - shared / entropy, 0):.0%} of the uncertainty about its type. No method can tell the two apart here; "
                "set the model up without batch_key.",
                UserWarning,
                stacklevel=3,
            )

    # -- registration --------------------------------------------------------------------------------------------

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_anndata(
        cls,
        adata: AnnData,
        labels_key: str,
        unlabeled_category: str = UNLABELED_CATEGORY,
        layer: str | None = None,
        batch_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """%(summary)s.

        Parameters
        ----------
        %(param_adata)s
        %(param_labels_key)s
        unlabeled_category
            Value of ``labels_key`` that marks cells without a label; NaN does, too.
        layer
            Layer of raw counts. Default: ``adata.X``.
        %(param_batch_key)s
        """
        check_no_other_keys(kwargs)
        batch_key = one_column(batch_key, argument="batch_key")
        setup_method_args = cls._get_setup_method_args(**locals())
        fields = anndata_fields(layer, batch_key, labels_key, unlabeled_category)
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_mudata(
        cls,
        mdata: MuData,
        labels_key: str,
        unlabeled_category: str = UNLABELED_CATEGORY,
        rna_layer: str | None = None,
        batch_key: str | None = None,
        modalities: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """%(summary_mdata)s.

        Parameters
        ----------
        %(param_mdata)s
        %(param_labels_key)s
        unlabeled_category
            Value of ``labels_key`` that marks cells without a label; NaN does, too.
        rna_layer
            Layer of raw counts in the RNA modality. Default: its ``X``.
        %(param_batch_key)s
        modalities
            Modality of each argument: ``{"rna_layer": "rna"}`` by default. Add ``"labels_key": "rna"`` where the
            column lives in the modality instead of ``mdata.obs``.
        """
        check_no_other_keys(kwargs)
        batch_key = one_column(batch_key, argument="batch_key")
        setup_method_args = cls._get_setup_method_args(**locals())
        modalities = default_modalities(modalities, setup_method_args)
        where = cls._create_modalities_attr_dict(modalities, setup_method_args)
        fields = mudata_fields(where, rna_layer, batch_key, labels_key, unlabeled_category)
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)


def _is_distributed(strategy: Any) -> bool:
    return isinstance(strategy, DDPStrategy) or (isinstance(strategy, str) and "ddp" in strategy)
