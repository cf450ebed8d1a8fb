"""The weights of a trained model as JAX wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transanno.saving._export import ExportedModel


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["architecture", "has_others"])
@dataclass(frozen=True)
class Weights:
    """Weights of a network: a pytree of arrays, so that they can be differentiated, mapped over and put on devices."""

    arrays: Mapping[str, jax.Array]
    """by their names in the network; the last row of ``"batch_embedding.weight"`` is that of an unknown batch"""
    architecture: tuple[tuple[str, Any], ...]
    """arguments of the network, see :class:`transanno.nn.Architecture`"""
    has_others: bool
    """whether the last column of counts is that of all other genes: part of a cell's total, and nothing else"""

    @classmethod
    def of(cls, exported: ExportedModel) -> Weights:
        arrays = dict(exported.weights)
        batches = [arrays.pop("batch_embedding.weight"), arrays.pop("unknown_batch")[None, :]]
        arrays["batch_embedding.weight"] = np.concatenate(batches)
        return cls(
            {name: jnp.asarray(array) for name, array in arrays.items()},
            tuple(sorted(exported.architecture.items())),
            not exported.is_gene.all(),
        )


def part_of(arrays: Mapping[str, jax.Array], name: str) -> dict[str, jax.Array]:
    """Weights of one part of the network, by their names in it."""
    start = f"{name}."
    return {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}


def parts_of(arrays: Mapping[str, jax.Array], name: str) -> list[dict[str, jax.Array]]:
    """The same of parts that are numbered."""
    numbers = {int(key.split(".")[0]) for key in part_of(arrays, name)}
    return [part_of(arrays, f"{name}.{number}") for number in sorted(numbers)]
