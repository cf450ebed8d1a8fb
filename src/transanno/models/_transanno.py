"""Cell-type annotation: fine-tune on a reference, carry to a query, predict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, Unpack

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.model.base import ArchesMixin
from scvi.utils import setup_anndata_dsp

from transanno._constants import KEY_ADDED, UNLABELED_CATEGORY
from transanno.checks._arguments import check_adata, check_training, one_column
from transanno.checks._data import check_types
from transanno.data._find_names import find_names
from transanno.data._match_genes import match_genes, missing_genes
from transanno.evidence._explained import check_explanation
from transanno.metrics import Evaluation
from transanno.models._base import TransAnnoBase, as_model, plan_arguments
from transanno.models._calibrate import calibrate
from transanno.models._explain import attribute_groups
from transanno.models._fields import anndata_fields, check_no_other_keys, default_modalities, mudata_fields
from transanno.models._from_original import classifier_of
from transanno.models._from_pretrained import start_from_pretrained
from transanno.models._from_scanvi import drop_scanvi_arguments, refuse_scvi_model, refuse_unknown_arguments
from transanno.models._map_query import map_query
from transanno.models._predict import predict_cells, write_predictions
from transanno.models._pretrain import TransAnnoPretrain
from transanno.models._registry import label_colors
from transanno.models._share import push, write_for_hub
from transanno.models._train import check_freeze, prepare_query, prepare_reference, run_training
from transanno.nn import Architecture
from transanno.predictions._calibration import Calibration
from transanno.predictions._novelty import NoveltySpace
from transanno.predictions._predict import Asked
from transanno.saving._export import export_model, write_export
from transanno.saving._names import folder_of
from transanno.training._health import warn_if_collapsed
from transanno.training._minibatches import Minibatch
from transanno.training._processes import count_processes
from transanno.training._splitter import AnnotationDataSplitter


class TransAnno(TransAnnoBase, ArchesMixin):
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
    datamodule
        Set by scvi-tools when a model is loaded with a data module.
    **architecture
        The network, see :class:`transanno.nn.Architecture`. By default a small one, for CPUs;
        :data:`transanno.presets.PAPER` has that of the paper.

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

    # What held-out cells of the reference taught, and where the types are; None: there were too few.
    calibration_: Calibration | None = None
    novelty_space_: NoveltySpace | None = None
    # Color of every type in plots of the reference: what its uns[f"{labels_key}_colors"] held, if anything.
    label_colors_: dict[str, str] = {}
    # Number of labeled cells of every type that the model was trained on; None where they came from a data module.
    label_counts_: dict[str, int] | None = None
    # Whether gene embeddings come from pretraining, so that training does not start them from the data; and genes that it has
    # not seen.
    was_pretrained_: bool = False
    n_new_genes_: int = 0
    # Number of batches of the reference, for a model that load_query_data made; None for a reference model.
    n_reference_batches_: int | None = None
    # What train() changes beside the embeddings of new batches.
    query_trains_: dict[str, bool]
    # What the predictions in ``obs`` of the model's own cells were asked for, by their column. Not saved.
    _asked: dict[str, Asked]

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        datamodule: Any = None,
        **architecture: Unpack[Architecture],
    ) -> None:
        super().__init__(adata, registry)
        classes = self.labels
        check_types(classes)
        own: Any = drop_scanvi_arguments("__init__", architecture)
        self._build_module(own, n_labels=len(classes) + 1, summary=f", cell types: {len(classes)}")
        self.query_trains_ = {"unfrozen": False, "classifier": False}
        self._learn_colors()
        self._asked = {}

    @property
    def labels(self) -> np.ndarray:
        """Cell types that the model predicts ``(n_labels,)`` str, in the order of the logits."""
        # The field keeps the unlabeled category last.
        state = self.registry["field_registries"][REGISTRY_KEYS.LABELS_KEY]["state_registry"]
        return np.asarray(state["categorical_mapping"], dtype=object)[:-1].astype(str)

    def _card(self) -> dict[str, Any]:
        setup, found = self.registry["setup_args"], self.calibration_
        shown = ("temperature", "n_cells", "held_out", "ece_before", "ece_after")
        return {
            **super()._card(),
            "calibration": None if found is None else {key: getattr(found, key) for key in shown},
            "cell_types": self.labels.tolist(),
            "n_cells_per_type": self.label_counts_,
            **{key: setup[key] for key in ("labels_key", "unlabeled_category")},
        }

    def export(self, dir_path: str | Path, overwrite: bool = False) -> None:
        """Write what it takes to predict, for :func:`transanno.jax.load_predictor` and readers without torch.

        Two files: ``weights.npz``, the weights as numpy arrays, and ``predictor.json``, genes, labels, batches, architecture,
        calibration and where novelty is measured. Neither is a pickle. The user guide says what is in them. A model
        that is to be trained on, or loaded by :meth:`load`, has to be saved with :meth:`save`, too.

        Parameters
        ----------
        dir_path
            Folder to write; it may be that of :meth:`save`.
        overwrite
            Replace an exported model in the folder.

        Raises
        ------
        ValueError
            If the folder holds an exported model, unless ``overwrite`` is given.
        RuntimeError
            If the model is not trained.

        Examples
        --------
        >>> model.export("exported/")
        >>> predictor = transanno.jax.load_predictor("exported/")
        """
        self._check_if_trained(warn=False)
        write_export(export_model(self), dir_path, overwrite=overwrite)

    # -- sharing -------------------------------------------------------------------------------------------------

    @classmethod
    def from_hub(
        cls,
        repo_or_folder: str | Path,
        *,
        revision: str | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Load a shared model without its data: from the Hugging Face Hub, a folder, or by a name.

        Wherever a trained model is asked for, as in :func:`transanno.tl.annotate` or :meth:`load_query_data`, its name can be
        given, too. Nothing in the files is executed, and they are compared with their checksums.

        Parameters
        ----------
        repo_or_folder
            A folder; or a name that a registry of models has, such as ``"blood"``, which comes with the package; or a
            repository of the Hub, ``"organization/name"``, which is downloaded once (needs the extra ``hub``). The user guide
            says how to write a registry.
        revision
            Branch, tag or commit of the repository. Default: the newest.
        accelerator, device
            Where the model is put, see :meth:`scvi.model.base.BaseModelClass.load`.

        Returns
        -------
        Trained model.

        Raises
        ------
        ValueError
            If there is no such model, which lists where it was looked for; if it cannot be downloaded; or if a file is damaged, changed, or
            holds more than data.
        ImportError
            If it has to be downloaded and huggingface_hub is not installed.

        Examples
        --------
        >>> model = transanno.TransAnno.from_hub("blood")
        >>> model.predict(query)
        """
        return cls.load(folder_of(repo_or_folder, revision), False, accelerator=accelerator, device=device)

    def save_for_hub(
        self,
        dir_path: str | Path,
        *,
        license: str,
        description: str,
        name: str | None = None,
        evaluation: Mapping[str, Evaluation] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Save the model with a card and checksums, as :meth:`push_to_hub` uploads it; needs the extra ``hub``.

        Parameters
        ----------
        dir_path
            Folder to write, for a registry, a colleague or the Hub.
        license
            Identifier of the license that the model, and so the data, may be used under: ``"cc-by-4.0"``, ``"mit"``, …
        description
            What the cells are: species, tissue, platform, study, and where they can be had. Markdown.
        name
            What the card calls the model. Default: the name of the folder.
        evaluation
            Scores on data that the model was not trained on, by the name of the data, see :func:`transanno.tl.evaluate`. The card says
            what is given here and what the model stores, and no other number.
        overwrite
            Replace a model in the folder.

        Raises
        ------
        ValueError
            If an argument is missing or cannot be understood, or the folder exists, unless ``overwrite`` is given.
        ImportError
            If huggingface_hub is not installed.

        Examples
        --------
        >>> model.save_for_hub("shared/", license="cc-by-4.0", description="Human blood, 10x v3, of two donors.")
        >>> model = transanno.TransAnno.from_hub("shared/")
        """
        folder = Path(dir_path)
        about: Any = {"license": license, "description": description, "evaluation": evaluation}
        write_for_hub(self, folder, name=name or folder.resolve().name, overwrite=overwrite, **about)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str,
        description: str,
        evaluation: Mapping[str, Evaluation] | None = None,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Model by transanno",
    ) -> str:
        """Share the model on the Hugging Face Hub, with a card and checksums; needs the extra ``hub``.

        Weights, genes and what is in the card are uploaded, and no cell. Others load it by :meth:`from_hub`, and
        ``scvi.hub.HubModel`` reads it, too.

        Parameters
        ----------
        repo_id
            ``"organization/name"``; made if there is none.
        license, description, evaluation
            See :meth:`save_for_hub`.
        private
            Make a private repository.
        token
            Of an account that may write to it. Default: that of ``hf auth login``.
        commit_message
            Of the commit.

        Returns
        -------
        Address of the commit.

        Raises
        ------
        ValueError
            If an argument cannot be understood, or the Hub cannot be reached or refuses.
        ImportError
            If huggingface_hub is not installed.

        Examples
        --------
        >>> model.push_to_hub(
        ...     "organization/blood", license="cc-by-4.0", description="Human blood, 10x v3, of two donors."
        ... )
        """
        about: Any = {"license": license, "description": description, "evaluation": evaluation}
        return push(self, repo_id, private=private, token=token, commit_message=commit_message, **about)

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
        trainer_kwargs = drop_scanvi_arguments("train", trainer_kwargs)
        check_freeze(self, freeze)
        check_training(
            max_epochs=max_epochs,
            train_size=train_size,
            validation_size=validation_size,
            batch_size=batch_size,
            plan_kwargs=plan_kwargs,
            trainer_kwargs={"accelerator": accelerator, **trainer_kwargs},
            n_samples_per_label=n_samples_per_label,
        )
        n_processes = count_processes(accelerator, devices, trainer_config, trainer_kwargs)
        splitter = datamodule
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
                use_labels=self._learns_labels,
                n_processes=n_processes,
                **(datasplitter_kwargs or {}),
            )
        is_query = self.n_reference_batches_ is not None
        prepared = prepare_query(self) if is_query else prepare_reference(self, splitter, freeze)
        if prepared is None:
            return
        if not is_query:
            self._learn_colors()  # scanpy may have chosen some since
        default_epochs, plan_defaults = prepared
        run_training(
            self,
            splitter,
            max_epochs=max_epochs or default_epochs,
            plan_kwargs=plan_arguments(plan_config, plan_kwargs, **plan_defaults),
            trainer_kwargs=trainer_kwargs,
            accelerator=accelerator,
            devices=devices,
            check_val_every_n_epoch=check_val_every_n_epoch,
            trainer_config=trainer_config,
        )
        if self._learns_labels:
            self.calibration_ = self.novelty_space_ = None  # they were those of other weights
        if datamodule is None and not is_query:
            cells, codes = self._registered_cells(), self._label_codes()
            trained = codes[splitter.train_idx]
            counts = np.bincount(trained[trained >= 0], minlength=len(self.labels))
            self.label_counts_ = dict(zip(self.labels.tolist(), counts.tolist(), strict=True))
            warn_if_collapsed(codes, self.labels, lambda positions: self._run(cells, positions).logits.argmax(axis=1))
            if len(splitter.val_idx):
                calibrate(self, splitter.train_idx, splitter.val_idx)

    @property
    def _learns_labels(self) -> bool:
        """Whether training does; labels that a query happens to carry must not leak into what is then tested on them."""
        return self.n_reference_batches_ is None or any(self.query_trains_.values())

    def _learn_colors(self) -> None:
        """Remember the colors that the registered types have, if they have some."""
        if self.adata is not None and (found := label_colors(self.adata, self._spec)):
            self.label_colors_ = {name: color for name, color in found.items() if name in self.labels}

    def _label_codes(self) -> np.ndarray:
        """-> position among the types of every registered cell's label ``(n_obs,)``, -1 for cells without one."""
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel().astype(np.int64)
        return np.where(codes < self.module.n_classes, codes, -1)

    # -- other starts --------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained: TransAnnoPretrain | str | Path,
        adata: AnnData | MuData,
        labels_key: str | None = None,
        unlabeled_category: str = UNLABELED_CATEGORY,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        **architecture: Unpack[Architecture],
    ) -> Self:
        """Make a model for a labeled reference that starts from pretrained weights.

        Gene embeddings are carried over by gene name, the rest of the encoder and of the expression head as they are;
        batches and the cell-type head start afresh. Architecture arguments come from the pretrained model.

        Parameters
        ----------
        pretrained
            Trained :class:`TransAnnoPretrain`, or the folder that it was saved in.
        adata
            Labeled reference. An AnnData is registered here; a MuData has to be registered with
            :meth:`setup_mudata` before.
        labels_key, unlabeled_category, layer, batch_key
            See :meth:`setup_anndata`; ``labels_key`` is required for an AnnData.
        **architecture
            What replaces the architecture of the pretrained model, see :class:`transanno.nn.Architecture`.

        Returns
        -------
        Model ready for :meth:`train`.

        Raises
        ------
        ValueError
            If the pretrained model is untrained, shares too few genes with the reference, or another width is asked
            for than its weights have.
        """
        return start_from_pretrained(
            cls, pretrained, adata, labels_key, unlabeled_category, layer, batch_key, architecture
        )

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        genes: Sequence[str] | str | Path,
        labels: Sequence[str],
        *,
        labels_key: str = "cell_type",
        unlabeled_category: str = UNLABELED_CATEGORY,
    ) -> Self:
        """Load a fine-tuned checkpoint of TransAnno-Net :cite:p:`transannonet2025` or scBERT :cite:p:`yang2022scbert`.

        The model holds no cells and can :meth:`predict` at once. Cells that have all genes get the logits of the
        original; genes that a query lacks are masked, where the original took them as silent. A checkpoint without a
        classifier is loaded by :meth:`transanno.TransAnnoPretrain.from_checkpoint`.

        Parameters
        ----------
        path
            File that ``torch.save`` wrote: a state dictionary, or one under ``"model_state_dict"`` or
            ``"state_dict"``. It is read with ``weights_only=True``.
        genes
            Names of the genes in the order of their positions, or a file of them, see
            :func:`transanno.pp.read_vocabulary`.
        labels
            Names of the cell types in the order of the logits.
        labels_key
            Column of ``obs`` in which :meth:`load_query_data` looks for labels of a query.
        unlabeled_category
            Value of ``labels_key`` that marks cells without a label.

        Returns
        -------
        Trained model, on the CPU.

        Raises
        ------
        ValueError
            If the file cannot be read, has no classifier, or weights are missing, left over or of another shape; it
            lists them.

        Examples
        --------
        >>> import transanno
        >>> model = transanno.TransAnno.from_checkpoint("finetune_best.pth", genes="genes.txt", labels=["B", "T"])
        >>> model.predict(query)
        """
        return classifier_of(cls, path, genes, labels, labels_key, unlabeled_category)

    @classmethod
    def from_scvi_model(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Not for these models: their encoder is not that of scVI.

        Parameters
        ----------
        *args, **kwargs
            Those of scANVI's method.

        Raises
        ------
        TypeError
            Always; it says what to call.
        """
        refuse_scvi_model(cls.__name__)

    # -- query mapping -------------------------------------------------------------------------------------------

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData | MuData,
        reference_model: Self | str | Path,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        unfrozen: bool = False,
        freeze_classifier: bool = True,
        *,
        layer: str | None = None,
        unseen_labels: Literal["error", "mask"] = "error",
        **kwargs: Any,
    ) -> Self:
        """Carry a trained model to a query, without the reference's data :cite:p:`Lotfollahi21`.

        Genes are matched by name, in any order; genes that the query lacks are masked, extra ones ignored. The
        query needs neither a label nor a batch column, and nothing of it is changed: :meth:`predict` writes
        into its ``obs`` later. The model can predict at once. :meth:`train` adapts the embeddings of batches
        that the reference does not have, and nothing else, to the query, by predicting its hidden genes: a reference that was
        not pretrained should have been trained with a ``reconstruction_weight``. Labels that the query has are not used.

        Parameters
        ----------
        adata
            Query with raw counts. Counts are restored from normalized or logged values, and genes found under other
            names, where that is certain, in a copy and with a warning; see :func:`transanno.pp.check`. A large one on disk
            stays there: it can be predicted, but not trained on or saved with the model.
        reference_model
            Trained model, or the folder or name of one, see :meth:`from_hub`.
        inplace_subset_query_vars
            For compatibility with scvi-tools; has no effect, since genes are matched without touching the query.
        accelerator, device
            Where the model is put, see :meth:`scvi.model.base.BaseModelClass.load`.
        unfrozen
            Let :meth:`train` change all weights, and learn from the query's labels, if it has any.
        freeze_classifier
            If False, :meth:`train` changes the cell-type head, too, and learns from the query's labels.
        layer
            Layer of raw counts in the query. Default: the one that the reference was set up with.
        unseen_labels
            What to do with labels that the reference does not have: ``"error"``, or ``"mask"`` to treat these cells
            as unlabeled.
        **kwargs
            Arguments of scANVI's method that have no effect here, such as ``freeze_dropout``, with a warning.

        Returns
        -------
        Model of the query.

        Raises
        ------
        ValueError
            If too few genes are shared, the counts are not raw, a label is unknown, or the folder holds no model.
        """
        refuse_unknown_arguments(cls.load_query_data, kwargs)
        given = {"accelerator": accelerator, "device": device}
        model, reference = map_query(cls, adata, reference_model, layer=layer, unseen_labels=unseen_labels, **given)
        model.n_reference_batches_ = reference.module.batch_embedding.num_embeddings
        model.module.start_new_batches(model.n_reference_batches_)
        model.query_trains_ = {"unfrozen": unfrozen, "classifier": not freeze_classifier}
        return model

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: Self | str | Path,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """Check that a query shares enough genes with the model.

        scANVI needs this step to pad and sort genes. Here :meth:`load_query_data` matches genes itself, because
        padding would turn unmeasured genes into measured zeros; so the query is only checked and never changed.

        Parameters
        ----------
        adata
            Query.
        reference_model
            Trained model, or the folder that it was saved in.
        return_reference_var_names
            Return the genes of the model.
        inplace
            If False, return ``adata`` itself.

        Returns
        -------
        The genes, ``adata`` or None.
        """
        reference = as_model(reference_model, cls, argument="reference_model")
        if return_reference_var_names:
            return reference.genes
        names, _, _ = find_names(adata.var, reference.genes, name="query")
        match_genes(names, reference.genes, var=adata.var, is_missing=missing_genes(adata.var))
        return None if inplace else adata

    # -- inference -----------------------------------------------------------------------------------------------

    def predict(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
        *,
        refine: bool = False,
        unassigned_threshold: float | None = None,
        fdr: float | None = None,
        sets: bool = False,
        coverage: float = 0.9,
        keep_known: bool = False,
        key_added: str | None = KEY_ADDED,
        dataloader: Iterable[Minibatch] | None = None,
        **kwargs: Any,
    ) -> np.ndarray | pd.DataFrame:
        """Predict cell types, and write them into ``obs`` of the data.

        Parameters
        ----------
        adata
            Cells with raw counts; genes are matched by name. Default: the data of the model, which for a query model
            is the object that :meth:`load_query_data` was given. Cells of batches that the model does not know are
            an error, see :meth:`load_query_data`.
        indices
            Positions or boolean mask of the cells to predict. Default: all.
        soft
            Return probabilities instead of labels.
        batch_size
            Cells in a minibatch; has no influence on the result.
        refine
            Average the probabilities of a cell with those of its nearest neighbors among the cells that are predicted
            together, and then with those of a regression that learned the surer calls from the principal components of
            these cells. More accurate on most queries, but then a cell's prediction depends on the others, and not only on
            their mean. Has no effect on fewer than 50 cells. Of more than 100,000, principal components are those of 50,000 that
            are drawn at random.
        unassigned_threshold
            Call cells whose highest probability is below this ``"Unassigned"``: possibly of a type that the reference
            lacks. The paper uses 0.5 :cite:p:`transannonet2025`. Default: every cell gets a type.
        fdr
            Call cells that are unlike the reference ``"Unknown"``, with this share of known cells among them: from 0.05 to
            0.5, and on average over queries of other studies, on which the limits were chosen. In a single query it can be
            more, and many new cells are not found; the user guide has the numbers. Cells that are predicted together
            are compared with each other, so that the whole query should be. Default: none.
        sets
            Write the types that a cell may be of, too: those with a high enough probability of its own, without
            ``refine``.
        coverage
            Share of the cells whose set holds their type, on average over queries of other studies.
        keep_known
            Keep the label of cells that have one in ``obs[labels_key]``, with probability 1; only the others are
            predicted. Labels that the model does not know count as none.
        key_added
            Column of ``obs`` to write; ``None`` writes nothing.
        dataloader
            Minibatches as dictionaries of tensors, instead of ``adata``; nothing is written.
        **kwargs
            Arguments of scANVI's method that have no effect here, such as ``use_posterior_mean``, with a warning.

        Returns
        -------
        Labels ``(n_cells,)``, or with ``soft`` a DataFrame of probabilities in [0, 1], cells × types. Both are in the
        order of ``indices``.

        Writes
        ------
        ``obs[key_added]``
            Categorical, the most probable type, ``"Unassigned"`` or ``"Unknown"``; missing for cells outside ``indices``.
            Cells without a count are ``"Unassigned"``, too.
        ``obs[key_added + "_confidence"]``
            Probability of the most probable type in [0, 1], also where the cell is given none.
        ``obs[key_added + "_novelty"]``
            With ``fdr``: how much a cell and its neighbors are unlike the reference, in standard deviations of held-out
            reference cells or of the query's other cells of the same call, whichever is less. High where a cell is unlike.
        ``obs[key_added + "_group"]``, ``uns[key_added + "_groups"]``
            With ``fdr`` and at least 50 cells: the group of an ``"Unknown"`` cell, if ten or more are alike, and a table of
            the groups: ``n_cells``, the type ``nearest_type`` that most of the cells would be called, the ``share_nearest`` that
            would, median ``novelty``, and ``markers``, up to five genes that are higher than in cells of that type.
        ``uns[key_added + "_colors"]``
            Of types that had colors in the reference, as ``sc.pl.umap(reference, color=labels_key)`` leaves them, the same,
            and gray for the others. Colors that are there stay if the column had the same types before.
        ``obsm[key_added + "_sets"]``, ``obs[key_added + "_set"]``
            With ``sets``: bool ``(n_obs, n_labels)`` in the order of :attr:`labels`, and the same as text, ``"A|B"``.

        Raises
        ------
        ValueError
            If the counts are not raw, too few genes are shared, ``unassigned_threshold``, ``fdr`` or ``coverage`` is out of
            its range, the reference has a type called "Unassigned" or "Unknown" next to the first two, or the model
            was not calibrated and ``fdr`` or ``sets`` are asked for.

        Warns
        -----
        TransAnnoWarning
            If cells have no counts, or ``fdr`` is outside of what was measured or asked for fewer than 50 cells.
        """
        refuse_unknown_arguments(self.predict, kwargs)
        asked = Asked(refine, unassigned_threshold, fdr, sets, coverage, keep_known)
        predictions, target = predict_cells(self, adata, indices, asked, batch_size=batch_size, dataloader=dataloader)
        if key_added is not None and target is not None:
            write_predictions(self, predictions, target, key_added, asked)
        return predictions.to_frame() if soft else predictions.labels

    def get_gene_attributions(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        groupby: str | Sequence[object] | np.ndarray | pd.Categorical | None = None,
        *,
        label: str | None = None,
        against: str | None = None,
        baseline: str = "average",
        n_steps: int | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""How much every gene contributes to the label of every group of cells, by integrated gradients.

        For one cell, the contributions are those to :math:`f = \mathrm{logit}_A - \mathrm{mean}_{B \ne A}\,
        \mathrm{logit}_B`, or with ``against`` to :math:`f = \mathrm{logit}_A - \mathrm{logit}_B`. (A logit alone says
        nothing: what is added to all of them cancels in the probabilities.) They sum to :math:`f` of the cell minus
        :math:`f` of the baseline :cite:p:`sundararajan2017axiomatic`, and those of a group are the mean over its cells.
        The mean of the data set, and how far the cell is from it, stay as they are on the way: the baseline is seen from as far
        as the cell is.

        Parameters
        ----------
        adata
            Cells with raw counts; genes are matched by name. Default: the data of the model.
        indices
            Positions or boolean mask of the cells to use. Default: all.
        groupby
            Column of ``obs``, or a group for each of the cells; cells without a group are left out. Default: cells are
            grouped by the label that the model gives them.
        label
            Label A to explain. Default: the one that is most probable on average over the cells of the group.
        against
            Label B to compare it with. Default: the mean of all others.
        baseline
            Where the contributions start from. ``"average"``: the average cell of the reference, so that a gene the
            cell lacks can speak, too; the Performer stores none, and takes the average of the data at hand.
            ``"silent"``: a cell in which all measured genes are silent, so that silent genes contribute nothing.
        n_steps
            Points on the way from the baseline to the cell at which gradients are taken; the error of the sum falls
            quickly with their number. Default: 32, and 64 from a silent cell.
        batch_size
            Cells in a minibatch; has no influence on the result.

        Returns
        -------
        DataFrame, groups (by default labels) × genes of the model, in units of a logit (nats). Genes that the data lack
        contribute 0. ``.attrs["labels"]`` says which label was explained for which group.

        Raises
        ------
        ValueError
            If a label or the baseline is unknown, no cells are left, or ``groupby`` has another length than the cells.
        KeyError
            If there is no such column.

        Examples
        --------
        >>> table = model.get_gene_attributions(query)
        >>> table.loc["B cell"].nlargest(10)
        >>> model.get_gene_attributions(query, groupby="leiden", against="T cell")
        """
        self._check_if_trained()
        n_steps = check_explanation(self.labels.tolist(), label, against, baseline, n_steps)
        return attribute_groups(self, adata, indices, groupby, label, against, baseline, n_steps, batch_size)

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
        kwargs = drop_scanvi_arguments("setup_anndata", kwargs)
        check_no_other_keys(kwargs)
        check_adata(adata, name="adata")
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
