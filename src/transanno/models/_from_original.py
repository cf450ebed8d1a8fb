"""Models from original checkpoints: no data, only genes and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from transanno.checks._data import check_unique_genes
from transanno.data._vocabulary import read_vocabulary
from transanno.models._base import TransAnnoBase
from transanno.saving._original import Checkpoint, load_weights, read_checkpoint

_Model = TypeVar("_Model", bound=TransAnnoBase)


def read_genes(genes: Sequence[str] | str | Path, checkpoint: Checkpoint) -> list[str]:
    """Names, or a file that :func:`read_vocabulary` takes -> as many unique names as the checkpoint has genes."""
    names = list(read_vocabulary(genes)) if isinstance(genes, str | Path) else [str(gene) for gene in genes]
    check_unique_genes(names, name="genes")
    if len(names) != checkpoint.n_vars:
        raise ValueError(
            f"genes has {len(names)} names, but {checkpoint.path} has positions for {checkpoint.n_vars} genes (and the "
            "appended token). Pass the names of all genes that it was trained with, in their order."
        )
    return names


def check_labels(labels: Sequence[str], checkpoint: Checkpoint, *, unlabeled_category: str) -> list[str]:
    """Names of the cell types -> the same as strings, one for each logit, none twice."""
    names = [str(label) for label in labels]
    weight = checkpoint.weights.get("to_out.fc3.weight")
    n_logits = len(names) if weight is None else len(weight)
    if len(names) != n_logits or len(set(names)) < len(names) or unlabeled_category in names:
        raise ValueError(
            f"labels has {len(names)} names, {len(set(names))} of them different: {', '.join(map(repr, names[:5]))}"
            f"{', …' if len(names) > 5 else ''}. {checkpoint.path} predicts {n_logits} types. Pass a different name for "
            f"each, in the order of the logits; none may be {unlabeled_category!r}, which marks cells without a label "
            "(`unlabeled_category`)."
        )
    return names


def model_without_data(
    cls: type[_Model], genes: list[str], obs: pd.DataFrame, *, setup: dict[str, Any], model: dict[str, Any]
) -> _Model:
    """-> model of these genes, and of the categories in ``obs``, that holds no cells, as one loaded without AnnData."""
    columns = np.arange(len(obs)) % len(genes)
    counts = sp.csr_matrix((np.ones(len(obs), "float32"), (np.arange(len(obs)), columns)), (len(obs), len(genes)))
    placeholder = AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))
    cls.setup_anndata(placeholder, **setup)
    # The registry is all that is wanted of the first model.
    return cls(registry=cls(placeholder).registry, **model)


def classifier_of(
    cls: Any,
    path: str | Path,
    genes: Sequence[str] | str | Path,
    labels: Sequence[str],
    labels_key: str,
    unlabeled_category: str,
) -> Any:
    """See :meth:`transanno.TransAnno.from_checkpoint`."""
    checkpoint = read_checkpoint(path)
    if not checkpoint.has_classifier:
        raise ValueError(
            f"{path} holds no classifier (no weights to_out.conv1, to_out.fc1 to fc3), so it predicts no cell types. "
            "Load it with `TransAnnoPretrain.from_checkpoint(path, genes)`, and fine-tune it on a reference with "
            "`TransAnno.from_pretrained`."
        )
    names = check_labels(labels, checkpoint, unlabeled_category=unlabeled_category)
    model = model_without_data(
        cls,
        read_genes(genes, checkpoint),
        pd.DataFrame({labels_key: names}, index=[f"placeholder{i}" for i in range(len(names))]),
        setup={"labels_key": labels_key, "unlabeled_category": unlabeled_category},
        model={"encoder": "performer", "head": "conv", "dropout_rate": 0.0, **checkpoint.architecture},
    )
    load_weights(model.module, checkpoint, label_order=[names.index(label) for label in model.labels])
    model.module.eval()
    model.is_trained_ = True
    return model
