"""What makes an annotation again."""

from __future__ import annotations

import platform
from importlib.metadata import version

from transanno.models import TransAnno
from transanno.predictions._predict import Asked
from transanno.report._contents import Origin

_PACKAGES = ("transanno", "scvi-tools", "torch", "anndata", "scanpy", "numpy", "pandas")
_NOT_KNOWN = "not known here: the model that tl.annotate returned, or whose predict() was called, remembers them in the same session"


def versions() -> dict[str, str]:
    """-> versions of what computed."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def arguments(model: TransAnno | None, asked: Asked | None, key_added: str, layer: str | None) -> dict[str, str]:
    """-> what the prediction was asked for, and what the model was set up with."""
    found = {"key_added": repr(key_added), "layer": repr(layer)}
    if asked is not None:
        found |= {name: repr(value) for name, value in asked._asdict().items()}
    else:
        found["other arguments of the prediction"] = _NOT_KNOWN
    if model is not None:
        setup = model.registry["setup_args"]
        found |= {
            f"{key} of the model": repr(setup.get(key)) for key in ("labels_key", "batch_key", "unlabeled_category")
        }
        architecture = model.init_params_["non_kwargs"].items()
        found["architecture of the model"] = ", ".join(f"{name}={value!r}" for name, value in architecture)
    return found


def code(origin: Origin, asked: Asked | None, key_added: str, layer: str | None) -> str:
    """-> lines that annotate the cells again."""
    if origin.command is not None:
        return origin.command
    cells = origin.cells or "query.h5ad"
    folder = origin.model or "model/"
    read = "" if origin.cells else "  # where these cells are, without the annotation"
    saved = "" if origin.model else '  # after model.save("model/")'
    where = "" if layer is None else f", layer={layer!r}"
    asked_for = {} if asked is None else asked._asdict()
    call = ", ".join(f"{name}={value!r}" for name, value in {**asked_for, "key_added": key_added}.items())
    return "\n".join(
        [
            "import anndata",
            "import transanno",
            "",
            f"query = anndata.read_h5ad({cells!r}){read}",
            f"model = transanno.TransAnno.load_query_data(query, {folder!r}{where}, unseen_labels='mask'){saved}",
            f"model.predict({call})",
        ]
    )
