"""A trained model as numbers and text: what it takes to predict, for readers without torch.

``weights.npz`` holds the weights that prediction reads, and ``predictor.json`` all else. Nothing is a pickle, and either file can be
read by any program; docs/user_guide/jax.md lists what is in them.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transanno._constants import OTHER_GENES
from transanno.checks._data import first_line
from transanno.data._cells import DataSpec
from transanno.data._files import MODEL_FILE, atomic_path
from transanno.predictions._calibration import Calibration
from transanno.predictions._novelty import NoveltySpace
from transanno.saving._plain import from_json, to_json, to_plain

EXPORT_VERSION = 1
"""Rises when other versions of this package cannot read what is exported."""

WEIGHTS_FILE, PREDICTOR_FILE = "weights.npz", "predictor.json"
# What only training reads.
_LEFT_OUT = ("expression_head.", "commonest_bins", "is_other")
_CURE = "Export the model again with model.export(folder), or fetch a complete copy of the folder."


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """All that it takes to predict."""

    weights: dict[str, np.ndarray]
    """by their names in the network, float32"""
    architecture: dict[str, Any]
    """arguments of the network, see :class:`transanno.nn.Architecture`"""
    spec: DataSpec
    """the model's genes, and where it looks for counts and batches"""
    labels: np.ndarray
    """``(n_labels,)`` str"""
    batches: list[str]
    """names of the batches, in the order of their embeddings"""
    gene_shares: dict[str, float] | None
    """share of every gene in the counts of the reference, where the model normalizes by all counts of a cell"""
    calibration: Calibration | None
    """what held-out cells taught, the scale of novelty among it"""
    novelty_space: NoveltySpace | None
    """where novelty is measured"""
    cells_per_pass: dict[str, int]
    """cells whose ``"outputs"`` or ``"gradients"`` are computed at once"""
    label_colors: dict[str, str]
    """color of every type in plots of the reference, if it had any"""

    @property
    def is_gene(self) -> np.ndarray:
        """Which columns of the counts are genes ``(n_vars,)``: all but the count of other genes."""
        return np.asarray(self.spec.vocabulary != OTHER_GENES)

    @property
    def genes(self) -> pd.Index:
        """Gene vocabulary ``(n_genes,)``."""
        return self.spec.vocabulary[self.is_gene]


def export_model(model: Any) -> ExportedModel:
    """A trained :class:`~transanno.TransAnno` -> what it takes to predict."""
    module = model.module
    weights = {
        name: weight.detach().cpu().numpy()
        for name, weight in module.state_dict().items()
        if not name.startswith(_LEFT_OUT)
    }
    return ExportedModel(
        weights,
        dict(module.architecture),
        model._spec,
        model.labels,
        model._batches,
        model.gene_shares_,
        model.calibration_,
        model.novelty_space_,
        {"outputs": module.encoder.inference_batch_size, "gradients": module.encoder.gradient_batch_size},
        model.label_colors_,
    )


def write_export(exported: ExportedModel, folder: str | Path, *, overwrite: bool) -> None:
    """Write the two files; with ``overwrite`` they replace those of another model."""
    folder = Path(folder)
    found = [name for name in (WEIGHTS_FILE, PREDICTOR_FILE) if (folder / name).exists()]
    if found and not overwrite:
        raise ValueError(
            f"{folder} holds an exported model already ({', '.join(found)}). Choose another folder, or pass overwrite=True."
        )
    buffer = io.BytesIO()
    np.savez(buffer, **exported.weights)  # type: ignore[arg-type]  # a keyword of its own is no name of a weight
    spec = asdict(exported.spec)
    content = {
        "format_version": EXPORT_VERSION,
        "transanno_version": version("transanno"),
        # Two files that do not belong together must not pass for one model.
        "weights_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "architecture": exported.architecture,
        "cells_per_pass": exported.cells_per_pass,
        "data": {**spec, "vocabulary": exported.spec.vocabulary.tolist()},
        "labels": to_plain(exported.labels),
        "label_colors": exported.label_colors,
        "batches": exported.batches,
        "gene_shares": exported.gene_shares,
        "calibration": exported.calibration,
        "novelty_space": exported.novelty_space,
    }
    text = to_json(content)
    with atomic_path(folder / WEIGHTS_FILE) as path:
        path.write_bytes(buffer.getvalue())
    with atomic_path(folder / PREDICTOR_FILE) as path:
        path.write_text(text, encoding="utf-8", newline="\n")


def read_export(folder: str | Path) -> ExportedModel:
    """Folder -> exported model; nothing in it is run.

    Raises
    ------
    ValueError
        If the folder holds none, a damaged one, or one of another format.
    """
    folder = Path(folder)
    missing = [name for name in (WEIGHTS_FILE, PREDICTOR_FILE) if not (folder / name).is_file()]
    if missing:
        found = "does not exist" if not folder.exists() else f"lacks {', '.join(missing)}"
        cure = "Pass the folder that model.export(folder) wrote."
        if (folder / MODEL_FILE).is_file():
            cure = "It was written by save(). Export the model where torch is: transanno.TransAnno.load(folder, False).export(other)."
        raise ValueError(f"{folder} is not an exported model: it {found}. {cure}")
    saved = (folder / WEIGHTS_FILE).read_bytes()
    try:
        content = from_json((folder / PREDICTOR_FILE).read_text(encoding="utf-8"))
        format_version, saved_by = content["format_version"], content["transanno_version"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(folder / PREDICTOR_FILE, error) from error
    if format_version != EXPORT_VERSION:
        raise ValueError(
            f"{folder} was exported by transanno {saved_by} in format {format_version}, and this version, "
            f"{version('transanno')}, reads format {EXPORT_VERSION}. Update transanno, or export the model with this version."
        )
    if hashlib.sha256(saved).hexdigest() != content.get("weights_sha256"):
        raise ValueError(
            f"{folder / WEIGHTS_FILE} is not the file that {PREDICTOR_FILE} was written with: one of them is damaged or of "
            f"another model. {_CURE}"
        )
    try:
        with np.load(io.BytesIO(saved), allow_pickle=False) as arrays:
            weights = {name: arrays[name] for name in arrays.files}
        data = content["data"]
        exported = ExportedModel(
            weights,
            dict(content["architecture"]),
            DataSpec(**{**data, "vocabulary": pd.Index(data["vocabulary"], dtype=object)}),
            np.asarray(content["labels"]).astype(str),
            list(content["batches"]),
            content["gene_shares"],
            content["calibration"],
            content["novelty_space"],
            dict(content["cells_per_pass"]),
            dict(content.get("label_colors", {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(folder, error) from error
    _check_sizes(exported, folder)
    return exported


def _check_sizes(exported: ExportedModel, folder: Path) -> None:
    """Raise unless weights, genes and batches fit each other."""
    sizes = {
        "encoder.gene_embedding": len(exported.spec.vocabulary),
        "mean_expression": len(exported.spec.vocabulary),
        "batch_embedding.weight": len(exported.batches),
    }
    wrong = [
        f"{name} has {len(exported.weights[name]) if name in exported.weights else 'no'} rows instead of {n_rows}"
        for name, n_rows in sizes.items()
        if name not in exported.weights or len(exported.weights[name]) != n_rows
    ]
    if wrong:
        raise ValueError(f"The parts of the model in {folder} do not fit each other: {'; '.join(wrong)}. {_CURE}")


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({type(error).__name__}: {first_line(error)}). {_CURE}")
