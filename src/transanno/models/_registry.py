"""What a model was set up with: reading its registry, and making one of a Lightning data module's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS

from transanno._constants import UNLABELED_CATEGORY
from transanno.data._cells import DataSpec
from transanno.data._colors import read_colors

_FROM_DATAMODULE = "setup_datamodule"


def as_anndata_registry(registry: dict[str, Any] | None, model_name: str, *, has_labels: bool) -> dict[str, Any] | None:
    """Registry of a data module -> the one that ``setup_anndata`` of the same data would have written.

    A model that trained on minibatches of a data module is used on AnnData afterwards. scvi-tools has separate ways of
    saving, loading and query mapping for such models, which ask for the data module again; with an ordinary registry
    the model needs nothing but its weights. Any other registry is returned as it is.
    """
    if registry is None or registry.get("setup_method_name") != _FROM_DATAMODULE:
        return registry
    fields, setup_args = registry["field_registries"], registry["setup_args"]
    arguments = {"layer": setup_args.get("layer"), "batch_key": setup_args.get("batch_key")}
    kept = [REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY]
    if has_labels:
        labels = fields[REGISTRY_KEYS.LABELS_KEY]["state_registry"]
        arguments["labels_key"] = setup_args.get("labels_key") or labels["original_key"]
        arguments["unlabeled_category"] = labels.get("unlabeled_category") or UNLABELED_CATEGORY
        kept.append(REGISTRY_KEYS.LABELS_KEY)
    fields = {key: {part: dict(value) for part, value in fields[key].items()} for key in kept}
    for field in fields.values():
        state = field["state_registry"]
        # A dictionary of codes, a list or None: iterating over the first two gives the names in the order of the codes.
        for name in ("column_names", "categorical_mapping"):
            if name in state:
                state[name] = np.array([0] if state[name] is None else list(state[name]), dtype=object)
    return {
        **registry,
        "model_name": model_name,
        "setup_method_name": "setup_anndata",
        "setup_args": arguments,
        "field_registries": fields,
    }


def label_colors(data: AnnData | MuData, spec: DataSpec) -> dict[str, str]:
    """-> colors of the types in the registered data, as scanpy keeps them; nothing if there are none."""
    modality = spec.obs_modalities["labels_key"] if isinstance(data, MuData) else None
    return read_colors(data if modality is None else data.mod[modality], str(spec.labels_key))


def spec_of(registry: dict[str, Any]) -> DataSpec:
    """Registry of an scvi-tools model -> what it was set up with."""
    setup_args = registry["setup_args"]
    modalities = setup_args.get("modalities") or {}
    genes = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"]
    return DataSpec(
        vocabulary=pd.Index(np.asarray(genes).astype(str), dtype=object),
        layer=setup_args.get("rna_layer", setup_args.get("layer")),
        batch_key=setup_args.get("batch_key"),
        labels_key=setup_args.get("labels_key"),
        modality=modalities.get("rna_layer"),
        obs_modalities={"batch_key": modalities.get("batch_key"), "labels_key": modalities.get("labels_key")},
    )
