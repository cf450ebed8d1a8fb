"""Checks of arguments that come before minutes of work, and before the errors of libraries that would come after."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from mudata import MuData
from scvi.train import Trainer, TrainRunner

from transanno.checks._data import check_not_lazy, did_you_mean, is_collection

_MAX_SEED = 2**32 - 1


def check_whole_number(
    name: str, value: object, low: int, *, may_be_none: bool = False, high: int | None = None
) -> None:
    """Raise unless the argument is a whole number in ``[low, high]``."""
    if value is None and may_be_none:
        return
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        allowed = f"{low} or more" if high is None else f"from {low} to {high}"
        raise (ValueError if is_whole else TypeError)(
            f"{name}={_shown(value)}. Allowed: a whole number, {allowed}{', or None for the default' if may_be_none else ''}."
        )


def check_share(name: str, value: object, *, may_be_none: bool = False) -> None:
    """Raise unless the argument is a share of the cells, in (0, 1]."""
    if value is None and may_be_none:
        return
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value <= 1:  # type: ignore[operator]
        raise (ValueError if is_number else TypeError)(
            f"{name}={_shown(value)}. Allowed: a share of the cells, above 0 and at most 1, such as 0.9."
        )


def check_adata(value: object, *, name: str, may_be_lazy: bool = False) -> None:
    """Raise `TypeError` unless it is an AnnData, whose values are lazy only if they may."""
    if isinstance(value, MuData):
        raise TypeError(
            f"{name} is a MuData, but an AnnData is needed here. Pass the modality that holds the counts, for example "
            f'mdata["{next(iter(value.mod), "rna")}"].'
        )
    if is_collection(value):
        raise TypeError(
            f"{name} is an AnnCollection, which only references of tl.fit_reference and tl.annotate may be. Allowed: an AnnData. Join the "
            "files instead, without reading them: "
            f"{name} = anndata.concat([anndata.experimental.read_lazy(path) for path in paths]), with "
            "pip install 'transanno[dask]'."
        )
    if not isinstance(value, AnnData):
        raise TypeError(
            f"{name} is {_described(value)}. Allowed: an AnnData with raw counts, for example anndata.read_h5ad(path) of a "
            "file or AnnData(counts, obs=..., var=...) of a matrix."
        )
    check_not_lazy(value, name=name, may_be_read=may_be_lazy)


def check_annotation(
    query: object, *, key_added: object, seed: object, refine: object, accelerator: object, layer: object
) -> None:
    """Raise if one of these could not be used once the model is ready."""
    if not isinstance(query, MuData):
        check_adata(query, name="query", may_be_lazy=True)
    if isinstance(query, AnnData) and query.isbacked and query.is_view:
        raise ValueError(
            "query is a view of a file (backed mode), and nothing can be written to its obs. Read the cells into memory "
            "with query.to_memory(), or annotate the whole file and take the view afterwards."
        )
    if not isinstance(key_added, str) or not key_added:
        raise ValueError(
            f"key_added={_shown(key_added)}. Allowed: the name of a column, such as 'transanno', that predictions are "
            "written to in query.obs."
        )
    if not isinstance(refine, bool | np.bool_):
        raise TypeError(f"refine={_shown(refine)}. Allowed: True or False, whether to refine the predictions.")
    if layer is not None and not isinstance(layer, str):
        raise TypeError(f"layer={_shown(layer)}. Allowed: the name of a layer of raw counts, or None for X.")
    check_seed(seed)
    check_accelerator(accelerator)


def check_seed(seed: object) -> None:
    """Raise unless numpy and torch take the seed."""
    check_whole_number("seed", seed, 0, high=_MAX_SEED, may_be_none=True)


def check_accelerator(name: object) -> None:
    """Raise `ValueError` unless there is such a device here."""
    known = {"auto": True, "gpu": False, **{key: entry["accelerator"] for key, entry in AcceleratorRegistry.items()}}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"accelerator={_shown(name)}. Allowed: {', '.join(map(repr, sorted(known)))}.")
    candidates = [known[key] for key in ("cuda", "mps") if key in known] if name == "gpu" else [known[name]]
    if name != "auto" and not any(candidate.is_available() for candidate in candidates):  # type: ignore[attr-defined]
        raise ValueError(
            f"accelerator={name!r}: PyTorch finds no such device here. Leave the argument out to use what there is."
        )


def check_training(
    *,
    max_epochs: object,
    train_size: object,
    validation_size: object,
    batch_size: object,
    plan_kwargs: object,
    trainer_kwargs: Mapping[str, Any],
    n_samples_per_label: object = None,
) -> None:
    """Raise if training could not start with these, or would not do what they seem to say."""
    check_whole_number("max_epochs", max_epochs, 1, may_be_none=True)  # -1 would never end
    check_whole_number("batch_size", batch_size, 1)
    check_whole_number("n_samples_per_label", n_samples_per_label, 1, may_be_none=True)
    check_share("train_size", train_size, may_be_none=True)
    if validation_size is not None and validation_size != 0:
        check_share("validation_size", validation_size)
    if plan_kwargs is not None and not isinstance(plan_kwargs, Mapping):
        raise TypeError(
            f"plan_kwargs is {_described(plan_kwargs)}. Allowed: a dictionary of arguments of the training plan, such as "
            '{"lr": 1e-3}.'
        )
    if "accelerator" in trainer_kwargs:
        check_accelerator(trainer_kwargs["accelerator"])
    known = _arguments_of(TrainRunner, Trainer, LightningTrainer)
    for name in trainer_kwargs:
        if name not in known:
            raise TypeError(
                f"train() has no argument {name!r}, and neither has the trainer. "
                f"{did_you_mean(name, sorted(known), what='Arguments of the trainer')}"
            )


def _arguments_of(*classes: type) -> set[str]:
    return {name for cls in classes for name in inspect.signature(cls).parameters}


def _described(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}… (a {type(value).__name__})"


def one_column(key: str | Iterable[str] | None, *, argument: str) -> str | None:
    """Name of a column, alone or as the only one in a list -> the name."""
    if key is None or isinstance(key, str):
        return key
    names = list(key) if isinstance(key, list | tuple) else [key]
    if len(names) != 1 or not isinstance(names[0], str):
        raise TypeError(
            f"{argument}={_shown(key)}. Allowed: the name of one column of obs. Make one of several: "
            'adata.obs["both"] = adata.obs["a"].astype(str) + "_" + adata.obs["b"].astype(str)'
        )
    return names[0]
