"""Outputs that cannot be written are found before training, not after it."""

from __future__ import annotations

import os
from pathlib import Path

from transanno.data._files import MODEL_FILE
from transanno.saving._save import MODEL_FILES


def check_output_file(path: Path, option: str, suffix: str, others: dict[str, Path | None]) -> None:
    """Raise ValueError unless a file of that suffix can be written that is none of the others, which are named by option."""
    if path.suffix != suffix:
        raise ValueError(f"{option}={path} does not end in {suffix}, which is the only format written. Add the suffix.")
    if path.is_dir():
        raise ValueError(f"{option}={path} is a folder. Name a file, for example {path / f'annotated{suffix}'}.")
    for name, other in others.items():
        if other is not None and os.path.realpath(other) == os.path.realpath(path):
            raise ValueError(f"{option}={path} is the file of {name}, which is never changed. Name another file.")
    _check_can_be_made(Path(os.path.realpath(path)).parent, f"{option}={path}")


def check_output_folder(path: Path, option: str) -> None:
    """Raise ValueError unless it is a folder that can be written to, or one can be made."""
    _check_can_be_made(path, f"{option}={path}")


def check_model_folder(path: Path, *, overwrite: bool) -> None:
    """Raise ValueError if saving a model would replace something, unless that is a model and ``overwrite``."""
    _check_can_be_made(path, f"--save-model={path}")
    found = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    if found and not overwrite:
        raise ValueError(
            f"--save-model={path} exists and holds {_listing(found)}. Name another folder, or pass --overwrite to "
            "replace the model there."
        )
    if set(found) - set(MODEL_FILES):
        raise ValueError(
            f"--save-model={path} holds {_listing(found)}; --overwrite only replaces a folder with nothing but a "
            f"model ({MODEL_FILE}). Name another folder."
        )


def _check_can_be_made(folder: Path, what: str) -> None:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(
            f"{what} cannot be written: {existing} is a file, where a folder is needed. Name another path."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"{what} cannot be written: there is no permission to write to {existing}. Name another path, or change "
            "the permissions of the folder."
        )


def _listing(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
