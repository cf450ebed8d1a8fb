"""Checks of a model folder before scvi-tools opens it."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch

_MODEL_FILE = "model.pt"
_PARTS = ("model_state_dict", "var_names", "attr_dict")


def check_saved_model(
    dir_path: str, class_name: str, *, prefix: str | None = None, allowed: list[str] | None = None
) -> None:
    """Raise ValueError unless the folder holds an undamaged model of this class."""
    folder = Path(dir_path)
    path = folder / f"{prefix or ''}{_MODEL_FILE}"
    if not path.is_file():
        found = "does not exist" if not folder.exists() else f"holds no {path.name}"
        raise ValueError(
            f"{folder} is not a saved model: it {found}. Pass the folder that `model.save(folder)` wrote, and the "
            "`prefix` that it was saved with, if any."
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, ImportError,
            zipfile.BadZipFile, pickle.UnpicklingError) as error:  # fmt: skip
        raise ValueError(
            f"{path} is damaged or not a model file ({type(error).__name__}: {_first_line(error)}). Save the model "
            "again, or fetch a complete copy of the file."
        ) from error
    missing = [part for part in _PARTS if not isinstance(saved, dict) or part not in saved]
    if missing:
        raise ValueError(
            f"{path} is not a saved scvi-tools model: it lacks {', '.join(missing)}. Pass the folder that "
            "`model.save(folder)` wrote."
        )
    found_class = saved["attr_dict"].get("registry_", {}).get("model_name")
    if found_class not in {class_name, *(allowed or [])}:
        raise ValueError(
            f"{folder} holds a {found_class} model, but {class_name} was asked to load it. Use {found_class}.load, or "
            f"pass a folder in which a {class_name} was saved."
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
