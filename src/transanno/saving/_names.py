"""Names of models -> folders: a folder, a name of a registry, or a repository of the Hugging Face Hub.

A registry is a TOML file with a table for every name::

    [lung]
    folder = "models/lung"  # from the file, or
    repo = "organization/lung"  # of the Hugging Face Hub, with revision = "..." if not the newest
    sha256 = "..."  # of model.pt; required with repo
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from transanno.checks._data import did_you_mean
from transanno.data._files import MODEL_FILE
from transanno.saving._checksums import CHECKSUMS_FILE, check_checksums, check_sha256
from transanno.saving._hub import download_model, is_repo_id

VARIABLE = "TRANSANNO_MODELS"
"""Environment variable that names a registry of models."""

SHIPPED = Path(__file__).parents[1] / "shipped" / "models.toml"
_KEYS = {"folder", "repo", "revision", "sha256"}


def folder_of(name: str | Path, revision: str | None = None) -> Path:
    """Folder of a model, name of a registry, or repository of the Hub -> folder that the model can be loaded from.

    Files of a registry or of the Hub are checked; those of a folder are, if it holds checksums.

    Raises
    ------
    ValueError
        If it is none of the three, which lists where it was looked for, or a file is not what it should be.
    ImportError
        If it has to be fetched from the Hub, and huggingface_hub is not installed.
    """
    folder = Path(name).expanduser()
    # A Path and a text are looked up alike: argparse, and users, make a Path of either.
    text = Path(name).as_posix()
    if folder.exists():
        _check_no_revision(revision, f"the folder {folder}")
        if (folder / CHECKSUMS_FILE).is_file():
            check_checksums(folder, source=str(folder))
        return folder
    registries = {path: _read(path) for path in _registries()}
    for path, entries in registries.items():
        if text in entries:
            return _registered(entries[text], f"the model {text!r} of {path}", path, revision)
    known = sorted({known for entries in registries.values() for known in entries})
    looked = f"{str(name)!r} is neither a folder nor the name of a registered model. {did_you_mean(text, known, what='Names')}"
    if is_repo_id(text):
        return download_model(text, revision, also=f"{looked} ")
    places = ", ".join(str(path) for path in registries)
    raise ValueError(
        f"{looked} Names were looked for in {places}. Pass the folder that model.save(folder) wrote, one of these names, or a "
        f"repository of the Hugging Face Hub as 'organization/name'; a registry of your own is named by {VARIABLE}."
    )


def _registries() -> list[Path]:
    """-> files of names, the user's before ours."""
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).expanduser().is_file():
            raise ValueError(f"{VARIABLE} names {named}, which is no file. Name a registry of models, or unset it.")
        return [Path(named).expanduser(), SHIPPED]
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    users = configuration / "transanno" / "models.toml"
    return [users, SHIPPED] if users.is_file() else [SHIPPED]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Registry -> its entries by name."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The registry of models {path} cannot be read as TOML ({error}). Mend it, or unset {VARIABLE}."
        ) from error
    for name, entry in entries.items():
        is_entry = (
            isinstance(entry, dict) and entry.keys() <= _KEYS and all(isinstance(text, str) for text in entry.values())
        )
        if not is_entry or ("folder" in entry) == ("repo" in entry) or ("repo" in entry and "sha256" not in entry):
            raise ValueError(
                f'[{name}] of the registry of models {path} is {entry!r}. Allowed: folder = "...", or repo = "organization/name" with '
                f'sha256 = "..." of its {MODEL_FILE} and, if not the newest, revision = "..."; sha256 may stand beside folder, too.'
            )
    return entries


def _registered(entry: dict[str, str], source: str, registry: Path, revision: str | None) -> Path:
    """Entry of a registry -> folder of its model."""
    _check_no_revision(revision, source)
    if "folder" in entry:
        folder = registry.parent / Path(entry["folder"]).expanduser()
    else:
        folder = download_model(
            entry["repo"], entry.get("revision"), also=f"{source[0].upper()}{source[1:]} is in {entry['repo']!r}. "
        )
    if "sha256" in entry:
        check_sha256(folder / MODEL_FILE, entry["sha256"], source=source)
    return folder


def _check_no_revision(revision: str | None, source: str) -> None:
    if revision is not None:
        raise ValueError(
            f"revision={revision!r} is for the name of a repository of the Hugging Face Hub, and not for {source}. Leave it out."
        )
