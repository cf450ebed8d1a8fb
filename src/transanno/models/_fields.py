"""What ``setup_anndata`` registers: genes, labels and batches, checked where the data enter.

scvi-tools only warns about a wrong gene order, makes classes of unused categories and stumbles over
NaN; these fields raise or repair instead. All of them leave the user's own columns untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalObsField, LabelsWithUnlabeledObsField, LayerField, MuDataWrapper

from transanno._constants import JUDGED_KEY, UNLABELED_CATEGORY
from transanno.checks._data import check_layer, check_not_empty, check_obs_column, check_unique_genes
from transanno.checks._warn import warn
from transanno.data._align_counts import check_unmeasured
from transanno.data._batches import check_known_batches, codes_in, first_names, read_batches
from transanno.data._beside import counts_cure
from transanno.data._check_counts import checked_blocks, judge_scale
from transanno.data._counts import MatrixCounts
from transanno.data._labels import as_strings
from transanno.data._match_genes import missing_genes
from transanno.data._no_label import warn_of_no_labels
from transanno.data._scale import detect_scale

logger = logging.getLogger(__name__)


class GeneLayerField(LayerField):
    """Raw counts of named genes: layer or X -> ``(n_obs, n_vars)``."""

    def __init__(self, registry_key: str, layer: str | None) -> None:
        # is_count_data would sample cells with the global numpy generator and only warn.
        super().__init__(registry_key, layer, is_count_data=False)
        self._layer = layer

    def validate_field(self, adata: AnnData) -> None:
        """Raise unless the layer exists, holds raw counts and its genes have unique names."""
        check_not_empty(adata, name="adata")
        check_layer(adata, self._layer, name="adata")
        if self._layer is None and adata.X is None:
            raise ValueError(f"adata.X is None. {counts_cure(adata, None, name='adata')()}")
        super().validate_field(adata)
        check_unique_genes(adata.var_names, name="adata")
        name = "adata.X" if self._layer is None else f'adata.layers["{self._layer}"]'
        counts = self.get_field_data(adata)
        is_missing = missing_genes(adata.var)
        cure, values = counts_cure(adata, self._layer, name="adata"), MatrixCounts(counts)
        for block in checked_blocks(values, name=name, genes=adata.var_names, cure=cure):
            check_unmeasured(block, is_missing, adata.var_names, name="adata")
        if not adata.uns.get(JUDGED_KEY, False):
            judge_scale(detect_scale(counts), name=name, cure=cure)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Register ``adata_target`` if it has the model's genes in the model's order, else raise."""
        expected = pd.Index(np.asarray(state_registry[self.COLUMN_NAMES_KEY], dtype=object).astype(str))
        found = pd.Index(adata_target.var_names.astype(str))
        if not found.equals(expected):
            shared = int(expected.isin(found).sum())
            raise ValueError(
                f"The genes of adata are not those of the model in the model's order: adata has {len(found)} genes, "
                f"the model {len(expected)}, {shared} names are shared. Pass the data to `load_query_data`, `load` or "
                "`predict` of the model, which match genes by name and leave the data as they are."
            )
        return super().transfer_field(state_registry, adata_target, **kwargs)


class LabelsField(LabelsWithUnlabeledObsField):
    """Cell types; the unlabeled category is always the last code.

    NaN means unlabeled, labels of another type are read as strings, and only labels that a cell
    carries are classes. A query needs no label column, and labels that the model does not know are an
    error that lists them.
    """

    def __init__(self, registry_key: str, obs_key: str, unlabeled_category: str) -> None:
        if not isinstance(unlabeled_category, str):
            raise TypeError(
                f"unlabeled_category={unlabeled_category!r} is a {type(unlabeled_category).__name__}. Labels are read as "
                f'strings: give the string, for example "{unlabeled_category}". NaN means unlabeled in any case.'
            )
        super().__init__(registry_key, obs_key, unlabeled_category)

    def register_field(self, adata: AnnData) -> dict:
        """Write label codes and return the mapping, unlabeled category last."""
        self.validate_field(adata)
        values = self._read(adata)
        warn_of_no_labels(values, self._unlabeled_category, where=f"obs[{self._original_attr_key!r}]")
        classes = sorted(set(values) - {self._unlabeled_category})
        return self._write(adata, values, [*classes, self._unlabeled_category])

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Write label codes in the model's mapping; a missing column means that no cell is labeled."""
        categories = [str(category) for category in state_registry[self.CATEGORICAL_MAPPING_KEY]]
        if self._original_attr_key in adata_target.obs:
            values = self._read(adata_target)
        else:
            values = np.full(adata_target.n_obs, self._unlabeled_category, dtype=object)
        unseen = sorted(set(values) - set(categories))
        if unseen:
            raise ValueError(
                f"{len(unseen)} of the labels in obs[{self._original_attr_key!r}] are unknown to the model: "
                f"{first_names(unseen)}. The model knows {first_names(categories[:-1])}. Rename them, or set them to "
                f"{self._unlabeled_category!r} (or NaN) to have these cells predicted; "
                '`load_query_data(..., unseen_labels="mask")` does that and leaves your column as it is.'
            )
        return self._write(adata_target, values, categories)

    def validate_field(self, adata: AnnData) -> None:
        """Raise unless the column exists."""
        check_obs_column(adata, self._original_attr_key, argument="labels_key", name="adata")

    def _read(self, adata: AnnData) -> np.ndarray:
        column = adata.obs[self._original_attr_key]
        n_missing = int(column.isna().sum())
        if n_missing:
            warn(
                f"{n_missing} cells have no value in obs[{self._original_attr_key!r}]; they are taken as unlabeled "
                f"({self._unlabeled_category!r})."
            )
        return as_strings(column, missing=self._unlabeled_category)

    def _write(self, adata: AnnData, values: np.ndarray, categories: list[str]) -> dict:
        adata.obs[self.attr_key] = codes_in(values, categories).astype(np.int64)
        n_labeled = int((values != self._unlabeled_category).sum())
        logger.info(
            "%d labeled and %d unlabeled cells, %d types", n_labeled, len(values) - n_labeled, len(categories) - 1
        )
        return {
            self.CATEGORICAL_MAPPING_KEY: np.array(categories, dtype=object),
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
            self.UNLABELED_CATEGORY: self._unlabeled_category,
        }


class BatchField(CategoricalObsField):
    """Technical batches; NaN is a batch of its own, and a query may bring new ones."""

    def register_field(self, adata: AnnData) -> dict:
        """Write batch codes and return the mapping."""
        if self.is_default:
            self._setup_default_attr(adata)
            return self._state([0])
        self.validate_field(adata)
        values = self._read(adata)
        return self._write(adata, values, sorted(set(values)))

    def transfer_field(
        self, state_registry: dict, adata_target: AnnData, extend_categories: bool = False, **kwargs
    ) -> dict:
        """Write batch codes; new batches are appended if ``extend_categories``, else an error."""
        if self.is_default:
            self._setup_default_attr(adata_target)
            return self._state([0])
        categories = [str(category) for category in state_registry[self.CATEGORICAL_MAPPING_KEY]]
        values = self._read(adata_target)
        if not extend_categories:
            check_known_batches(values, categories)
        return self._write(adata_target, values, categories + sorted(set(values) - set(categories)))

    def validate_field(self, adata: AnnData) -> None:
        """Raise unless the column exists."""
        check_obs_column(adata, self._original_attr_key, argument="batch_key", name="adata")

    def _read(self, adata: AnnData) -> np.ndarray:
        return read_batches(adata.obs, self._original_attr_key)

    def _write(self, adata: AnnData, values: np.ndarray, categories: list[str]) -> dict:
        adata.obs[self.attr_key] = codes_in(values, categories).astype(np.int64)
        return self._state(categories)

    def _state(self, categories: list) -> dict:
        return {
            self.CATEGORICAL_MAPPING_KEY: np.array(categories, dtype=object),
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
        }


MuDataGeneLayerField = MuDataWrapper(GeneLayerField)
MuDataLabelsField = MuDataWrapper(LabelsField)
MuDataBatchField = MuDataWrapper(BatchField)


def anndata_fields(
    layer: str | None,
    batch_key: str | None,
    labels_key: str | None = None,
    unlabeled_category: str = UNLABELED_CATEGORY,
) -> list:
    """Fields of an AnnData; without ``labels_key`` those of pretraining."""
    fields = [GeneLayerField(REGISTRY_KEYS.X_KEY, layer), BatchField(REGISTRY_KEYS.BATCH_KEY, batch_key)]
    if labels_key is not None:
        fields.append(LabelsField(REGISTRY_KEYS.LABELS_KEY, labels_key, unlabeled_category))
    return fields


def mudata_fields(
    modalities: Mapping[str, str | None],
    rna_layer: str | None,
    batch_key: str | None,
    labels_key: str | None = None,
    unlabeled_category: str = UNLABELED_CATEGORY,
) -> list:
    """Fields of a MuData; ``modalities`` maps setup arguments to modalities, None for the MuData itself."""
    fields = [
        MuDataGeneLayerField(REGISTRY_KEYS.X_KEY, rna_layer, mod_key=modalities["rna_layer"], mod_required=True),
        MuDataBatchField(REGISTRY_KEYS.BATCH_KEY, batch_key, mod_key=modalities["batch_key"]),
    ]
    if labels_key is not None:
        fields.append(
            MuDataLabelsField(
                REGISTRY_KEYS.LABELS_KEY, labels_key, unlabeled_category, mod_key=modalities["labels_key"]
            )
        )
    return fields


def check_no_other_keys(arguments: Mapping[str, Any]) -> None:
    """Raise TypeError at columns that scvi-tools' models take and ours do not: it would ignore them without a word."""
    others = [name for name in arguments if name.endswith(("_key", "_keys"))]
    if others:
        raise TypeError(
            f"{', '.join(others)} cannot be registered. Allowed: batch_key and, of TransAnno, labels_key. For further "
            'categorical covariates make one batch column of them, adata.obs["both"] = adata.obs["a"].astype(str) + "_" + '
            'adata.obs["b"].astype(str); continuous covariates have no influence on this model.'
        )


def default_modalities(modalities: dict[str, str] | None, setup_method_args: dict[str, Any]) -> dict[str, str]:
    """Modalities with RNA in "rna" unless said otherwise; recorded in the setup arguments, too."""
    modalities = {"rna_layer": "rna", **(modalities or {})}
    setup_method_args["setup_args"]["modalities"] = modalities
    return modalities
