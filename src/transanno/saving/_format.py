"""The file of a saved model: weights and JSON, opened without running anything that is in it.

scvi-tools saves a pickle and opens it as one, which runs whatever code the file brings. Here a file is only ever opened
with torch's restricted reader, and what scvi-tools is given to load is a file that this process wrote itself.
docs/decisions/ says why the format is as it is.
"""

from __future__ import annotations

import pickle
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import mudata
import torch
from anndata import AnnData
from mudata import MuData

from transanno.checks._quiet import quiet_loggers
from transanno.data._files import MODEL_FILE, read_h5ad
from transanno.saving._plain import from_json, to_json, to_plain

FORMAT_VERSION = 4
"""Rises when other versions of this package cannot read what is saved; 1 and 2 were never released."""

# Names of scvi-tools.
_ADATA_FILE, _MDATA_FILE = "adata.h5ad", "mdata.h5mu"
_PARTS = ("model_state_dict", "var_names", "attr_dict")
# scvi-tools calls the method of this name.
_SETUP_METHODS = ("setup_anndata", "setup_mudata", "setup_datamodule")
_LISTED = ("transanno", "scvi-tools", "torch", "numpy", "pandas", "anndata")
_NOT_A_FOLDER_OF_OURS = "Pass the folder that `model.save(folder)` wrote"


@dataclass(frozen=True)
class SavedModel:
    """What a model file holds."""

    weights: dict[str, torch.Tensor]
    attributes: dict[str, Any]
    var_names: Any

    @property
    def registry(self) -> dict[str, Any]:
        """Registry of the data that the model was set up with."""
        return self.attributes["registry_"]

    @contextmanager
    def as_trusted_folder(self) -> Iterator[str]:
        """-> temporary folder from which scvi-tools, which unpickles, can load the model."""
        with tempfile.TemporaryDirectory(prefix="transanno-") as folder, quiet_loggers("scvi"):
            parts = (self.weights, self.var_names, self.attributes)
            torch.save(dict(zip(_PARTS, parts, strict=True)), Path(folder) / MODEL_FILE)
            yield folder


# -- writing -----------------------------------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    """Turns what scvi-tools saves into weights and JSON before it is written."""

    def dump(self, obj: Any) -> None:
        super().dump(_without_pickle(obj))


SAFE_FORMAT = ModuleType("transanno_safe_format")
"""``pickle_module`` of :func:`torch.save` with which scvi-tools' ``save`` writes the safe format."""
SAFE_FORMAT.Pickler = _Pickler  # type: ignore[attr-defined]


def _without_pickle(saved: dict[str, Any]) -> dict[str, Any]:
    """What scvi-tools saves -> tensors, strings, numbers, lists and dictionaries, which is all in the file."""
    weights, var_names, attributes = (saved[part] for part in _PARTS)
    metadata = {
        "format_version": FORMAT_VERSION,
        "versions": {name: version(name) for name in _LISTED},
        "var_names": var_names,
        "attributes": attributes,
    }
    return {
        "metadata": to_json(metadata),
        # pyro_param_store, which scvi-tools adds, is no tensor, and no model of ours has any.
        "model_state_dict": {name: weight for name, weight in weights.items() if isinstance(weight, torch.Tensor)},
        # These two are for scvi-tools' own readers, its hub among them; load() reads the JSON.
        "var_names": to_plain(var_names),
        "attr_dict": {name: to_plain(attributes[name]) for name in ("registry_", "init_params_")},
    }


# -- reading -----------------------------------------------------------------------------------------------------


def read_saved_model(
    dir_path: str | Path, class_name: str | None = None, *, prefix: str | None = None, allowed: list[str] | None = None
) -> SavedModel:
    """Folder and prefix of a model of one of these classes, by default any -> what its file holds; nothing in it is run.

    A ValueError says that there is none, or a damaged one, of another class or format, or with more than data in it.
    """
    folder = Path(dir_path)
    path = folder / f"{prefix or ''}{MODEL_FILE}"
    if not path.is_file():
        found = "does not exist" if not folder.exists() else f"holds no {path.name}"
        raise ValueError(
            f"{folder} is not a saved model: it {found}. {_NOT_A_FOLDER_OF_OURS}, and the `prefix` that it was saved "
            "with, if any."
        )
    content = _read_data(path)
    missing = [
        part for part in ("model_state_dict", "metadata") if not isinstance(content, dict) or part not in content
    ]
    if missing:
        raise ValueError(f"{path} is not a saved model: it lacks {', '.join(missing)}. {_NOT_A_FOLDER_OF_OURS}.")
    attributes, var_names = _metadata(path, content["metadata"])
    registry = attributes.get("registry_")
    found_class = registry.get("model_name") if isinstance(registry, dict) else None
    if class_name is not None and found_class not in {class_name, *(allowed or [])}:
        raise ValueError(
            f"{folder} holds a {found_class} model, but {class_name} was asked to load it. Use {found_class}.load, or "
            f"pass a folder in which a {class_name} was saved."
        )
    weights = content["model_state_dict"]
    _check_parts(path, weights, attributes)
    return SavedModel(weights, attributes, var_names)


def read_saved_data(dir_path: str | Path, prefix: str | None = None) -> AnnData | MuData | None:
    """-> the cells that were saved with a model, None if there are none."""
    for name in (_ADATA_FILE, _MDATA_FILE):
        path = Path(dir_path) / f"{prefix or ''}{name}"
        if not path.is_file():
            continue
        if name == _ADATA_FILE:
            return read_h5ad(path, name="saved data")
        try:
            return mudata.read_h5mu(path)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, the data saved with the model, cannot be read ({type(error).__name__}: {first_line(error)}). "
                "Fetch a complete copy, or load the model without them: load(folder, adata=False)."
            ) from error
    return None


def download(url: str, dir_path: str | Path, prefix: str | None = None) -> None:
    """Fetch the model file if the folder has none."""
    path = Path(dir_path) / f"{prefix or ''}{MODEL_FILE}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)


@contextmanager
def building(dir_path: str | Path, *, with_data: bool) -> Iterator[None]:
    """ValueError instead of a library's error where the parts of a file contradict each other."""
    # With data, errors of these classes are those of checks of the data.
    damage = () if with_data else (KeyError, TypeError, AttributeError, IndexError)
    try:
        yield
    except (RuntimeError, *damage) as error:
        found = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and "state_dict" not in found and "negative dimension" not in found:
            raise
        raise ValueError(
            f"The parts of the model in {dir_path} do not fit each other ({type(error).__name__}: {found[:300]}). The file is "
            "damaged or was edited: fetch a complete copy of it."
        ) from error


def load_restricted(path: Path) -> Any:
    """Path -> what torch's restricted reader, which builds tensors and plain containers only, finds in it."""
    with warnings.catch_warnings():
        # Of files that torch did not write, which are about to be refused.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_data(path: Path) -> Any:
    """Path -> content of a model file, as far as it is data."""
    try:
        return load_restricted(path)
    except pickle.UnpicklingError:
        pass  # also what it raises at anything but data
    except MemoryError:
        raise
    except Exception as error:  # damage can surface anywhere in torch, zipfile and pickle
        raise _damaged(path, error) from error
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    raise ValueError(
        f"{path} holds more than data ({', '.join(sorted(names)[:5])}), as models of scvi-tools itself do, and was not "
        "opened, because that could run code on your computer. Models that transanno saves hold weights and JSON only. Ask "
        "whoever made the file for a model that was saved with `model.save(folder)`; there is no option to open it all the "
        "same."
    )


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is damaged or not a model file ({type(error).__name__}: {first_line(error)}). Save the model again, or "
        "fetch a complete copy of the file."
    )


def _metadata(path: Path, text: Any) -> tuple[dict[str, Any], Any]:
    """-> attributes of the model and its genes."""
    try:
        metadata = from_json(text)
        found = metadata["format_version"]
        if not isinstance(found, int):
            raise TypeError("format_version is no whole number")
        if found == FORMAT_VERSION:
            return dict(metadata["attributes"]), metadata["var_names"]
        saved_by = metadata["versions"]["transanno"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from error
    remedy = (
        "Update transanno: pip install --upgrade transanno."
        if found > FORMAT_VERSION
        else "Its network is another one. Train the model again, with the same arguments of tl.fit_reference or train()."
    )
    raise ValueError(
        f"{path} was saved by transanno {saved_by} in format {found}, and this version, {version('transanno')}, reads format "
        f"{FORMAT_VERSION}. {remedy}"
    )


def _check_parts(path: Path, weights: Any, attributes: dict[str, Any]) -> None:
    """Raise unless the parts that scvi-tools will use are there, and nothing that it should not."""
    registry, arguments = attributes.get("registry_"), attributes.get("init_params_")
    wrong = None
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        wrong = "its weights are no tensors"
    elif not isinstance(registry, dict) or not {"setup_args", "field_registries"} <= registry.keys():
        wrong = "the registry of its data is incomplete"
    elif not isinstance(arguments, dict) or not {"kwargs", "non_kwargs"} <= arguments.keys():
        wrong = "the arguments of the model are missing"
    elif registry.get("setup_method_name", "setup_anndata") not in _SETUP_METHODS:
        wrong = f"it was set up by {registry['setup_method_name']!r}"
    # scvi-tools sets them on the model.
    elif names := [name for name in attributes if not str(name).isidentifier() or str(name).startswith("_")]:
        wrong = f"{names[0]!r} is no attribute of a model"
    if wrong is not None:
        raise ValueError(
            f"{path} is damaged or not a model file: {wrong}. Save the model again, or fetch a complete copy of the file."
        )


def first_line(error: BaseException) -> str:
    # torch's advice, to open the file without restrictions, is what nobody should follow.
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return (text.splitlines() or [""])[0][:200]
