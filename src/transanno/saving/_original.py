"""Weights of TransAnno-Net and scBERT, as ``torch.save`` wrote them, into our module.

Both are built on ``performer-pytorch``, whose names the checkpoints bear. Facts about the format are in
docs/decisions/0005.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transanno.saving._format import first_line, load_restricted
from transanno.training._module import TransAnnoModule

# What DistributedDataParallel and torch.compile put before every name.
_WRAPPERS = ("module.", "_orig_mod.")
_STATE_KEYS = ("model_state_dict", "state_dict")
# performer-pytorch registers its layers a second time with the part that counts passes.
_UPDATER = "performer.proj_updater."

_LAYER_NAME = re.compile(r"performer\.net\.layers\.(\d+)\.")
_PROJECTION, _QUERY = "0.fn.fast_attention.projection_matrix", "0.fn.to_q.weight"
_POSITIONS = "pos_emb.emb.weight"
_KERNEL = "to_out.conv1.weight"
_OUTER = {
    "token_emb.weight": "encoder.token_embedding.weight",
    "norm.weight": "encoder.norm.weight",
    "norm.bias": "encoder.norm.bias",
}
_LAYER = {
    "0.norm.weight": "attention_norm.weight",
    "0.norm.bias": "attention_norm.bias",
    _PROJECTION: "projection",
    _QUERY: "to_query.weight",
    "0.fn.to_k.weight": "to_key.weight",
    "0.fn.to_v.weight": "to_value.weight",
    "0.fn.to_out.weight": "to_out.weight",
    "0.fn.to_out.bias": "to_out.bias",
    "1.norm.weight": "feed_forward_norm.weight",
    "1.norm.bias": "feed_forward_norm.bias",
    "1.fn.fn.w1.weight": "feed_forward.0.weight",
    "1.fn.fn.w1.bias": "feed_forward.0.bias",
    "1.fn.fn.w2.weight": "feed_forward.2.weight",
    "1.fn.fn.w2.bias": "feed_forward.2.bias",
}
_EXPRESSION_HEAD = {
    "to_out.weight": "expression_head.to_bins.weight",
    "to_out.bias": "expression_head.to_bins.bias",
}
_CLASSIFIER = {
    f"to_out.{theirs}.{kind}": f"classifier.{ours}.{kind}"
    for theirs, ours in {
        "conv1": "convolution",
        "fc1": "perceptron.0",
        "fc2": "perceptron.3",
        "fc3": "perceptron.6",
    }.items()
    for kind in ("weight", "bias")
}


@dataclass(frozen=True)
class Checkpoint:
    """Weights by their original names, and the sizes of the network that they belong to."""

    path: Path
    weights: dict[str, Tensor]
    n_vars: int
    architecture: dict[str, int]
    """Arguments of :class:`transanno.nn.PerformerEncoder`."""
    has_expression_head: bool
    has_classifier: bool


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Path of a ``torch.save`` file -> checkpoint; nothing in the file is executed.

    Raises
    ------
    ValueError
        If the file is damaged, holds more than plain weights, or weights of another kind of network.
    """
    path = Path(path)
    weights = _read_weights(path)
    found = {
        "token_emb.weight": weights.get("token_emb.weight"),
        _POSITIONS: weights.get(_POSITIONS),
        **{f"performer.net.layers.*.{part}": _first_layer_weight(weights, part) for part in (_PROJECTION, _QUERY)},
    }
    matrices = {name: weight for name, weight in found.items() if weight is not None and weight.ndim == 2}
    if len(matrices) < len(found):
        absent = [name for name in found if name not in matrices]
        raise ValueError(
            f"{path} holds no Performer with a position for every gene: {', '.join(absent)} missing, among "
            f"{len(weights)} weights such as {', '.join(list(weights)[:5])}. Allowed: checkpoints of TransAnno-Net and "
            "scBERT, whose weights bear the names of performer-pytorch. Models of this package are opened with load()."
        )
    tokens, positions, projection, query = matrices.values()
    n_features, head_dim = projection.shape
    return Checkpoint(
        path=path,
        weights=weights,
        n_vars=len(positions) - 1,
        architecture={
            "n_hidden": tokens.shape[1],
            "n_layers": 1 + max(int(match[1]) for name in weights if (match := _LAYER_NAME.match(name))),
            "n_heads": max(len(query) // head_dim, 1),
            "head_dim": head_dim,
            "n_features": n_features,
        },
        has_expression_head=any(name in weights for name in _EXPRESSION_HEAD),
        has_classifier=any(name in weights for name in _CLASSIFIER),
    )


@torch.no_grad()
def load_weights(module: TransAnnoModule, checkpoint: Checkpoint, *, label_order: list[int] | None = None) -> None:
    """Copy a checkpoint into a module of its sizes.

    ``label_order`` is the position in the checkpoint of each label of the module. Without it the checkpoint's
    classifier is left out.

    Raises
    ------
    ValueError
        If weights are missing, left over or of another shape; it lists them all.
    """
    names = _names(checkpoint)
    weights = dict(checkpoint.weights)
    ours = module.state_dict()
    expected = {name: tuple(ours[target].shape) for name, target in names.items() if target in ours}
    expected[_POSITIONS] = (module.n_input + 1, module.encoder.n_hidden)
    if _KERNEL in expected:
        expected[_KERNEL] = (1, 1, *expected[_KERNEL])
    if label_order is None:
        weights = {name: weight for name, weight in weights.items() if name not in _CLASSIFIER}
    wrong = [f"{name} {shape} is missing" for name, shape in expected.items() if name not in weights]
    wrong += [f"{name} {tuple(weight.shape)} is left over" for name, weight in weights.items() if name not in expected]
    wrong += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} weights of {checkpoint.path} do not fit the network of TransAnno-Net and scBERT with "
            f"{module.n_input} genes: {'; '.join(wrong)}. Check that the file is complete, and that genes and labels "
            "are those it was trained with."
        )
    if label_order is not None:
        for name in ("to_out.fc3.weight", "to_out.fc3.bias"):
            weights[name] = weights[name][label_order]
    positions = weights.pop(_POSITIONS)
    ours["encoder.gene_embedding"].copy_(positions[:-1])
    ours["encoder.appended_embedding"].copy_(positions[-1])
    for name, weight in weights.items():
        ours[names[name]].copy_(weight.reshape(ours[names[name]].shape))
    # The original knows no batches.
    module.batch_embedding.weight.zero_()


def _first_layer_weight(weights: dict[str, Tensor], part: str) -> Tensor | None:
    return next((weight for name, weight in weights.items() if _LAYER_NAME.sub("", name) == part), None)


def _names(checkpoint: Checkpoint) -> dict[str, str]:
    """-> original names of the weights, positions left out, to names in our module."""
    names = dict(_OUTER)
    for i in range(checkpoint.architecture["n_layers"]):
        names |= {f"performer.net.layers.{i}.{part}": f"encoder.layers.{i}.{ours}" for part, ours in _LAYER.items()}
    if checkpoint.has_expression_head:
        names |= _EXPRESSION_HEAD
    if checkpoint.has_classifier:
        names |= _CLASSIFIER
    return names


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Path -> weights by name, without wrappers and without the second copy of the layers."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file. Pass the checkpoint that torch.save wrote.")
    try:
        saved: Any = load_restricted(path)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than plain weights, or is no file of torch.save, and was not opened, because that could "
            f"run code ({first_line(error)}). If you trust it, save the weights alone: "
            'torch.save(torch.load(path, weights_only=False)["model_state_dict"], new_path).'
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # damage can surface anywhere in torch, zipfile and pickle
        raise ValueError(
            f"{path} is damaged or no file of torch.save ({type(error).__name__}). Fetch a complete copy of it."
        ) from error
    if isinstance(saved, dict):
        saved = next((saved[key] for key in _STATE_KEYS if key in saved), saved)
    if not isinstance(saved, dict) or not saved or not all(isinstance(weight, Tensor) for weight in saved.values()):
        raise ValueError(
            f"{path} holds no weights by name. Allowed: a dictionary of tensors, alone or under one of the keys "
            f"{', '.join(map(repr, _STATE_KEYS))}."
        )
    weights = {_unwrapped(name): weight for name, weight in saved.items()}
    return {name: weight for name, weight in weights.items() if not _is_copy(name, weights)}


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _is_copy(name: str, weights: dict[str, Tensor]) -> bool:
    if name == f"{_UPDATER}calls_since_last_redraw":
        return True
    return name.startswith(f"{_UPDATER}instance.") and name.replace("proj_updater.instance", "net") in weights
