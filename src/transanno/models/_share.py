"""Models for others: a folder with all that the Hugging Face Hub shows, and scvi-tools' hub reads."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from transanno.metrics import Evaluation
from transanno.saving._checksums import write_checksums
from transanno.saving._hub import CARD_PAGE, is_repo_id, upload_model
from transanno.saving._model_card import model_card
from transanno.saving._save import MODEL_FILES

if TYPE_CHECKING:
    from transanno.models._transanno import TransAnno

# Where scvi.hub looks for what it has to know.
_SCVI_FILE = "_scvi_required_metadata.json"


def write_for_hub(
    model: TransAnno,
    folder: Path,
    *,
    name: str,
    license: str,
    description: str,
    evaluation: Mapping[str, Evaluation] | None,
    overwrite: bool,
) -> None:
    """See :meth:`transanno.TransAnno.save_for_hub`."""
    model._check_if_trained(warn=False)
    card = model_card(model, name=name, license=license, description=description, evaluation=evaluation)
    model.save(folder, overwrite=overwrite)
    (folder / CARD_PAGE).write_text(f"{card}\n", encoding="utf-8", newline="\n")
    from scvi.hub import HubMetadata  # which needs huggingface_hub

    saved_under, cls = model.registry["scvi_version"], type(model)
    metadata = HubMetadata(
        saved_under, version("anndata"), cls.__name__, model_parent_module=cls.__module__.partition(".")[0]
    )
    metadata.save(str(folder / _SCVI_FILE), overwrite=True)
    # Not of the page, which its authors go on writing on the Hub.
    write_checksums(folder, MODEL_FILES)


def push(
    model: TransAnno, repo_id: str, *, private: bool, token: str | None, commit_message: str, **about: object
) -> str:
    """See :meth:`transanno.TransAnno.push_to_hub`."""
    if not is_repo_id(str(repo_id)):
        raise ValueError(
            f"repo_id={repo_id!r}. Allowed: the name of a repository of the Hugging Face Hub, 'organization/name'."
        )
    with tempfile.TemporaryDirectory(prefix="transanno-") as folder:
        path = Path(folder) / "model"
        write_for_hub(model, path, name=repo_id, overwrite=False, **about)  # type: ignore[arg-type]
        return upload_model(path, repo_id, private=private, token=token, commit_message=commit_message)
