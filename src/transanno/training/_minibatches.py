"""The minibatches of a loader, and its first cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

Minibatch = dict[str, torch.Tensor]


def training_minibatches(data_module: Any) -> Iterator[Minibatch]:
    """Minibatches of a Lightning data module as it hands them on: those of scvi-tools make tensors of them only then."""
    return _handed_on(data_module, data_module.train_dataloader())


def validation_minibatches(data_module: Any) -> Iterator[Minibatch]:
    """The same of its validation cells; none if it holds none out."""
    return _handed_on(data_module, data_module.val_dataloader() or ())


def _handed_on(data_module: Any, minibatches: Iterable[Any]) -> Iterator[Minibatch]:
    return (data_module.on_before_batch_transfer(minibatch, 0) for minibatch in minibatches)


def first_rows(minibatches: Iterable[Minibatch], n_obs: int, *keys: str) -> Minibatch:
    """First cells of a loader -> tensors ``(≤ n_obs + one minibatch, ...)`` of these keys, dense."""
    parts: list[list[torch.Tensor]] = []
    n_found = 0
    for tensors in minibatches:
        parts.append(
            [tensors[key].to_dense() if tensors[key].layout != torch.strided else tensors[key] for key in keys]
        )
        n_found += len(parts[-1][0])
        if n_found >= n_obs:
            break
    return {key: torch.cat(found).float() for key, found in zip(keys, zip(*parts, strict=True), strict=True)}
