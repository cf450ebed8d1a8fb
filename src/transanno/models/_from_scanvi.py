"""What scANVI's and scVI's methods of the same name take and ours do not: accepted with a warning where it changes nothing here, else
refused with what to do instead. docs/user_guide/from_scanvi.md is the page for readers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from transanno.checks._data import did_you_mean
from transanno.checks._warn import warn


@dataclass(frozen=True)
class _Argument:
    """One argument of theirs."""

    reason: str
    """why it changes nothing"""
    instead: str | None = None
    """what to do where its value asks for something that is not there; None: no value does"""
    harmless: tuple[Any, ...] = ()
    """values that do not, where ``instead`` is given; None never does"""


_DETERMINISTIC = _Argument("cell states are not drawn from a distribution, so that there is nothing to average")
_NO_DECODER = _Argument("there is no decoder of counts")
_NO_BATCH_NORM = _Argument("there is no batch normalization")
_DATAMODULE = _Argument("", "Pass the query as adata; one on disk stays there.")

ARGUMENTS: dict[str, dict[str, _Argument]] = {
    "__init__": {
        "dispersion": _NO_DECODER,
        "gene_likelihood": _NO_DECODER,
        "use_observed_lib_size": _Argument("cells are always normalized by their observed counts"),
        "linear_classifier": _Argument("the cell-type head is linear in the cell state unless head='conv' is given"),
    },
    "setup_anndata": {
        "use_minified": _Argument("models keep no minified data"),
    },
    "train": {
        "adversarial_classifier": _Argument(
            "there is no adversary",
            "Batches are balanced by episodes and forgotten in half of the cells; plan_kwargs={'batch_dropout': ...} changes how often.",
            (False,),
        ),
        "load_sparse_tensor": _Argument("minibatches are made dense where they are used"),
    },
    "load_query_data": {
        "registry": _DATAMODULE,
        "datamodule": _DATAMODULE,
        "freeze_dropout": _Argument("dropout is active in training only, and as the reference was trained"),
        "freeze_expression": _Argument(
            "weights of genes are frozen", "Pass unfrozen=True to let all weights learn.", (True,)
        ),
        "freeze_decoder_first_layer": _NO_DECODER,
        "freeze_batchnorm_encoder": _NO_BATCH_NORM,
        "freeze_batchnorm_decoder": _NO_BATCH_NORM,
        "transfer_batch": _Argument(
            "batches of the query are carried over", "Leave the batch column out of query.obs to have none.", (True,)
        ),
    },
    "predict": {
        "use_posterior_mean": _DETERMINISTIC,
        "ig_interpretability": _Argument(
            "attributions are a method of their own",
            "Call get_gene_attributions(adata, groupby=...), or tl.explain for single cells.",
            (False,),
        ),
        "ig_args": _Argument("", "Call get_gene_attributions(adata, n_steps=..., baseline=...)."),
    },
    "get_latent_representation": {
        "mc_samples": _DETERMINISTIC,
        "return_dist": _Argument(
            "cell states have no variance",
            "Leave it out: the result is the cell states alone, and not a pair.",
            (False,),
        ),
    },
}
"""By method and name."""


def drop_scanvi_arguments(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Further arguments of a method -> those that scANVI does not have either; warns of each that it has and that changes nothing.

    Raises
    ------
    TypeError
        If one asks for something that is not there, with what to do instead.
    """
    known, others = ARGUMENTS.get(method, {}), {}
    for name, value in given.items():
        if name not in known:
            others[name] = value
            continue
        argument = known[name]
        if value is None:
            continue
        if argument.instead is not None and not any(value is harmless for harmless in argument.harmless):
            raise TypeError(
                f"{name}={value!r} is an argument of scANVI that {_shown(method)} does not have. {argument.instead}"
            )
        warn(
            f"{name}={value!r} is an argument of scANVI without effect on {_shown(method)}: {argument.reason}. Leave it out."
        )
    return others


def refuse_unknown_arguments(method: Any, given: Mapping[str, Any]) -> None:
    """Raise TypeError at further arguments of a method that scANVI does not have either."""
    others = drop_scanvi_arguments(method.__name__, given)
    if others:
        own = [name for name in inspect.signature(method).parameters if name not in ("self", "cls", "kwargs")]
        name = next(iter(others))
        raise TypeError(f"{method.__name__}() has no argument {name!r}. {did_you_mean(name, own, what='Arguments')}")


def refuse_scvi_model(cls_name: str) -> NoReturn:
    """Say what to call instead of ``from_scvi_model``."""
    raise TypeError(
        f"{cls_name} cannot start from an scVI model, whose encoder is another network. Without pretraining: "
        f"{cls_name}.setup_anndata(adata, labels_key, unlabeled_category), {cls_name}(adata), train(). To learn from unlabeled cells "
        f"first: TransAnnoPretrain, and {cls_name}.from_pretrained(pretrained, adata, labels_key)."
    )


def _shown(method: str) -> str:
    return "TransAnno()" if method == "__init__" else f"{method}()"
