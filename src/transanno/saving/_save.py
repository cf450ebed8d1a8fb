"""What is written beside the weights of a model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from transanno.data._files import MODEL_FILE, sync
from transanno.data._vocabulary import VOCABULARY_FILE, write_lines
from transanno.saving._card import CARD_FILE, write_card
from transanno.saving._checksums import CHECKSUMS_FILE

MODEL_FILES = (MODEL_FILE, VOCABULARY_FILE, CARD_FILE)
"""All files of a model that was saved without its data."""


def write_beside(model: Any, card: dict[str, Any], folder: Path, prefix: str) -> None:
    """The gene vocabulary, and a card that says what the model knows -> files."""
    (folder / CHECKSUMS_FILE).unlink(missing_ok=True)  # of a shared model that was here before
    write_lines(model.genes, folder / f"{prefix}{VOCABULARY_FILE}")
    write_card(card, folder / f"{prefix}{CARD_FILE}")


def card_of(model: Any) -> dict[str, Any]:
    """What someone who finds a model in a folder wants to know -> content of ``card.json``."""
    setup, history = model.registry["setup_args"], model.history or {}
    return {
        "class": type(model).__name__,
        "is_trained": bool(model.is_trained),
        "n_genes": len(model.genes),
        "first_genes": list(model.genes[:5]),
        "n_cells": int(model.summary_stats.n_cells),
        "n_batches": int(model.summary_stats.n_batch),
        "batch_key": setup.get("batch_key"),
        "architecture": model.init_params_["non_kwargs"],
        "last_epoch": {name: float(values.iloc[-1, 0]) for name, values in history.items() if len(values)},
    }


def save_model(model: Any, folder: str | Path) -> None:
    """Save a model; one that was in the folder stays whole until the new one replaces it."""
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        model.save(str(temporary), save_anndata=False)
        folder.mkdir(exist_ok=True)
        for file in temporary.iterdir():
            sync(file)
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
