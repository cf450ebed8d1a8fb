"""The Hugging Face Hub: folders of models up and down."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

from transanno.checks._data import first_line
from transanno.saving._checksums import CHECKSUMS_FILE, check_checksums
from transanno.saving._save import MODEL_FILES

CARD_PAGE = "README.md"
"""The card of a shared model, where the Hub looks for it."""

_INSTALL = 'Install it with: pip install "transanno[hub]"'
_REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_repo_id(name: str) -> bool:
    """Whether a name may be that of a repository: ``organization/name``."""
    return _REPO_ID.fullmatch(name) is not None


def huggingface_hub(purpose: str) -> ModuleType:
    """-> the package, or an ImportError that says what it is needed for and how to get it."""
    try:
        import huggingface_hub as package
    except ImportError as error:
        raise ImportError(f"{purpose} needs huggingface_hub, which is not installed. {_INSTALL}") from error
    return package


def download_model(repo_id: str, revision: str | None = None, *, also: str = "") -> Path:
    """Fetch what is not in the Hub's cache -> folder of a model whose files are as its checksums say.

    ``also`` is what to say of other places where the name was looked for.
    """
    hub = huggingface_hub(f"{also}A model of the Hugging Face Hub, {repo_id!r},")
    which = f"the repository {repo_id!r}{f' at revision {revision!r}' if revision else ''} of the Hugging Face Hub"
    try:
        folder = Path(
            hub.snapshot_download(repo_id, revision=revision, allow_patterns=[*MODEL_FILES, CARD_PAGE, CHECKSUMS_FILE])
        )
    except OSError as error:  # which all errors of the Hub and of the network are
        raise ValueError(f"{also}T{which[1:]} could not be fetched ({_reason(hub, error)}") from error
    check_checksums(folder, source=which)
    return folder


def upload_model(folder: Path, repo_id: str, *, private: bool, token: str | None, commit_message: str) -> str:
    """Make the repository if there is none, and put the files of a folder in it -> address of the commit."""
    hub = huggingface_hub("push_to_hub")
    api = hub.HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))
    except OSError as error:
        raise ValueError(
            f"The model could not be uploaded to {repo_id!r} ({type(error).__name__}: {first_line(error)}). Log in with `hf auth login` or "
            "pass token=, and name a repository that you may write to. save_for_hub(folder, ...) writes the same files without "
            "uploading them."
        ) from error


def _reason(hub: Any, error: Exception) -> str:
    """What went wrong, and what to do."""
    if isinstance(error, hub.errors.RevisionNotFoundError):
        return "there is no such revision). Look at the names on its page, or leave revision out."
    if isinstance(error, hub.errors.RepositoryNotFoundError):
        return "there is none of this name, or it is private). Check the spelling, or log in with `hf auth login`."
    return (
        f"{type(error).__name__}: {first_line(error)}), and it is not in the cache of an earlier download. Without a network, fetch "
        "it where there is one and pass its folder."
    )
